"""Scores that need no training: the baselines that Cropr must beat."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtoken.core import HostInfo, TokenState

from .module import NO_PART


def random_scores(state: TokenState, block: int, training: bool) -> Tensor:
    """Returns random scores ``(B or 1, n)``.

    In testing they are a hash of the place and the block: the same in each run, on each device, and for each image.
    """
    number = state.x.shape[1] - state.num_prefix
    if training:
        return torch.rand(state.x.shape[0], number, device=state.x.device)
    # Integers throughout (xorshift and multiplication, 31 bits): floats would round differently from device to device.
    h = torch.arange(1, number + 1, device=state.x.device) * 0x45D9F3B + (block + 1) * 0x119DE1F3
    for _ in range(2):
        h = h & 0x7FFFFFFF
        h = ((h ^ (h >> 16)) * 0x45D9F3B) & 0x7FFFFFFF
    return (h ^ (h >> 16))[None]


def variance_scores(state: TokenState) -> Tensor:
    """Returns the variance over the channels of each token ``(B, n)``, fp32."""
    return state.patches.detach().float().var(-1)


def class_query(host: HostInfo, state: TokenState, block: int) -> Tensor:
    """Returns the query of the class token in the attention of a block, before it runs, ``(B, 1, heads, d)``.

    Hosts have it (``class_query``) whose attention is ``softmax(q·k/√d)``, without biases or rotations.
    """
    return host.host.class_query(host.host.blocks[block], state.prefix[:, :1]).detach()


def attention_scores(query: Tensor, keys: Tensor, state: TokenState) -> Tensor:
    """Returns the attention that the class token pays to each patch token ``(B, n)``, averaged over heads, fp32.

    As EViT does (arXiv 2202.07800, eq. 3).
    """
    keys, query = keys.detach().float(), query.float()
    scores = torch.einsum('bqhd,bnhd->bhn', query, keys) * query.shape[-1] ** -0.5
    if state.padding is not None:
        scores = scores.masked_fill(F.pad(state.padding, (state.num_prefix, 0))[:, None], NO_PART)
    return scores.softmax(-1).mean(1)[:, state.num_prefix :]
