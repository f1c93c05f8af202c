"""An accelerated model needs no more memory than the dense one, however many tokens there are."""

import pytest
import torch

from mmtoken.analysis.benchmark import _peak_on_the_cpu
from mmtoken.core import ops
from mmtoken.hosts.dinov2 import TokenDINOv2

SIDE, DIMS = 24, 96
CASES = [
    dict(type='ToMe', r=60),
    dict(type='ToMe', keep=0.5),
    dict(type='Expedit', layer=1, grid=0.5, neighbors=8),
    dict(type='Expedit', layer=1, grid=0.75, neighbors=8, proportional=True),
    dict(type='AvgPool', layer=1, grid=0.5),
    dict(type='MixedScale', fine=0.6),
]


def peak(reducer, batch):
    torch.manual_seed(0)
    arch = dict(embed_dims=DIMS, num_layers=3, num_heads=3)
    model = TokenDINOv2(arch, img_size=4 * SIDE, patch_size=4, layer_scale=1.0, reducer=reducer).eval()
    images = torch.randn(batch, 3, 4 * SIDE, 4 * SIDE)
    with torch.no_grad():
        return _peak_on_the_cpu(lambda: model(images)), model(images)[0]


@pytest.mark.parametrize('reducer', CASES, ids=lambda case: '-'.join(map(str, case.values())))
def test_no_more_memory_than_the_dense_model(monkeypatch, reducer):
    dense, _ = peak(None, 1)
    _, whole = peak(reducer, 1)
    monkeypatch.setattr(ops, 'PART', 2**14)  # as small beside these 576 tokens as it is beside many thousands
    ours, parts = peak(reducer, 1)
    assert ours <= 1.05 * dense, f'{ours / 2**20:.2f} MiB, dense {dense / 2**20:.2f}'
    assert torch.allclose(parts, whole, atol=1e-4)
    if reducer['type'] == 'Expedit':
        monkeypatch.setattr(ops, 'PART', 2**40)
        assert peak(reducer, 1)[0] > ours, 'the parts save some'
