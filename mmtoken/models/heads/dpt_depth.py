"""DPT's head for depth in metres."""

from collections.abc import Sequence

import torch
from mmseg.models.decode_heads import DPTHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmtoken.core.arguments import check_number
from mmtoken.registry import MODELS

#: Channels in front of the last convolution (DPT, supplement, "monocular depth estimation").
LAST = 32


@MODELS.register_module()
class DPTDepthHead(DPTHead):
    """Predicts depth from four taps of a plain ViT (DPT, ICCV 2021, arXiv 2103.13413).

    Reassembling and fusion are those of mmseg's ``DPTHead`` and keep its parameter names: the taps become maps of 4, 2,
    1 and 1/2 times the token grid, which residual units join from the coarsest to the finest. The output is the paper's
    for depth: convolution to half of the channels, bilinear ×2, convolution to 32 channels, ReLU, 1 × 1 convolution;
    16 predictions along each side of a patch. The paper's depth has no unit. This one is metric, as mmseg's
    ``VPDDepthHead`` makes it: ``depth = min + (max - min) · sigmoid(out)``.

    Args:
        max_depth (float): Largest depth, in metres. Defaults to 10, for rooms.
        min_depth (float): Smallest depth, in metres. Defaults to 0.001.
        embed_dims (int): Width of the backbone. Defaults to 768.
        channels (int): Width of the fusion. Defaults to 256.
        loss_decode (dict): Defaults to mmseg's ``SiLogLoss``.
        dropout_ratio (float): Of channels before the last convolution. Defaults to 0.
        **kwargs: Those of mmseg's ``DPTHead``. ``readout_type`` other than ``ignore`` needs
            ``backbone.output_cls_token=True``.

    Raises:
        ValueError: If the depths do not satisfy 0 < min < max.
    """

    def __init__(
        self,
        max_depth: float = 10.0,
        min_depth: float = 1e-3,
        embed_dims: int = 768,
        channels: int = 256,
        loss_decode: dict | Sequence[dict] | None = None,
        dropout_ratio: float = 0.0,
        **kwargs,
    ):
        check_number('decode_head.max_depth', max_depth, 0, above=True)
        self.depths = check_number('decode_head.min_depth', min_depth, 0, max_depth, above=True, below=True), max_depth
        kwargs = dict(in_channels=[embed_dims] * 4, in_index=(0, 1, 2, 3), num_classes=1) | kwargs
        super().__init__(
            embed_dims=embed_dims,
            channels=channels,
            input_transform='multiple_select',
            threshold=0.0,  # of label maps; upstream warns if there is none
            loss_decode=loss_decode or dict(type='mmseg.SiLogLoss'),
            dropout_ratio=dropout_ratio,
            **kwargs,
        )
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=self.align_corners),
            nn.Conv2d(channels // 2, LAST, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.conv_seg = nn.Conv2d(LAST, 1, 1)

    def forward(self, inputs: Sequence) -> Tensor:
        """Returns depth ``(B, 1, 16h, 16w)`` in metres; as upstream, for an odd side that of the next even one.

        Args:
            inputs (Sequence): Four taps, each a map ``(B, C, h, w)`` or ``[map, class token (B, C)]``.

        Raises:
            ValueError: If the readout needs a class token that the backbone does not give.
        """
        taps = [tap if isinstance(tap, (list, tuple)) else (tap, None) for tap in inputs]
        readout = self.reassemble_blocks.readout_type
        if readout != 'ignore' and any(token is None for _, token in taps):
            raise ValueError(
                f'decode_head.readout_type={readout!r} needs the class token: set backbone.output_cls_token=True, or '
                "readout_type='ignore'."
            )
        low, high = self.depths
        return low + (high - low) * super().forward(taps).float().sigmoid()  # bf16 is too coarse for metres

    def loss_by_feat(self, depth: Tensor, samples: list) -> dict[str, Tensor]:
        """Returns the losses of a depth map at the size of the measured one.

        Args:
            depth (Tensor): ``(B, 1, H, W)``, in metres.
            samples (list[SegDataSample]): With ``gt_depth_map`` ``(1, H', W')`` in metres. Nothing was measured where
                it is 0 or beyond ``max_depth``, as padding is by default (255). A picture of which nothing was measured
                has no say.
        """
        truth = torch.stack([sample.gt_depth_map.data for sample in samples])
        truth = truth.masked_fill(truth > self.depths[1], 0)
        depth = resize(depth, truth.shape[2:], mode='bilinear', align_corners=self.align_corners)
        measured = (truth > 0).flatten(1).any(1)  # of the others, the root in the loss has no derivative
        total = {}
        for loss in self.loss_decode if isinstance(self.loss_decode, nn.ModuleList) else [self.loss_decode]:
            value = loss(depth[measured], truth[measured]) if measured.any() else depth.sum() * 0
            total[loss.loss_name] = total.get(loss.loss_name, 0) + value
        return total
