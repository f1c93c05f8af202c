"""The feature pyramid that ViTDet builds from the last map of a plain ViT (arXiv 2203.16527, section 3)."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmtoken.core.arguments import check_int, check_list
from mmtoken.registry import MODELS


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each position of a map, as ``norm_cfg=dict(type='mmtoken.LayerNorm2d')``.

    Args:
        num_features (int): Channels C.
        eps (float): Added to the variance. Defaults to 1e-6; mmcv passes 1e-5 where ``norm_cfg`` has none.
    """

    def __init__(self, num_features: int, eps: float = 1e-6):
        super().__init__(num_features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised map ``(B, C, h, w)``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Makes a pyramid of maps from one map of a plain ViT, for the heads of mmdet and mmseg.

    A level of scale 2^k is made by k transposed convolutions of stride 2, each of which halves the channels, with a
    norm and a GELU between them; one of scale 2^-k by max pooling over 2^k. Each level then gets a 1×1 and a 3×3
    convolution, each with a norm. Levels do not see each other.

    With a patch of 16 pixels, the default gives strides 4, 8, 16, 32 and 64; with one of 14, 3.5, 7, 14, 28 and 56.

    Args:
        in_channels (int): Channels C of the map.
        out_channels (int): Channels D of each level. Defaults to 256.
        scales (Sequence[float]): Scale of each level, falling powers of two. Defaults to (4, 2, 1, 0.5).
        num_outs (int, optional): Levels in all; those beyond the scales take every second position of the one before.
            Defaults to one more than there are scales, as in ViTDet.
        norm_cfg (dict, optional): Norm of each convolution. Defaults to ``dict(type='mmtoken.LayerNorm2d', eps=1e-6)``.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: In one line that names the argument and what would be right.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        check_int('neck.in_channels', in_channels, 1)
        check_int('neck.out_channels', out_channels, 1)
        self.steps = check_scales(scales)
        if in_channels % 2 ** max(*self.steps, 0):
            raise ValueError(
                f'neck.scales={list(scales)}: each doubling halves the channels, and neck.in_channels={in_channels} '
                'cannot be halved that often; take smaller scales.'
            )
        self.num_outs = check_int('neck.num_outs', len(scales) + 1 if num_outs is None else num_outs, len(scales))
        norm_cfg = dict(type='mmtoken.LayerNorm2d', eps=1e-6) if norm_cfg is None else norm_cfg
        self.resize = nn.ModuleList(resize(in_channels, step, norm_cfg) for step in self.steps)
        self.lateral_convs = nn.ModuleList(
            ConvModule(in_channels >> max(step, 0), out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
            for step in self.steps
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None) for _ in self.steps
        )

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns the pyramid.

        Args:
            inputs (Tensor | Sequence[Tensor]): The map ``(B, C, h, w)``, alone or as the only one of a backbone.

        Returns:
            tuple[Tensor]: ``(B, D, h·scale, w·scale)`` for each level, rounded up where the scale is below 1.

        Raises:
            ValueError: If the backbone gives several maps.
        """
        if not isinstance(inputs, Tensor):
            if len(inputs) != 1:
                raise ValueError(
                    f'SimpleFPN makes its pyramid from one map, and the backbone gives {len(inputs)}; set '
                    'backbone.out_indices to the last block.'
                )
            inputs = inputs[0]
        outs = [
            smooth(lateral(scaled(inputs)))
            for scaled, lateral, smooth in zip(self.resize, self.lateral_convs, self.fpn_convs)
        ]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


def check_scales(scales: Sequence[float]) -> list[int]:
    """Returns the doublings of each level: k of 2^k.

    Raises:
        ValueError: If a scale is no power of two between 1/16 and 16, or the scales do not fall.
    """
    powers = {2.0**k: k for k in range(-4, 5)}
    listed = check_list('neck.scales', scales)
    if not listed or not all(isinstance(scale, (int, float)) and scale in powers for scale in listed):
        raise ValueError(f'neck.scales={scales!r} must be powers of two, such as (4, 2, 1, 0.5).')
    if any(one <= following for one, following in zip(listed, listed[1:])):
        raise ValueError(f'neck.scales={scales!r} must fall: the finest level comes first.')
    return [powers[scale] for scale in listed]


def resize(channels: int, step: int, norm_cfg: dict) -> nn.Module:
    """Returns what scales a map ``(B, C, h, w)`` by 2^step, to ``C / 2^step`` channels where that enlarges it."""
    if step < 0:
        # odd sides keep their last row, as with the strided convolutions of other pyramids
        return nn.MaxPool2d(2**-step, ceil_mode=True)
    layers: list[nn.Module] = []
    for i in range(step):
        if i:
            layers += [build_norm_layer(norm_cfg, channels)[1], nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    return nn.Sequential(*layers)
