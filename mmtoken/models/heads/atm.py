"""Attention-to-Mask (SegViT, arXiv 2210.05844): the attention of class queries over tokens is the segmentation.

Torch only. Tokens depend on each other through the queries alone, so the decoder works on any subset of an image's
tokens: dense ``(B, N, C)``, or packed ``(ΣL, C)`` with the ``lengths`` of a ragged batch.
"""

import torch
from torch import Tensor, nn

from mmtoken.core import Packing, attention_scores, dense_attention, ragged_attention, self_attention

#: Tokens of each image ``(B,)`` of a packed batch, None for a dense one.
Lengths = Tensor | Packing | None


class ATMLayer(nn.Module):
    """One decoder layer, post-norm: the queries attend to one another and to the tokens, then an MLP of width 4d.

    Args:
        channels (int): Width d.
        num_heads (int): Attention heads; they divide d.
        dropout (float): Dropout of attention weights.
        query_attention (bool): Whether the queries attend to one another.
    """

    def __init__(self, channels: int, num_heads: int, dropout: float, query_attention: bool):
        super().__init__()
        self.num_heads, self.dropout, self.query_attention = num_heads, dropout, query_attention
        if query_attention:
            self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
            self.norm1 = nn.LayerNorm(channels)
        self.cross_q, self.cross_kv = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.cross_proj, self.norm2 = nn.Linear(channels, channels), nn.LayerNorm(channels)
        self.ffn = nn.Sequential(nn.Linear(channels, 4 * channels), nn.ReLU(), nn.Linear(4 * channels, channels))
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, queries: Tensor, tokens: Tensor, lengths: Lengths, masks: bool) -> tuple[Tensor, Tensor | None]:
        """Runs the layer.

        Args:
            queries (Tensor): ``(B, K, d)``.
            tokens (Tensor): ``(B, N, d)``, or packed ``(ΣL, d)``.
            lengths (Tensor | Packing, optional): Tokens of each image ``(B,)`` of a packed batch.
            masks (bool): Whether to compute the mask logits.

        Returns:
            tuple[Tensor, Tensor | None]: New queries ``(B, K, d)``; and the mask logits, that is the scores before the
            softmax averaged over heads, ``(B, N, K)`` or packed ``(ΣL, K)``.
        """
        dropout = self.dropout if self.training else 0.0
        if self.query_attention:
            mixed, _ = self_attention(self.qkv(queries), self.num_heads, dropout_p=dropout)
            queries = self.norm1(queries + self.proj(mixed))
        q = self.cross_q(queries)
        k, v = self.cross_kv(tokens).chunk(2, dim=-1)
        scores = attention_scores(q, k, self.num_heads, lengths) if masks else None
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        if lengths is None:
            read = dense_attention(*(t.transpose(1, 2) for t in (q, k, v)), dropout_p=dropout)
        else:
            read = ragged_attention(q.transpose(1, 2), k, v, lengths, dropout_p=dropout)
        queries = self.norm2(queries + self.cross_proj(read.transpose(1, 2).flatten(-2)))
        return self.norm3(queries + self.ffn(queries)), scores


