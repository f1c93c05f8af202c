"""The decoder: queries with anchor boxes read the tokens of a picture (DAB-DETR, arXiv 2201.12329)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmtoken.core import dense_attention, ragged_attention

from .memory import Memory, sine


def mlp(dims: int, hidden: int, out: int, layers: int) -> nn.Sequential:
    """Returns linear layers with ReLU between them.

    Args:
        dims (int): Channels that come in.
        hidden (int): Channels between the layers.
        out (int): Channels that go out.
        layers (int): Number of linear layers.
    """
    widths = [dims, *[hidden] * (layers - 1), out]
    parts: list[nn.Module] = []
    for a, b in zip(widths, widths[1:]):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def start_mlp(layers: nn.Module, gain: float) -> None:
    """Draws layers of :func:`mlp` so that their input reaches the end however many they are (arXiv 1502.01852, eq. 10).

    Args:
        layers (nn.Module): The layers.
        gain (float): Of the last one; 0 lets it give nothing at first.
    """
    *before, last = (layer for layer in layers.modules() if isinstance(layer, nn.Linear))
    for layer in before:
        nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')
    nn.init.xavier_uniform_(last.weight, gain=gain)
    for layer in (*before, last):
        nn.init.zeros_(layer.bias)


class SelfAttention(nn.Module):
    """Attention among queries; content and position have projections of their own (Conditional DETR)."""

    def __init__(self, dims: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_content, self.q_position = nn.Linear(dims, dims), nn.Linear(dims, dims)
        self.k_content, self.k_position = nn.Linear(dims, dims), nn.Linear(dims, dims)
        self.value, self.out = nn.Linear(dims, dims), nn.Linear(dims, dims)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """Attends.

        Args:
            x (Tensor): Queries ``(B, Q, C)``.
            position (Tensor): Their positional queries ``(B, Q, C)``.
            mask (Tensor, optional): Added to the scores ``(B or 1, 1, Q, Q)``.

        Returns:
            Tensor: ``(B, Q, C)``.
        """
        q = self.q_content(x) + self.q_position(position)
        k = self.k_content(x) + self.k_position(position)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, self.value(x)))
        return self.out(dense_attention(q, k, v, bias=mask).transpose(1, 2).flatten(-2))


class CrossAttention(nn.Module):
    """Attention of queries to tokens; each head sees content and sine code side by side (Conditional DETR).

    Args:
        dims (int): Channels C.
        heads (int): Attention heads.
        first (bool): Also add the positions to the contents, as the first layer does.
    """

    def __init__(self, dims: int, heads: int, first: bool):
        super().__init__()
        self.heads = heads
        self.q_content, self.q_sine = nn.Linear(dims, dims), nn.Linear(dims, dims)
        self.q_position = nn.Linear(dims, dims) if first else None
        self.k_content, self.k_position = nn.Linear(dims, dims), nn.Linear(dims, dims)
        self.value, self.out = nn.Linear(dims, dims), nn.Linear(dims, dims)

    def start_at_anchors(self, gain: float) -> None:
        """Lets every head start by looking around the centres of the anchors.

        Codes of places are alike where the places are near, as ``Σ cos(ω(a - b))``, if a head compares the same
        frequencies of both, and some of y and some of x. A random projection has to learn that first. Head h takes
        every H-th frequency from the h-th.

        Args:
            gain (float): Factor of either projection; the larger, the smaller the neighbourhood.
        """
        waves = torch.arange(self.q_sine.in_features).view(-1, 2)  # sine and cosine of a frequency stay together
        order = torch.cat([waves[h :: self.heads].flatten() for h in range(self.heads)])
        for layer in (self.q_sine, self.k_position):
            with torch.no_grad():
                layer.weight.copy_(torch.eye(len(order))[order] * gain)
                layer.bias.zero_()

    def forward(self, x: Tensor, position: Tensor, code: Tensor, memory: Memory) -> Tensor:
        """Attends.

        Args:
            x (Tensor): Queries ``(B, Q, C)``.
            position (Tensor): Their positional queries ``(B, Q, C)``.
            code (Tensor): Modulated sine codes of their centres ``(B, Q, C)``.
            memory (Memory): Tokens of the pictures.

        Returns:
            Tensor: ``(B, Q, C)``.
        """
        q, k, place = self.q_content(x), self.k_content(memory.x), self.k_position(memory.position)
        if self.q_position is not None:
            q, k = q + self.q_position(position), k + place
        q, s, k, place, v = (
            t.unflatten(-1, (self.heads, -1)) for t in (q, self.q_sine(code), k, place, self.value(memory.x))
        )
        q, k = torch.cat([q, s], dim=-1).transpose(1, 2), torch.cat([k, place], dim=-1)
        return self.out(ragged_attention(q, k, v, memory.packing).transpose(1, 2).flatten(-2))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and MLP, each after a LayerNorm."""

    def __init__(self, dims: int, heads: int, hidden: int, first: bool):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dims) for _ in range(3))
        self.self_attn = SelfAttention(dims, heads)
        self.cross_attn = CrossAttention(dims, heads, first)
        self.ffn = mlp(dims, hidden, dims, 2)

    def forward(self, x: Tensor, position: Tensor, code: Tensor, memory: Memory, mask: Tensor | None) -> Tensor:
        """Runs the layer; see :class:`SelfAttention` and :class:`CrossAttention` for the arguments."""
        x = x + self.self_attn(self.norm1(x), position, mask)
        x = x + self.cross_attn(self.norm2(x), position, code, memory)
        return x + self.ffn(self.norm3(x))


