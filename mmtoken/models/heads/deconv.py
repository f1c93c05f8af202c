"""A head of transposed convolutions on one map."""

from collections.abc import Sequence

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmtoken.core.arguments import check_int
from mmtoken.registry import MODELS


@MODELS.register_module()
class DeconvHead(BaseDecodeHead):
    """Doubles a map by each of several 4 × 4 transposed convolutions, then classifies every place.

    As in *Simple Baselines for Human Pose Estimation* (arXiv 1804.06208), with the parameter names of mmpose's
    ``HeatmapHead``: ``deconv_layers``. Each layer is a transposed convolution of stride 2 and padding 1, batch
    normalisation and ReLU.

    Args:
        in_channels (int): Width C of the feature map.
        deconv_channels (Sequence[int]): Width after each layer. Defaults to (256, 128, 64).
        dropout_ratio (float): Of channels before the classifier. Defaults to 0.
        **kwargs: Those of mmseg's ``BaseDecodeHead``.
    """

    def __init__(
        self,
        in_channels: int,
        deconv_channels: Sequence[int] = (256, 128, 64),
        dropout_ratio: float = 0.0,
        **kwargs,
    ):
        widths = [check_int('decode_head.deconv_channels', width, 1) for width in deconv_channels] or [in_channels]
        if kwargs.pop('channels', widths[-1]) != widths[-1]:
            raise ValueError(f'decode_head.channels is the last of deconv_channels ({widths[-1]}); leave it out.')
        super().__init__(in_channels, widths[-1], dropout_ratio=dropout_ratio, **kwargs)
        layers: list[nn.Module] = []
        for before, width in zip([in_channels, *deconv_channels], deconv_channels):
            layers += [nn.ConvTranspose2d(before, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.deconv_layers = nn.Sequential(*layers)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns logits ``(B, K, 2ⁿh, 2ⁿw)`` of feature maps ``(B, C, h, w)``, for n layers."""
        return self.cls_seg(self.deconv_layers(self._transform_inputs(inputs)))