class ATMStage(nn.Module):
    """Decoder layers over the tokens of one tap, after a projection to the width of the queries.

    Args:
        in_channels (int): Width C of a token.
        channels (int): Width d.
        num_layers (int): Decoder layers. Defaults to 3.
        num_heads (int): Attention heads; they divide d. Defaults to 8.
        dropout (float): Dropout of attention weights, in [0, 1). Defaults to 0.1.
        query_attention (bool): Whether the queries attend to one another. Defaults to True.

    Raises:
        ValueError: For a bad value; names the argument and the remedy.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_layers: int = 3,
        num_heads: int = 8,
        dropout: float = 0.1,
        query_attention: bool = True,
    ):
        super().__init__()
        if not isinstance(num_heads, int) or num_heads < 1 or channels % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide channels={channels} of an ATM decoder; give a divisor.'
            )
        if not isinstance(num_layers, int) or num_layers < 1:
            raise ValueError(f'num_layers={num_layers} of an ATM decoder must be an integer >= 1.')
        if not 0 <= dropout < 1:
            raise ValueError(f'The dropout of an ATM decoder is {dropout}; give a rate in [0, 1).')
        self.proj, self.norm = nn.Linear(in_channels, channels), nn.LayerNorm(channels)
        self.layers = nn.ModuleList(ATMLayer(channels, num_heads, dropout, query_attention) for _ in range(num_layers))
        self.apply(init_linear)

    def forward(
        self, queries: Tensor, tokens: Tensor, lengths: Lengths = None, every: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Runs the layers.

        Args:
            queries (Tensor): ``(B, K, d)``.
            tokens (Tensor): ``(B, N, C)``, or packed ``(ΣL, C)``.
            lengths (Tensor | Packing, optional): Tokens of each image ``(B,)`` of a packed batch.
            every (bool): Return the outputs of every layer instead of the last one only. Defaults to False.

        Returns:
            tuple[list[Tensor], list[Tensor]]: Queries ``(B, K, d)`` and mask logits, ``(B, N, K)`` or packed
            ``(ΣL, K)``, of each layer returned.
        """
        tokens = self.norm(self.proj(tokens))
        lengths = None if lengths is None else Packing.of(lengths)  # one GPU→CPU sync for all layers
        out, masks = [], []
        for layer in self.layers:
            wanted = every or layer is self.layers[-1]
            queries, scores = layer(queries, tokens, lengths, wanted)
            if wanted:
                out.append(queries)
                masks.append(scores)
        return out, masks


class ATMDecoder(nn.Module):
    """The decoder over one tap: a learned query for each class, which may be absent.

    Args:
        in_channels (int): Width C of a token.
        num_classes (int): K.
        channels (int): Width d of the decoder.
        num_layers, num_heads, dropout, query_attention: See :class:`ATMStage`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int,
        num_layers: int = 3,
        num_heads: int = 8,
        dropout: float = 0.1,
        query_attention: bool = True,
    ):
        super().__init__()
        self.stage = ATMStage(in_channels, channels, num_layers, num_heads, dropout, query_attention)
        self.queries = nn.Parameter(torch.randn(num_classes, channels))
        self.classify = nn.Linear(channels, 2)
        init_linear(self.classify)

    def forward(self, tokens: Tensor, lengths: Lengths = None) -> tuple[Tensor, Tensor]:
        """Decodes tokens. The result of an image does not depend on its batch.

        Args:
            tokens (Tensor): ``(B, N, C)``, or packed ``(ΣL, C)``.
            lengths (Tensor | Packing, optional): Tokens of each image ``(B,)``, int64, of a packed batch; 0 is allowed.

        Returns:
            tuple[Tensor, Tensor]: Mask logits ``(B, N, K)`` or packed ``(ΣL, K)``, and class logits ``(B, K, 2)``:
            present, absent. :func:`token_scores` makes scores of them.
        """
        return self.every_layer(tokens, lengths, every=False)[-1]

    def every_layer(self, tokens: Tensor, lengths: Lengths = None, every: bool = True) -> list[tuple[Tensor, Tensor]]:
        """Returns the pair of :meth:`forward` after each decoder layer, for deep supervision."""
        batch = len(tokens if lengths is None else lengths)
        out, masks = self.stage(self.queries.expand(batch, -1, -1), tokens, lengths, every)
        return [(mask, self.classify(queries)) for mask, queries in zip(masks, out)]


def token_scores(mask_logits: Tensor, class_logits: Tensor, lengths: Lengths = None) -> Tensor:
    """Returns the score of each class at each token, in [0, 1].

    ``P[n, c] = softmax(class)[c, present] · sigmoid(A[n, c])``

    Args:
        mask_logits (Tensor): A, ``(B, N, K)`` or packed ``(ΣL, K)``.
        class_logits (Tensor): ``(B, K, 2)``: present, absent.
        lengths (Tensor | Packing, optional): Tokens of each image ``(B,)`` of a packed batch.

    Returns:
        Tensor: In the shape of ``mask_logits``, at least in single precision.
    """
    present = at_least_single(class_logits).softmax(-1)[..., 0]
    present = present[:, None] if lengths is None else present[Packing.of(lengths).image]
    return present * at_least_single(mask_logits).sigmoid()


def at_least_single(x: Tensor) -> Tensor:
    """Converts half precision to single; leaves other types as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def init_linear(module: nn.Module) -> None:
    """Initialises a linear layer with normal weights of standard deviation 0.02 and zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
