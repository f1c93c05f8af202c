"""Memo: made once for each size, made anew when the parameter changes, never in the way of gradients or graphs."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmtoken.core.memo import Memo
from mmtoken.testing import PATCH, toy_hosts

HOSTS = {name: host for name, host in toy_hosts().items() if host().any_size}


def counted(memo, source, key=0):
    calls = []

    def make():
        calls.append(key)
        return source * 2

    return memo(key, source, make), calls


def test_made_once_until_the_values_change():
    memo, table = Memo(size=2), nn.Parameter(torch.ones(3))
    with torch.no_grad():
        assert counted(memo, table)[1] == [0] and counted(memo, table)[1] == []
        table.add_(1)
        out, calls = counted(memo, table)
        assert calls == [0] and out.tolist() == [4, 4, 4]
        table.data = torch.zeros(3)
        assert counted(memo, table)[0].tolist() == [0, 0, 0]
        for key in (1, 2):
            counted(memo, table, key)
        assert counted(memo, table, 0)[1] == [0], 'the oldest goes first'
    for other in (copy.deepcopy(memo), pickle.loads(pickle.dumps(memo))):
        assert not other._kept and other.size == 2


def test_gradients_reach_the_parameter():
    memo, table = Memo(), nn.Parameter(torch.ones(3))
    with torch.no_grad():
        counted(memo, table)
    out, calls = counted(memo, table)
    out.sum().backward()
    assert calls == [0] and table.grad.tolist() == [2, 2, 2]
    frozen = table.detach().clone().requires_grad_(False)
    assert counted(memo, frozen)[1] == [0] and counted(memo, frozen)[1] == []


@pytest.mark.parametrize('fused', [False, True])
def test_validations_see_what_was_learned_between_them(fused):
    """A fused optimizer changes values in place and leaves the version of the parameter as it was."""
    memo, table = Memo(), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([table], lr=0.1, fused=fused)
    with torch.no_grad():
        counted(memo, table)
    counted(memo, table)[0].sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(counted(memo, table)[0], table * 2)


def test_nothing_is_kept_in_inference_mode():
    memo, table = Memo(), nn.Parameter(torch.ones(3))
    with torch.inference_mode():
        counted(memo, table)
    with torch.no_grad():
        out, calls = counted(memo, table)
    assert calls == [0] and not out.is_inference()


@pytest.mark.parametrize('name', HOSTS)
def test_hosts_follow_their_weights(name):
    """Two sizes in turn, then other weights: the same as a host that saw nothing before."""
    host, images = HOSTS[name](), [torch.randn(1, 3, PATCH * h, PATCH * w) for h, w in ((6, 9), (5, 4))]
    with torch.no_grad():
        first = [host(x)[0] for x in images * 2]
        assert all(torch.equal(a, b) for a, b in zip(first, first[2:]))
        for parameter in host.parameters():
            parameter.mul_(1.5)
        fresh = HOSTS[name]()
        fresh.load_state_dict(host.state_dict())
        assert all(torch.equal(host(x)[0], fresh(x)[0]) for x in images)
        assert not torch.equal(host(images[0])[0], first[0])
    compiled = torch.compile(host, fullgraph=True, backend='eager')
    with torch.no_grad():
        torch.testing.assert_close(compiled(images[0])[0], host(images[0])[0])
