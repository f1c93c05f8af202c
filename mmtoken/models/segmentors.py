"""Segmentors and depth estimators of mmseg that serve token reducers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.models.segmentors import DepthEstimator, EncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor, cat, nn

from mmtoken.core import method_of
from mmtoken.registry import MODELS

from .distill import Teacher
from .mixin import TokenModelMixin, sizes_of


def hand_over(backbone: dict, heads: dict | Sequence[dict] | None) -> tuple[dict, bool]:
    """Gives the configs of a model's auxiliary heads to the first reducer that takes heads and has none.

    Args:
        backbone (dict): Config of the backbone.
        heads (dict | Sequence[dict], optional): Configs of the auxiliary heads.

    Returns:
        tuple[dict, bool]: Config of the backbone, and whether it got the heads.
    """
    reducer = backbone.get('reducer')
    many = isinstance(reducer, (list, tuple))
    cfgs = list(reducer) if many else [reducer]
    for i, cfg in enumerate(cfgs):
        argument = method_of(cfg).auxiliary if isinstance(cfg, dict) else None
        if argument and heads and not cfg.get(argument):
            cfgs[i] = {**cfg, argument: [heads] if isinstance(heads, dict) else list(heads)}
            return ConfigDict({**backbone, 'reducer': cfgs if many else cfgs[i]}), True
    return backbone, False


def sizes_in_crop(crop: Tensor, pictures: Tensor, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the height and width of each picture inside a crop, without padding, in pixels.

    Args:
        crop (Tensor): View of ``pictures``, ``(B, C, h, w)``.
        pictures (Tensor): Padded pictures ``(B, C, H, W)``, contiguous.
        sizes (Sequence[tuple[int, int]]): Height and width of each without padding.

    Returns:
        list[tuple[int, int]]: The whole crop for a picture of which it shows nothing: that output is cut off later, and
        methods need something to go by.
    """
    y, x = divmod(crop.storage_offset() - pictures.storage_offset(), pictures.shape[-1])
    height, width = crop.shape[-2:]
    shown = [(min(max(h - y, 0), height), min(max(w - x, 0), width)) for h, w in sizes]
    return [size if all(size) else (height, width) for size in shown]


