"""Stochastic depth that drops images, in a packed batch too."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from .packing import Packing

_packing: ContextVar[Packing | None] = ContextVar('packing', default=None)


@contextmanager
def images_of(packing: Packing | None) -> Iterator[None]:
    """Tells every :class:`ImageDropPath` inside the ``with`` block which image each row ``(ΣL, C)`` belongs to."""
    token = _packing.set(packing)
    try:
        yield
    finally:
        _packing.reset(token)


def drop_images(module: nn.Module) -> None:
    """Replaces every ``DropPath`` inside ``module`` (mmcv's, timm's) by :class:`ImageDropPath`.

    Upstream's draws one number for each entry of the first dimension, which is a token in a packed batch.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == 'DropPath':
                setattr(parent, name, ImageDropPath(child))


class ImageDropPath(nn.Module):
    """A ``DropPath`` that draws one number for each image, in a packed batch too.

    Args:
        stock (nn.Module): The ``DropPath`` that it replaces, with its ``drop_prob``.
    """

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.stock, self.drop_prob = stock, float(getattr(stock, 'drop_prob', None) or 0)

    def forward(self, x: Tensor) -> Tensor:
        """Drops the residual ``x`` of whole images."""
        packing = _packing.get()
        if packing is None or not self.training or not self.drop_prob:
            return self.stock(x)
        keep = 1 - self.drop_prob
        draw = torch.rand(len(packing), 1, dtype=x.dtype, device=x.device).add(keep).floor()
        return x.div(keep) * draw[packing.image]
