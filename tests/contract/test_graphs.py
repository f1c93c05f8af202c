"""Static methods compile to one graph and export."""

import pytest
import torch

from mmtoken.core import TokenState

from .cases import METHODS, bound, close, drive, images, run, tokens


def test_full_graph_compilation(static):
    torch.compiler.reset()
    host = static.last.new()
    compiled = torch.compile(host, fullgraph=True, backend='eager')
    for seed in (1, 2):
        assert close(run(compiled, images(seed=seed)), run(host, images(seed=seed)))


@pytest.mark.gpu
def test_generated_code(method):
    """The default compiler; on a CPU it would take minutes of g++ for some methods."""
    if METHODS[method].dynamic:
        pytest.skip('only static methods promise it')
    reducer = bound(method, METHODS[method].examples[-1]).cuda()

    @torch.no_grad()
    def reduce(x):
        state = TokenState(x, (7, 9), 1)
        for _ in drive(reducer, state):
            pass
        return state.x, state.dense()

    torch.compiler.reset()
    x = tokens(num_prefix=1).cuda()
    assert close(torch.compile(reduce, fullgraph=True)(x), reduce(x), 1e-4)


def test_export(cover):
    """Not of every pair: each compiles to one graph, and what keeps a graph from being exported is an operator of the
    method or of the host, which is met here.
    """
    host = cover.last.new()
    with torch.no_grad():
        exported = torch.export.export(host, (images(seed=1),)).module()
    for seed in (1, 2):
        assert close(run(exported, images(seed=seed)), run(host, images(seed=seed)))
