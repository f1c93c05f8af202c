"""Exit heads: decode heads of mmseg that run on tokens instead of maps.

An exit head is any decode head of mmseg or mmtoken, built from its usual config, so it trains with its usual losses and
loads the weights of an auxiliary head. There are three kinds, by what a prediction reads:

* *pointwise*: ``FCNHead`` (a linear head with ``num_convs=0``) and ``SETRUPHead`` with 1×1 convolutions. Each token is
  predicted from itself alone, so the head runs on the active tokens. ``SETRUPHead`` is evaluated at the centre of each
  patch, without its upsampling between the convolutions. With one convolution the result is the same, since
  interpolation and a 1×1 classifier commute.
* *attention*: ``ATMSingleHead``, whose class queries attend to the active tokens.
* *map*: any other head. Its convolutions, or norms over an image, read other tokens, so it needs the restored map.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.core import Packing
from mmtoken.models.heads import ATMDecoder, token_scores

#: mmseg's ``BaseDecodeHead``, which brings no types.
DecodeHead = Any


def build_head(cfg: dict, embed_dims: int) -> DecodeHead:
    """Builds an exit head.

    Args:
        cfg (dict): Config of a decode head. ``in_channels`` and ``in_index`` are set here; ``align_corners`` is False
            unless it is given.
        embed_dims (int): Width C of a token.

    Raises:
        ValueError: If the head gives no logit for each of at least two classes.
    """
    if cfg.get('input_transform') is not None or cfg.get('deep_supervision'):
        raise ValueError(
            f'heads: {cfg["type"]} reads the tokens of one block and is supervised once; leave '
            'input_transform and deep_supervision out.'
        )
    cfg = {'align_corners': False, **cfg, 'in_channels': embed_dims, 'in_index': 0}
    from mmengine.registry import MODELS

    head = MODELS.build(cfg)
    if getattr(head, 'out_channels', 0) < 2:
        raise ValueError(
            f'heads: {cfg["type"]} must give a logit for each of two or more classes; set num_classes, '
            'and leave out_channels out.'
        )
    return head


class Kind:
    """What a head reads."""

    @staticmethod
    def predict(head: DecodeHead, tokens: Tensor, packing: Packing) -> tuple[Tensor, Any]:
        """Runs the head on tokens.

        Args:
            head (nn.Module): The decode head.
            tokens (Tensor): Rows ``(Σn, C)``.
            packing (Packing): Rows of each image.

        Returns:
            tuple[Tensor, Any]: Logits ``(Σn, K)``, and the logits of each image's classes if the head gives
            them.
        """
        raise NotImplementedError

    @staticmethod
    def scores(logits: Tensor, classes: Any, packing: Packing) -> Tensor:
        """Returns class probabilities ``(Σn, K)``, at least fp32."""
        raise NotImplementedError

    @staticmethod
    def output(maps: Tensor, classes: Any) -> Any:
        """Returns what the head's ``loss_by_feat`` takes, from a map of logits ``(B, K, H, W)``."""
        raise NotImplementedError


class Pointwise(Kind):
    """A head that predicts each token from itself alone."""

    @staticmethod
    def predict(head: DecodeHead, tokens: Tensor, packing: Packing) -> tuple[Tensor, Any]:
        if not len(tokens):  # convolutions refuse an empty batch
            return tokens.new_zeros(0, head.out_channels), None
        x = head.norm(tokens) if hasattr(head, 'up_convs') else tokens
        # Images of n × 1 pixels, or one of Σn × 1: convolutions and batch norms run as they are.
        x = x.unflatten(0, (len(packing), -1) if packing.is_even else (1, -1)).transpose(1, 2)[..., None]
        if hasattr(head, 'up_convs'):
            for conv, _ in head.up_convs:
                x = conv(x)
            x = head.cls_seg(x)
        else:
            x = head.forward((x,))
        return x[..., 0].transpose(1, 2).flatten(0, 1), None

    @staticmethod
    def scores(logits: Tensor, classes: Any, packing: Packing) -> Tensor:
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)

    @staticmethod
    def output(maps: Tensor, classes: Any) -> Any:
        return maps


class Attention(Kind):
    """An Attention-to-Mask head (arXiv 2210.05844): mask logits of each token, and which classes are present."""

    @staticmethod
    def predict(head: DecodeHead, tokens: Tensor, packing: Packing) -> tuple[Tensor, Any]:
        if packing.is_even and len(packing):
            logits, classes = head.decoder(tokens.unflatten(0, (len(packing), packing.longest)))
            return logits.flatten(0, 1), classes
        return head.decoder(tokens, packing)

    @staticmethod
    def scores(logits: Tensor, classes: Any, packing: Packing) -> Tensor:
        return token_scores(logits, classes, packing)

    @staticmethod
    def output(maps: Tensor, classes: Any) -> Any:
        return [(maps, classes)]


class Map(Kind):
    """A head that reads neighbouring tokens; its map may be finer than the raster."""

    @staticmethod
    def predict_map(head: DecodeHead, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the head on whole images.

        Args:
            head (nn.Module): The decode head.
            maps (Tensor): Tokens on their raster ``(B, C, h, w)``.

        Returns:
            tuple[Tensor, Tensor]: Logits ``(B, K, h', w')``, and probabilities averaged over each token
            ``(B·h·w, K)``, at least fp32.
        """
        logits = head.forward((maps,))
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
        scores = F.adaptive_avg_pool2d(scores, (maps.shape[-2], maps.shape[-1]))
        return logits, scores.flatten(2).transpose(1, 2).flatten(0, 1)


def kind_of(head: nn.Module) -> type[Kind]:
    """Returns the kind of a head: :class:`Pointwise`, :class:`Attention` or :class:`Map`."""
    from mmseg.models.decode_heads import FCNHead, SETRUPHead

    if isinstance(getattr(head, 'decoder', None), ATMDecoder):
        return Attention
    neighbours = any(
        (isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1))
        or isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d))
        for module in head.modules()
    )
    return Pointwise if type(head) in (FCNHead, SETRUPHead) and not neighbours else Map
