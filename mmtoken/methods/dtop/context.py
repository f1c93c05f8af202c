"""DToP: which tokens stay as context."""

import torch
from torch import Tensor


def top_of_group(score: Tensor, group: Tensor, k: int, groups: int) -> Tensor:
    """Returns which elements are among the k largest of their group; of equal elements the earlier one.

    Args:
        score (Tensor): ``(N,)``.
        group (Tensor): ``(N,)``, int64, in ``0…groups``; elements of the extra group ``groups`` are never chosen.
        k (int): Elements of each group to choose.
        groups (int): Number of groups.

    Returns:
        Tensor: ``(N,)``, bool.
    """
    order = score.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    group = group[order]
    count = torch.zeros(groups + 1, dtype=torch.int64, device=group.device).index_add(0, group, torch.ones_like(group))
    rank = torch.arange(len(group), device=group.device) - (count.cumsum(0) - count)[group]
    top = (rank < k) & (group < groups)
    return torch.zeros_like(top).index_copy(0, order, top)
