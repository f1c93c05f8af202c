"""Context tokens against a plain loop."""

import pytest
import torch

from mmtoken.methods.dtop.context import top_of_group


# ---------------------------------------------------------------------- early exit
@pytest.mark.parametrize('k', [0, 1, 3])
def test_top_of_group(k):
    score = torch.randint(5, (200,)) / 4  # many ties
    group = torch.randint(7, (200,))  # group 6 is none
    expected = torch.zeros(200, dtype=torch.bool)
    for g in range(6):
        members = [i for i in range(200) if group[i] == g]
        for i in sorted(members, key=lambda i: (-float(score[i]), i))[:k]:
            expected[i] = True
    assert torch.equal(top_of_group(score, group, k, 6), expected)
    assert top_of_group(score[:0], group[:0], k, 6).shape == (0,)
