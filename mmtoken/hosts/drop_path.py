"""Stochastic depth that drops images, in a packed batch too."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmtoken.core import Packing

_packing: ContextVar[Packing | None] = ContextVar('packing', default=None)


@contextmanager
def images_of(packing: Packing | None) -> Iterator[None]:
    """Inside, rows ``(ΣL, C)`` belong to the images of ``packing``."""
    token = _packing.set(packing)
    try:
        yield
    finally:
        _packing.reset(token)


class ImageDropPath(DropPath):
    """mmcv's ``DropPath`` draws one number for each entry of the first dimension; this one, for each image."""

    def forward(self, x: Tensor) -> Tensor:
        packing = _packing.get()
        if packing is None or not self.training or not self.drop_prob:
            return super().forward(x)
        keep = 1 - self.drop_prob
        draw = torch.rand(len(packing), 1, dtype=x.dtype, device=x.device).add(keep).floor()
        return x.div(keep) * draw[packing.image]


def drop_images(module: nn.Module) -> None:
    """Replaces every ``DropPath`` inside ``module``."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is DropPath:
                setattr(parent, name, ImageDropPath(child.drop_prob))
