"""mmseg's segmentors, with what a reducer needs from them and nothing else."""

from mmseg.models.segmentors import EncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmtoken.hosts import Features, TokenHost
from mmtoken.registry import MODELS


class TokenSegmentorMixin:
    """Adds the losses of a trainable reducer, and restores logits that a head made on reduced tokens."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if isinstance(self.backbone, TokenHost):
            self.backbone.restores_late = True

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
        if not self.is_late(feats):
            return self.decode_head.predict(feats, batch_img_metas, self.test_cfg)
        return self.decode_head.predict_by_feat(self.head_logits(self.decode_head, feats), batch_img_metas)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        feats = self.extract_feat(inputs)
        heads = dict(decode=self.decode_head)
        if self.with_auxiliary_head:
            many = isinstance(self.auxiliary_head, nn.ModuleList)
            heads.update({f'aux_{i}': head for i, head in enumerate(self.auxiliary_head)} if many
                         else dict(aux=self.auxiliary_head))
        losses = {}
        for name, head in heads.items():
            if self.is_late(feats):
                loss = head.loss_by_feat(self.head_logits(head, feats), data_samples)
            else:
                loss = head.loss(feats, data_samples, self.train_cfg)
            losses.update(add_prefix(loss, name))
        if isinstance(feats, Features):
            losses.update(add_prefix(self.backbone.reducer.losses(feats.state, data_samples), 'reducer'))
        return losses

    def _forward(self, inputs: Tensor, data_samples=None) -> Tensor:
        return self.head_logits(self.decode_head, self.extract_feat(inputs))

    def is_late(self, feats: tuple) -> bool:
        """Whether feature maps lie on reduced tokens."""
        return isinstance(feats, Features) and self.backbone.reducer.late

    def head_logits(self, head: nn.Module, feats: tuple) -> Tensor:
        """Logits of a head on the full patch grid ``(B, classes, H, W)``, wherever its input lies.

        Raises:
            ValueError: If a late reducer meets a head that gives no logits for each reduced token.
        """
        logits = head.forward(feats)
        if not self.is_late(feats):
            return logits
        state = feats.state
        if not isinstance(logits, Tensor) or logits.shape[-2:] != tuple(state.raster):
            raise ValueError(f"reducer.restore='late' needs a head with one logit map on the tokens it gets; "
                             f"{type(head).__name__} gives another shape. Set restore='feature'.")
        full = state.dense(logits.flatten(2).transpose(1, 2))
        return full.transpose(1, 2).unflatten(2, state.grid)


@MODELS.register_module()
class TokenEncoderDecoder(TokenSegmentorMixin, EncoderDecoder):
    """mmseg's ``EncoderDecoder`` for reducers with losses, or with ``restore='late'``."""