class DABDecoder(nn.Module):
    """Layers of queries whose anchor boxes steer their attention and are refined by each layer.

    The sine code of a centre is modulated by the content (not in the first layer) and by the size of the anchor
    (DAB-DETR, eq. 6): the half of x by ``w_ref/w``, that of y by ``h_ref/h``.

    Args:
        dims (int): Channels C. Defaults to 768.
        layers (int): Number of layers. Defaults to 6.
        heads (int): Attention heads. Defaults to 4.
        hidden (int): Channels inside of the MLP. Defaults to 2048.
        temperature (float): Of the sine code. Defaults to 20.
    """

    def __init__(self, dims: int = 768, layers: int = 6, heads: int = 4, hidden: int = 2048, temperature: float = 20.0):
        super().__init__()
        self.dims, self.temperature = dims, temperature
        self.layers = nn.ModuleList(DecoderLayer(dims, heads, hidden, first=i == 0) for i in range(layers))
        self.norm = nn.LayerNorm(dims)
        self.query_scale = mlp(dims, dims, dims, 2)
        self.query_position = mlp(2 * dims, dims, dims, 2)
        self.anchor_size = mlp(dims, dims, 2, 2)
        self.boxes = nn.ModuleList(mlp(dims, dims, 4, 3) for _ in range(layers))

    def init_weights(self) -> None:
        """Draws linear layers as DETR does; the first boxes are the anchors, around which each layer looks."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for part in self.modules():
            if isinstance(part, CrossAttention):
                part.start_at_anchors(gain=2.0)
        start_mlp(self.query_scale, gain=0.1)
        *_, factor = self.query_scale.parameters()
        nn.init.ones_(factor)  # contents do not change the codes of places yet
        for box in self.boxes:
            start_mlp(box, gain=0.0)

    def forward(self, x: Tensor, anchors: Tensor, memory: Memory, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the layers.

        Args:
            x (Tensor): Contents of the queries ``(B, Q, C)``.
            anchors (Tensor): Their boxes ``(B, Q, 4)``: centre x and y, width and height, in parts of the side S, in
                logits.
            memory (Memory): Tokens of the pictures.
            mask (Tensor, optional): Added to the scores between queries ``(B or 1, 1, Q, Q)``.

        Returns:
            tuple[Tensor, Tensor]: After each layer, the normalised queries ``(L, B, Q, C)`` and the boxes
            ``(L, B, Q, 4)``, fp32, in parts of S.
        """
        half = self.dims // 2
        hidden, boxes = [], []
        logits = anchors.float()
        for i, (layer, refine) in enumerate(zip(self.layers, self.boxes)):
            box = logits.sigmoid()
            code = sine(box[..., [1, 0, 2, 3]], half, self.temperature).to(x.dtype)  # y, x, width, height
            position = self.query_position(code)
            code = code[..., : self.dims]
            if i:
                code = code * self.query_scale(x)
            wanted = self.anchor_size(x).float().sigmoid() / box[..., 2:].clamp(min=1e-6)
            factor = wanted[..., [1, 0]].repeat_interleave(half, -1)  # height for y, width for x
            x = layer(x, position, code * factor.to(x.dtype), memory, mask)
            hidden.append(self.norm(x))
            moved = logits + refine(hidden[-1]).float()
            boxes.append(moved.sigmoid())
            logits = moved.detach()
        return torch.stack(hidden), torch.stack(boxes)
