"""Detectors of mmdet that serve token reducers: they pass the padding of a batch on, and add losses."""

from typing import Any

import torch
from mmdet.models import detectors as stock
from torch import Tensor, nn

from mmtoken.core import TokenHost
from mmtoken.registry import MODELS

from .mixin import TokenModelMixin

__all__ = []

#: Detectors of mmdet that are registered as ``mmtoken.Token…``.
DETECTORS = ('RetinaNet', 'FasterRCNN', 'MaskRCNN', 'CascadeRCNN', 'FCOS', 'ATSS', 'Mask2Former', 'DINO')


def in_float(module: nn.Module, args: tuple, outs: Any) -> Any:
    """Returns outputs of a module with half-precision tensors in fp32; a forward hook.

    mmdet makes anchors and boxes in the type of the maps. A coordinate above 512 in bf16 is a multiple of 4 pixels.
    """
    if isinstance(outs, Tensor):
        return outs.float() if outs.dtype in (torch.float16, torch.bfloat16) else outs
    if type(outs) in (tuple, list):
        return type(outs)(in_float(module, args, out) for out in outs)
    return outs


class TokenDetectorMixin(TokenModelMixin):
    """Mixin over a detector whose backbone has a token reducer; under autocast, boxes stay in fp32.

    Args:
        *args: Those of the stock class.
        **kwargs: Those of the stock class.

    Raises:
        ValueError: If the reducer finishes the output of a segmentation head, or if pictures may be stretched to whole
            patches, which moves the boxes.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bind_reducer()
        for name, part in self.named_modules():
            if name == 'neck' or hasattr(part, 'predict_by_feat'):
                part.register_forward_hook(in_float)
        host = self.backbone
        if isinstance(host, TokenHost) and host.fit == 'resize':
            divisor = getattr(self.data_preprocessor, 'pad_size_divisor', 1)
            if divisor % host.patch_size:
                raise ValueError(
                    "backbone.fit='resize' stretches pictures whose sides are no multiple of the patch, and boxes are "
                    f"read off the map by its stride; set backbone.fit='{'pad' if host.pads else 'crop'}', or "
                    f'data_preprocessor.pad_size_divisor={host.patch_size}.'
                )
        if self.reducer is not None and self.reducer.finishes:
            raise ValueError(
                f'reducer: {self.reducer.finishes}, which only a segmentor can finish; take a method that gives out '
                'full maps, such as mmtoken.ToMe.'
            )


for _name in DETECTORS:
    _doc = f"mmdet's ``{_name}`` for a backbone with a token reducer; takes its arguments and loads its checkpoints."
    _class = type(f'Token{_name}', (TokenDetectorMixin, getattr(stock, _name)), dict(__doc__=_doc, __module__=__name__))
    globals()[_class.__name__] = MODELS.register_module()(_class)
    __all__.append(_class.__name__)
