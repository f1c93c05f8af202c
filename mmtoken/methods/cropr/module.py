"""The part of Cropr that learns: queries that score tokens, and the head that teaches them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.core import dense_attention, ops

#: Bias of a key that takes no part; finite, so that an image of padding alone stays free of NaN.
NO_PART = -3e4


class AuxiliaryHead(nn.Module):
    """Predicts from what each query has read: ``Linear(LN(z + MLP(LN(z))))``.

    Args:
        dims (int): Width D of a token.
        num_classes (int): Outputs.
    """

    def __init__(self, dims: int, num_classes: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dims, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(dims, 4 * dims), nn.Linear(4 * dims, dims)
        self.norm2 = nn.LayerNorm(dims)
        self.cls = nn.Linear(dims, num_classes)
        nn.init.trunc_normal_(self.cls.weight, std=0.02)
        nn.init.zeros_(self.cls.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Maps ``(…, D)`` to logits ``(…, classes)``."""
        z = z + self.fc2(F.gelu(self.fc1(self.norm1(z))))
        return self.cls(self.norm2(z))


class CroprModule(nn.Module):
    """Scores the tokens after one block, and predicts the auxiliary target from them (arXiv 2412.00965, section 3).

    With queries ``Q`` and tokens ``X``, token i scores ``a_i = Σ_n <Q_n, x_i>``. The head predicts from
    ``softmax(QXᵀ/s)·X``. It sees tokens without their gradient: its loss trains this module alone, and no other loss
    trains this module.

    As published, tokens are read as they are and ``s = √D``. Then how fast the queries learn depends on the backbone: a
    step of AdamW moves ``Q_n`` by the learning rate in each channel, and the softmax differs from the mean of all
    tokens only once ``<Q_n, x_i>/√D`` differs by about 1 between them. With ``norm`` tokens have mean 0 and variance 1
    over their channels, and ``s = 1``: queries differ from the first step on, on every backbone.

    Args:
        dims (int): Width D of a token.
        num_queries (int): Number of queries.
        num_classes (int): Outputs of the head for each query.
        norm (bool): Layer-normalise the tokens, without weights. Defaults to True.
    """

    def __init__(self, dims: int, num_queries: int, num_classes: int, norm: bool = True):
        super().__init__()
        self.norm = norm
        std = dims**-0.5
        self.queries = nn.Parameter(torch.empty(num_queries, dims))
        nn.init.trunc_normal_(self.queries, std=std, a=-2 * std, b=2 * std)
        self.head: AuxiliaryHead | None = AuxiliaryHead(dims, num_classes)

    def read(self, x: Tensor) -> Tensor:
        """Returns tokens ``(…, D)`` as the queries read them, without gradient."""
        return F.layer_norm(x.detach(), x.shape[-1:]) if self.norm else x.detach()

    def score(self, patches: Tensor) -> Tensor:
        """Returns the scores of patch tokens ``(B, n, D)`` as ``(B, n)``, fp32.

        The sum over queries is taken first, so the cost does not depend on their number.
        """
        with ops.full_precision(patches):
            return (self.read(patches.float()) @ self.queries.detach().float().sum(0)[:, None])[..., 0]

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Returns the logits of each query ``(B, queries, classes)``; needed in training only.

        Args:
            x (Tensor): All tokens, prefix included, ``(B, M, D)``.
            padding (Tensor, optional): Tokens that stand for padding only ``(B, M)``, bool.

        Raises:
            ValueError: After :meth:`fold`.
        """
        if self.head is None:
            raise ValueError('Cropr: switch_to_deploy() dropped the auxiliary heads; build the model anew to train.')
        x = self.read(x)
        q = self.queries.to(x.dtype).expand(x.shape[0], 1, -1, -1)
        bias = None
        if padding is not None:
            bias = torch.zeros_like(padding, dtype=torch.float32).masked_fill(padding, NO_PART)
        scale = 1.0 if self.norm else None  # that of attention, 1/√D
        return self.head(dense_attention(q, x[:, None], x[:, None], scale=scale, key_bias=bias)[:, 0])

    def fold(self) -> None:
        """Replaces the queries by their sum, which scores the same, and drops the head."""
        self.queries = nn.Parameter(self.queries.detach().float().sum(0, keepdim=True).to(self.queries.dtype))
        self.head = None
