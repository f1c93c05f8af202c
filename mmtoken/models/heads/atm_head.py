"""SegViT's decode heads (arXiv 2210.05844, 2306.06289) for mmseg: a cascade over taps, and one decoder on one tap."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmtoken.registry import MODELS

from .atm import ATMDecoder, ATMStage, at_least_single, init_linear, token_scores
from .atm_loss import ATMLoss


def _to_tokens(x: Tensor) -> Tensor:
    """Returns a map ``(B, C, h, w)`` as tokens ``(B, h·w, C)``."""
    return x.flatten(2).transpose(1, 2)


def _to_map(x: Tensor, like: Tensor) -> Tensor:
    """Returns tokens ``(B, h·w, K)`` as a map ``(B, K, h, w)`` on the raster of ``like``."""
    return x.transpose(1, 2).unflatten(2, like.shape[-2:])


class BaseATMHead(BaseDecodeHead):
    """Base of both heads: checks of arguments, and the losses.

    Args:
        in_channels (int | Sequence[int]): Width of the feature maps.
        channels (int): Width d of the decoder.
        num_classes (int): K, at least 2.
        num_heads (int): Attention heads; they divide d.
        dropout_ratio (float): Dropout of attention weights, in [0, 1). Defaults to 0.1.
        loss_decode (dict): An ``mmtoken.ATMLoss``.
        **kwargs: Those of mmseg's ``BaseDecodeHead``; ``sampler`` is refused.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        channels: int,
        *,
        num_classes: int,
        dropout_ratio: float = 0.1,
        loss_decode: dict | None = None,
        init_cfg: dict | None = None,
        **kwargs,
    ):
        name = type(self).__name__
        if num_classes < 2 or kwargs.get('out_channels', num_classes) not in (None, num_classes):
            raise ValueError(
                f'{name} gives a score for each class: num_classes={num_classes} with out_channels='
                f'{kwargs.get("out_channels")} must be at least 2, and out_channels left out.'
            )
        if kwargs.get('sampler') is not None:
            raise ValueError(f'{name} takes no pixel sampler: ATMLoss weighs masks, not pixels; leave sampler out.')
        loss_decode = dict(type='mmtoken.ATMLoss') if loss_decode is None else loss_decode
        super().__init__(
            in_channels,
            channels,
            num_classes=num_classes,
            dropout_ratio=dropout_ratio,
            loss_decode=loss_decode,
            init_cfg=init_cfg,
            **kwargs,
        )
        if not isinstance(self.loss_decode, ATMLoss):
            raise ValueError(
                f"{name} learns from loss_decode=dict(type='mmtoken.ATMLoss'), not from "
                f'{type(self.loss_decode).__name__}.'
            )
        del self.conv_seg  # the attention itself is the classifier
        self.dropout = None

    def decode(self, inputs: Sequence[Tensor], every: bool) -> list[tuple[Tensor, Tensor]]:
        """Runs the decoder on the backbone's feature maps.

        Args:
            inputs (Sequence[Tensor]): Feature maps ``(B, C, h, w)``.
            every (bool): Return the output of each supervised step instead of the last one only.

        Returns:
            list[tuple[Tensor, Tensor]]: Mask logits ``(B, K, h, w)`` and class logits ``(B, K, ·)``.
        """
        raise NotImplementedError

    def scores(self, mask_logits: Tensor, class_logits: Tensor) -> Tensor:
        """Returns scores of classes ``(B, K, h, w)``, not below 0, for one output of :meth:`decode`, at any size."""
        raise NotImplementedError

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list, train_cfg: dict | None = None) -> dict:
        return self.loss_by_feat(self.decode(inputs, every=True), batch_data_samples)

    def loss_by_feat(self, outputs: list[tuple[Tensor, Tensor]], batch_data_samples: list) -> dict[str, Tensor]:
        """Returns the losses of each supervised step, and the accuracy at patch centres.

        The losses of all steps but the last are named ``d0.…``, ``d1.…`` and so on.

        Args:
            outputs (list): Output of :meth:`decode`.
            batch_data_samples (list[SegDataSample]): With ``gt_sem_seg``.
        """
        if isinstance(outputs, Tensor):
            raise ValueError(
                f"{type(self).__name__} learns from mask and class logits, which restore='late' cannot "
                "restore; train with restore='feature' and switch to 'late' at test time."
            )
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
        losses = {}
        for i, output in enumerate(outputs):
            loss = self.loss_decode(*output, labels, self.ignore_index, self.align_corners)
            losses.update(loss if i == len(outputs) - 1 else add_prefix(loss, f'd{i}'))
        with torch.no_grad():
            scores = self.scores(*outputs[-1])
            coarse = F.interpolate(labels[:, None].float(), scores.shape[-2:], mode='nearest-exact')[:, 0].long()
            losses['acc_seg'] = accuracy(scores, coarse, ignore_index=self.ignore_index)
        return losses


