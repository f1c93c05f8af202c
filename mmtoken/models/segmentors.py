"""mmseg's segmentors, with what a reducer needs from them and nothing else."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmtoken.core import Reducer
from mmtoken.hosts import Features, TokenHost, method_of
from mmtoken.registry import MODELS

from .distill import Teacher


def hand_over(backbone: dict, heads: dict | Sequence[dict] | None) -> tuple[dict, bool]:
    """Gives the configs of a model's auxiliary heads to the first reducer that takes them and has none.

    Args:
        backbone (dict): Config of the backbone.
        heads (dict | Sequence[dict], optional): Configs of the auxiliary heads.

    Returns:
        tuple[dict, bool]: Config of the backbone, and whether the heads are in it now.
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


class TokenSegmentorMixin:
    """Lets a reducer complete the head's logits, adds its losses, and turns auxiliary heads into exit heads.

    Args:
        teacher (dict, optional): Learn from the dense model too: arguments of :class:`mmtoken.models.distill.Teacher`,
            such as ``dict(checkpoint='dense.pth')``.
        *args, **kwargs: Those of the stock class.
    """

    def __init__(self, backbone: dict, *args, auxiliary_head=None, teacher: dict | None = None, **kwargs):
        dense = {key: value for key, value in backbone.items() if key != 'reducer'}
        backbone, taken = hand_over(backbone, None if kwargs.get('neck') else auxiliary_head)
        super().__init__(backbone, *args, auxiliary_head=None if taken else auxiliary_head, **kwargs)
        self.teacher = None
        if teacher is not None:
            self.teacher = Teacher(partial(type(self), ConfigDict(dense), *args, **kwargs), **teacher)
        #: Names of auxiliary heads in the stock model's checkpoint, and where the same parameters live here.
        self.moved: dict[str, str] = {}
        reducer = getattr(self.backbone, 'reducer', None)
        if isinstance(self.backbone, TokenHost):
            self.backbone.completed = True
        if reducer is not None:
            reducer.bind_model(self)
        if taken:
            name, taker = next(
                (name, m)
                for name, m in self.named_modules()
                if isinstance(m, Reducer) and getattr(m, 'sources', None) is not None
            )
            for to, source in enumerate(taker.sources):
                number = '' if isinstance(auxiliary_head, dict) else f'{source}.'
                self.moved[f'auxiliary_head.{number}'] = f'{name}.{taker.auxiliary}.{to}.'

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs):
        """Takes the weights of exit heads from the auxiliary heads of a stock checkpoint, where it has no others."""
        for old, new in self.moved.items():
            for key in [key for key in state_dict if key.startswith(prefix + old)]:
                value = state_dict.pop(key)
                state_dict.setdefault(prefix + new + key[len(prefix + old) :], value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extract_feat(self, inputs: Tensor) -> tuple:
        """Feature maps of the backbone, through the neck if there is one, the token state with them."""
        feats = self.backbone(inputs)
        if not self.with_neck:
            return feats
        outs = self.neck(feats)
        if isinstance(feats, Features):
            outs, state = Features(outs), feats.state
            outs.state = state
        return outs

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        feats = self.extract_feat(inputs)
        if not self.completes(self.decode_head, feats):
            return self.decode_head.predict(feats, batch_img_metas, self.test_cfg)
        return self.decode_head.predict_by_feat(self.head_output(self.decode_head, feats), batch_img_metas)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        feats = self.extract_feat(inputs)
        heads = dict(decode=self.decode_head)
        if self.with_auxiliary_head:
            many = isinstance(self.auxiliary_head, nn.ModuleList)
            heads.update(
                {f'aux_{i}': head for i, head in enumerate(self.auxiliary_head)}
                if many
                else dict(aux=self.auxiliary_head)
            )
        losses = {}
        for name, head in heads.items():
            taught = self.teacher is not None and head is self.decode_head
            if taught or self.completes(head, feats):
                output = self.head_output(head, feats)
                if taught:
                    losses.update(add_prefix(self.teacher.losses(inputs, feats, output), 'teacher'))
                loss = head.loss_by_feat(output, data_samples)
            else:
                loss = head.loss(feats, data_samples, self.train_cfg)
            losses.update(add_prefix(loss, name))
        if isinstance(feats, Features):
            losses.update(add_prefix(self.backbone.reducer.losses(feats.state, data_samples), 'reducer'))
        return losses

    def _forward(self, inputs: Tensor, data_samples=None) -> Tensor:
        return self.head_output(self.decode_head, self.extract_feat(inputs))

    def completes(self, head: nn.Module, feats: tuple) -> bool:
        """Whether the reducer completes what a head makes of these feature maps: the decode head's, and those of all
        heads if the maps lie on reduced tokens.
        """
        if not isinstance(feats, Features) or not self.backbone.reducer.completes:
            return False
        return head is self.decode_head or self.backbone.reducer.late

    def head_output(self, head: nn.Module, feats: tuple) -> Any:
        """What a head's ``predict_by_feat`` and ``loss_by_feat`` take, on the full patch grid: mostly logits
        ``(B, classes, H, W)``.
        """
        if self.completes(head, feats):
            return self.backbone.reducer.complete(feats.state, head, feats)
        return head.forward(feats)


@MODELS.register_module()
class TokenEncoderDecoder(TokenSegmentorMixin, EncoderDecoder):
    """mmseg's ``EncoderDecoder`` for reducers with losses or exit heads, or with ``restore='late'``."""