class TokenSegmentorMixin(TokenModelMixin):
    """Lets a reducer finish the heads' outputs, adds its losses, and turns auxiliary heads into exit heads.

    Args:
        teacher (dict, optional): Arguments of :class:`mmtoken.models.distill.Teacher`, such as
            ``dict(checkpoint='dense.pth')``, to learn from the dense model too. Defaults to none.
        *args: Those of the stock class.
        **kwargs: Those of the stock class.
    """

    def __init__(self, backbone: dict, *args, auxiliary_head=None, teacher: dict | None = None, **kwargs):
        dense = {key: value for key, value in backbone.items() if key != 'reducer'}
        backbone, taken = hand_over(backbone, None if kwargs.get('neck') else auxiliary_head)
        super().__init__(backbone, *args, auxiliary_head=None if taken else auxiliary_head, **kwargs)
        # Upstream says that this is the default, and fails without it.
        self.test_cfg = ConfigDict({'mode': 'whole', **(self.test_cfg or {})})
        self.teacher = None
        if teacher is not None:
            self.teacher = Teacher(partial(type(self), ConfigDict(dense), *args, **kwargs), **teacher)
        moved = self.bind_reducer()
        if isinstance(auxiliary_head, dict):  # a single head has no number in a checkpoint
            moved = {old.replace('auxiliary_head.0.', 'auxiliary_head.'): new for old, new in moved.items()}
        #: For auxiliary heads: prefixes of names in the stock model's checkpoint → prefixes of names here.
        self.moved: dict[str, str] = moved if taken else {}

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs):
        """Loads exit heads from the auxiliary heads of a stock checkpoint, if it holds no exit heads."""
        for old, new in self.moved.items():
            for key in [key for key in state_dict if key.startswith(prefix + old)]:
                value = state_dict.pop(key)
                state_dict.setdefault(prefix + new + key[len(prefix + old) :], value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    #: During slide inference: the padded pictures, and the sizes that they have without padding.
    slid: tuple[Tensor, list[tuple[int, int]]] | None = None

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Returns the logits of the stock model; the backbone gets the padding that each crop shows."""
        inputs = inputs.contiguous()
        self.slid = inputs, sizes_of(batch_img_metas, inputs)
        try:
            return super().slide_inference(inputs, batch_img_metas)
        finally:
            self.slid = None

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        served = batch_img_metas
        if self.slid is not None:  # upstream's metas know the size of the crop at most
            served = [dict(img_shape=size) for size in sizes_in_crop(inputs, *self.slid)]
        with self.serving(inputs, served) as states:
            feats = self.extract_feat(inputs)
        if not self.finishes:
            return self.decode_head.predict(feats, batch_img_metas, self.test_cfg)
        output = self.head_output(self.decode_head, feats, states)
        return self.decode_head.predict_by_feat(output, batch_img_metas)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        self.note_progress(inputs, data_samples)
        if self.only_reducer:
            return self.losses_of_reducer_alone(inputs, data_samples)
        with self.serving(inputs, [sample.metainfo for sample in data_samples]) as states:
            feats = self.extract_feat(inputs)
        losses = {}
        for name, head in self.heads().items():
            taught = self.teacher is not None and name == 'decode'
            if taught or self.finishes:
                output = self.head_output(head, feats, states, name)
                if taught:
                    losses.update(add_prefix(self.teacher.losses(inputs, feats, output), 'teacher'))
                loss = head.loss_by_feat(output, data_samples)
            else:
                loss = head.loss(feats, data_samples, self.train_cfg)
            losses.update(add_prefix(loss, name))
        losses.update(self.reducer_losses(states, data_samples))
        return losses

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        return super(TokenModelMixin, self).predict(inputs, data_samples)  # encode_decode() knows the padding

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        with self.serving(inputs, [sample.metainfo for sample in data_samples or ()]) as states:
            feats = self.extract_feat(inputs)
        return self.head_output(self.decode_head, feats, states)

    @property
    def finishes(self) -> bool:
        """Whether the reducer finishes the output of the heads."""
        return self.reducer is not None and bool(self.reducer.finishes)

    def heads(self) -> dict[str, nn.Module]:
        """Returns the heads by the prefix of their losses: ``decode``, then ``aux`` or ``aux_0``, ``aux_1`` etc."""
        heads = dict(decode=self.decode_head)
        if self.with_auxiliary_head:
            auxiliary = self.auxiliary_head
            many = isinstance(auxiliary, nn.ModuleList)
            heads.update({f'aux_{i}': head for i, head in enumerate(auxiliary)} if many else dict(aux=auxiliary))
        return heads

    def head_output(self, head: nn.Module, feats: tuple, states: list, name: str = 'decode') -> Any:
        """Returns the input of a head's ``predict_by_feat`` and ``loss_by_feat``, mostly logits ``(B, K, H, W)``."""
        return self.reducer.finish(states[-1], head, feats, name) if self.finishes else head.forward(feats)


@MODELS.register_module()
class TokenEncoderDecoder(TokenSegmentorMixin, EncoderDecoder):
    """mmseg's ``EncoderDecoder`` for reducers with losses or exit heads, or with ``restore='late'``."""


@MODELS.register_module()
class TokenDepthEstimator(TokenSegmentorMixin, DepthEstimator):
    """mmseg's ``DepthEstimator`` for reducers: it tells them what of a batch is padding, and adds their losses."""

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Returns depth ``(B, 1, H, W)``; upstream's ``slide`` throws its result away and takes the whole picture."""
        if self.test_cfg.mode == 'slide':
            return self.slide_inference(inputs, batch_img_metas)
        return super().inference(inputs, batch_img_metas)

    def slide_flip_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Returns depth ``(B, 1, H, W)``; padded pictures run alone, for mirrored crops have padding on the left."""
        height, width = whole = tuple(inputs.shape[2:])
        sizes = sizes_of(batch_img_metas, inputs)
        if all(size == whole for size in sizes):
            return super().slide_flip_inference(inputs, batch_img_metas)
        depth = []
        for picture, meta, (h, w) in zip(inputs[:, None], batch_img_metas, sizes):
            own = super().slide_flip_inference(picture[..., :h, :w], [dict(meta)])
            depth.append(F.pad(own, (0, width - w, 0, height - h)))
        return cat(depth)