@MODELS.register_module()
class ATMHead(BaseATMHead):
    """SegViT's cascade: the queries go from the deepest tap to the shallowest, the masks of all taps are added.

    ``out[c, p] = Σ_q softmax(class)[q, c] · sigmoid(Σ_taps A[q, p])``, with the mask logits A resized to the image
    first. Queries are summed, so scores are not below 0, but may exceed 1. Each step of the cascade is supervised by
    the sum so far.

    Args:
        in_channels (Sequence[int]): Width of the map of each tap.
        channels (int): Width d of the decoder.
        in_index (Sequence[int]): The taps among the backbone's outputs, shallow to deep.
        num_layers (int): Decoder layers of each tap. Defaults to 3.
        num_heads (int): Attention heads; they divide d. Defaults to 8.
        query_attention (bool): Whether the queries attend to one another. Defaults to True.
        **kwargs: See :class:`BaseATMHead`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        in_index: Sequence[int] = (0, 1, 2),
        num_layers: int = 3,
        num_heads: int = 8,
        query_attention: bool = True,
        **kwargs,
    ):
        listed = isinstance(in_channels, (list, tuple)) and isinstance(in_index, (list, tuple))
        if not listed or len(in_channels) != len(in_index) or not in_index:
            raise ValueError(
                f'ATMHead needs one of in_channels for each tap of in_index, not '
                f'in_channels={in_channels} and in_index={in_index}.'
            )
        if kwargs.pop('input_transform', 'multiple_select') != 'multiple_select':
            raise ValueError('ATMHead reads each tap by itself; leave input_transform out, or use ATMSingleHead.')
        super().__init__(in_channels, channels, in_index=in_index, input_transform='multiple_select', **kwargs)
        #: One for each tap, in the order of the cascade: deepest first.
        self.stages = nn.ModuleList(
            ATMStage(width, channels, num_layers, num_heads, self.dropout_ratio, query_attention)
            for width in reversed(in_channels)
        )
        self.queries = nn.Parameter(torch.randn(self.num_classes, channels))
        self.classify = nn.Linear(channels, self.num_classes + 1)
        init_linear(self.classify)

    def decode(self, inputs, every):
        maps = self._transform_inputs(inputs)[::-1]
        if any(x.shape[-2:] != maps[0].shape[-2:] for x in maps):
            raise ValueError(
                'ATMHead adds the masks of its taps, so their maps must have one size, not '
                f'{[tuple(x.shape[-2:]) for x in maps]}; leave out necks that rescale.'
            )
        queries, masks, steps = self.queries.expand(len(maps[0]), -1, -1), 0, []
        for stage, x in zip(self.stages, maps):
            (queries,), (own,) = stage(queries, _to_tokens(x))
            masks = masks + own
            steps.append((masks, queries))
        return [(_to_map(masks, maps[0]), self.classify(queries)) for masks, queries in steps[0 if every else -1 :]]

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns mask logits ``(B, K, h, w)`` and class logits ``(B, K, K+1)``; scores come after the resize."""
        return self.decode(inputs, every=False)[-1]

    def scores(self, mask_logits, class_logits):
        shares = at_least_single(class_logits).softmax(-1)[..., :-1]
        return torch.einsum('bqc,bqhw->bchw', shares, at_least_single(mask_logits).sigmoid())

    def predict_by_feat(self, seg_logits: tuple[Tensor, Tensor], batch_img_metas: list[dict]) -> Tensor:
        mask_logits, class_logits = seg_logits
        return self.scores(super().predict_by_feat(at_least_single(mask_logits), batch_img_metas), class_logits)


@MODELS.register_module()
class ATMSingleHead(BaseATMHead):
    """One decoder on one tap, as in SegViT v2 and at the exits of DToP (arXiv 2308.01045): each class by itself.

    ``out[c, n] = softmax(class)[c, present] · sigmoid(A[n, c])`` at token n, resized to the image.

    Args:
        in_channels (int): Width of the feature map.
        channels (int): Width d of the decoder.
        num_layers (int): Decoder layers. Defaults to 3.
        num_heads (int): Attention heads; they divide d. Defaults to 8.
        query_attention (bool): Whether the queries attend to one another. Defaults to True.
        deep_supervision (bool): Whether each decoder layer is supervised, as in SegViT v2, or only the last, as in
            DToP. Defaults to False.
        **kwargs: See :class:`BaseATMHead`; ``in_index`` is the tap.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        num_layers: int = 3,
        num_heads: int = 8,
        query_attention: bool = True,
        deep_supervision: bool = False,
        **kwargs,
    ):
        if kwargs.get('input_transform') is None and not (
            isinstance(in_channels, int) and isinstance(kwargs.get('in_index', -1), int)
        ):
            raise ValueError(
                f'ATMSingleHead reads one tap, not in_channels={in_channels} and in_index='
                f'{kwargs.get("in_index", -1)}; give one of each, or use ATMHead.'
            )
        if kwargs.get('input_transform') == 'multiple_select':
            raise ValueError("ATMSingleHead reads one map; leave out input_transform='multiple_select' or use ATMHead.")
        super().__init__(in_channels, channels, **kwargs)
        self.deep_supervision = deep_supervision
        self.decoder = ATMDecoder(
            self.in_channels, self.num_classes, channels, num_layers, num_heads, self.dropout_ratio, query_attention
        )

    def decode(self, inputs, every):
        x = self._transform_inputs(inputs)
        layers = self.decoder.every_layer(_to_tokens(x), every=every and self.deep_supervision)
        return [(_to_map(masks, x), classes) for masks, classes in layers]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns scores of classes in [0, 1], ``(B, K, h, w)``."""
        return self.scores(*self.decode(inputs, every=False)[-1])

    def scores(self, mask_logits, class_logits):
        return _to_map(token_scores(_to_tokens(mask_logits), class_logits), mask_logits)
