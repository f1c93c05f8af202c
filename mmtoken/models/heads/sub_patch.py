"""A linear head with several predictions inside each patch, for structures finer than a patch."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmtoken.registry import MODELS


@MODELS.register_module()
class SubPatchHead(BaseDecodeHead):
    """Classifies s × s sub-patches of each patch by one linear map of its token.

    With the token ``x[h, w]`` of a patch and K classes, ``out[k, h·s + i, w·s + j] = W[k, i, j] · norm(x[h, w]) + b``.

    Args:
        in_channels (int): Width C of the feature map.
        sub_patch (int): s, predictions along each side of a patch. Defaults to 7.
        norm_cfg (dict, optional): Norm in front of the linear map, such as ``dict(type='BN')``, which DINOv2's linear
            heads have. Defaults to None.
        dropout_ratio (float): Dropout of whole channels, in [0, 1). Defaults to 0.
        **kwargs: Those of mmseg's ``BaseDecodeHead``.

    Raises:
        ValueError: If ``sub_patch`` is no integer from 1 on, or several taps are selected without being joined.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        *,
        sub_patch: int = 7,
        norm_cfg: dict | None = None,
        dropout_ratio: float = 0.0,
        **kwargs,
    ):
        if not isinstance(sub_patch, int) or sub_patch < 1:
            raise ValueError(f'sub_patch={sub_patch!r} of SubPatchHead must be an integer >= 1.')
        if kwargs.get('input_transform') == 'multiple_select':
            raise ValueError("SubPatchHead reads one map; join taps with input_transform='resize_concat'.")
        channels = in_channels if isinstance(in_channels, int) else sum(in_channels)
        if kwargs.pop('channels', channels) != channels:
            raise ValueError(f'SubPatchHead has no hidden layer; leave channels out (it is in_channels={channels}).')
        super().__init__(in_channels, channels, norm_cfg=norm_cfg, dropout_ratio=dropout_ratio, **kwargs)
        self.sub_patch = sub_patch
        self.norm = build_norm_layer(norm_cfg, channels)[1] if norm_cfg else nn.Identity()
        self.conv_seg = nn.Conv2d(channels, self.out_channels * sub_patch**2, kernel_size=1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns logits ``(B, K, h·s, w·s)`` of feature maps ``(B, C, h, w)``."""
        return F.pixel_shuffle(self.cls_seg(self.norm(self._transform_inputs(inputs))), self.sub_patch)
