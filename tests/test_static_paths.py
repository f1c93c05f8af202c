"""A static method never waits for the GPU: what it does may be captured as a CUDA graph."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmtoken.registry import REDUCERS
from mmtoken.testing import PATCH, SIDE, toy_hosts

REDUCERS.import_from_location()
HOSTS = toy_hosts()
INFOS = {name: build().info() for name, build in HOSTS.items()}
SHAPE = (2, 3, PATCH * SIDE, PATCH * SIDE)


def cases():
    for name, kind in sorted(REDUCERS.module_dict.items()):
        for number, example in enumerate(kind.examples):
            for host, info in INFOS.items():
                reducer = kind(**example)
                if not reducer.dynamic and not reducer.refuses(info):
                    yield pytest.param(host, dict(type=f'mmtoken.{name}', **example), id=f'{name}-{number}-{host}')


def build(host, reducer):
    model = HOSTS[host](reducer=reducer)
    model.served = True  # a head finishes what some methods give out; here the backbone runs alone
    return model


class NothingElsewhere(TorchDispatchMode):
    """Refuses operators that touch a tensor of another device than ``meta``: on a GPU it would have to be copied."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            assert not isinstance(tensor, torch.Tensor) or tensor.is_meta, f'{func} has a tensor on {tensor.device}'
        return out


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('host, reducer', cases())
def test_nothing_is_made_on_the_cpu_nor_read_from_the_device(host, reducer, padded, dtype):
    """A tensor on ``meta`` has no values, so reading any is an error there."""
    model = build(host, reducer).to('meta', dtype)
    padding = torch.zeros(2, SIDE, SIDE, dtype=torch.bool, device='meta') if padded else None
    images = torch.zeros(SHAPE, device='meta', dtype=dtype)
    with torch.no_grad(), NothingElsewhere():
        model(images, padding)


@pytest.mark.parametrize('what', ['cpu', 'value'])
def test_what_would_wait_is_seen(what):
    with pytest.raises((AssertionError, RuntimeError)), NothingElsewhere():
        torch.zeros(3) if what == 'cpu' else torch.zeros(3, device='meta').sum().item()


def test_padding_is_made_on_the_device():
    model = HOSTS['TokenDINOv2']().to('meta')
    with NothingElsewhere():
        padding = model.padding_of(torch.zeros(SHAPE, device='meta'), [(SHAPE[2], SHAPE[3]), (5, 9)])
    assert padding.shape == (2, SIDE, SIDE)
    padding = model.padding_of(torch.zeros(SHAPE), [(SHAPE[2], SHAPE[3]), (5, 9)])
    assert not padding[0].any() and (~padding[1]).nonzero().tolist() == [[y, x] for y in (0, 1) for x in (0, 1, 2)]


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('host, reducer', cases())
def test_a_cuda_graph_gives_the_same_without_a_sync(host, reducer, dtype):
    model = build(host, reducer).cuda().to(dtype)
    first, second = (torch.randn(SHAPE, device='cuda').to(dtype) for _ in range(2))
    buffer = first.clone()
    with torch.no_grad():
        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):
            for _ in range(3):
                model(buffer)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('error')
        try:
            model(buffer)
        finally:
            torch.cuda.set_sync_debug_mode('default')
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs = model(buffer)
        for images in (second, first):
            buffer.copy_(images)
            graph.replay()
            for out, expected in zip(tree_leaves(outs), tree_leaves(model(images))):
                assert out.isfinite().all()
                tolerance = 1e-3 if dtype == torch.float32 else 3e-2
                torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
