"""Linear projections that hosts run with a bias of their own, or of which they run a part."""

import torch.nn.functional as F
from torch import Tensor, nn


def linear(module: nn.Module, x: Tensor, bias: Tensor) -> Tensor:
    """Returns ``module(x) + bias`` for a linear layer without a bias of its own.

    A plain layer does it in one kernel; one that is wrapped (LoRA, quantised, hooks) is called as a module.
    """
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    # A parametrised layer is another class below nn.Linear, with the same forward.
    stock = type(module).forward is nn.Linear.forward and 'forward' not in module.__dict__
    if isinstance(module, nn.Linear) and stock and not hooked:
        return F.linear(x, module.weight, bias)
    out = module(x)
    return out + bias.to(out.dtype)


def queries(x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
    """Returns the queries ``(…, heads, d)`` of tokens ``(…, C)``, the first third of a joint projection.

    Args:
        x (Tensor): Tokens ``(…, C)``, normalised for the block's attention.
        weight (Tensor): Of the projection to queries, keys and values, ``(3·C, C)``.
        bias (Tensor, optional): ``(3·C,)``.
        num_heads (int): Number of heads.
    """
    dims = x.shape[-1]
    return F.linear(x, weight[:dims], None if bias is None else bias[:dims]).unflatten(-1, (num_heads, -1))
