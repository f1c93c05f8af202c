"""Static methods compile to one graph and export."""

import pytest
import torch

from mmtoken.core import TokenState

from .cases import METHODS, bound, close, drive, images, run, tokens

#: Engines refuse sums by scattering, and results whose shape depends on values.
FORBIDDEN = ('index_add', 'scatter_add', 'scatter_reduce', 'nonzero', 'masked_select', 'unique', 'bincount', 'item')


def allowed(graph, inputs):
    """A compiler that changes nothing, and refuses what an engine would."""
    for node in graph.graph.nodes:
        name = getattr(node.target, '__name__', str(node.target)).strip('_')
        assert not name.startswith(FORBIDDEN), f'{name} in the graph'
        assert not node.kwargs.get('accumulate'), f'{name} adds where it writes'
    return graph.forward


def test_full_graph_compilation(static):
    torch.compiler.reset()
    host = static.last.new()
    compiled = torch.compile(host, fullgraph=True, backend=allowed)
    for seed in (1, 2):
        assert close(run(compiled, images(seed=seed)), run(host, images(seed=seed)))


@pytest.mark.parametrize(
    'bad', [lambda x: x.new_zeros(4).index_add(0, x.long(), x), lambda x: torch.zeros(4).scatter_add(0, x.long(), x)]
)
def test_what_engines_refuse_is_seen(bad):
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match='_add in the graph'):
        torch.compile(bad, fullgraph=True, backend=allowed)(torch.ones(3))


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


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_trace(cover):
    """As fvcore counts a model; sizes are tensors there."""
    host = cover.last.new()
    with torch.no_grad():
        traced = torch.jit.trace(host, (images(seed=1),), check_trace=False)
    assert close(run(traced, images(seed=1)), run(host, images(seed=1)))
