"""SimpleFPN: its levels by hand, sizes, a life in both upstream scopes, refusals."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from torch import nn

from mmtoken.registry import MODELS
from mmtoken.testing import randomize


def build(**kwargs):
    torch.manual_seed(0)
    neck = MODELS.build(dict(dict(type='mmtoken.SimpleFPN', in_channels=16, out_channels=8), **kwargs))
    randomize(neck)
    return neck.eval()


def norm(x, ln):
    """LayerNorm over channels, written out."""
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return scaled * ln.weight[:, None, None] + ln.bias[:, None, None]


def test_levels_are_vitdets():
    neck, x = build().double(), torch.randn(2, 16, 5, 7, dtype=torch.float64)
    for ln in (m for m in neck.modules() if isinstance(m, nn.LayerNorm)):
        nn.init.normal_(ln.weight)
        nn.init.normal_(ln.bias)
    (up, ln, _, up_again), (up_once,) = neck.resize[0], neck.resize[1]

    def double(x, conv):  # a transposed convolution of stride 2 and kernel 2 writes 2x2 pixels for each
        weight = conv.weight.permute(1, 2, 3, 0).flatten(0, 2)  # (out·2·2, in)
        return F.pixel_shuffle(F.conv2d(x, weight[..., None, None]), 2) + conv.bias[:, None, None]

    resized = [
        double(F.gelu(norm(double(x, up), ln)), up_again),
        double(x, up_once),
        x,
        F.pad(x, (0, 1, 0, 1), value=-torch.inf).unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1)),
    ]
    expected = []
    for level, lateral, smooth in zip(resized, neck.lateral_convs, neck.fpn_convs, strict=True):
        level = norm(F.conv2d(level, lateral.conv.weight), lateral.norm)
        expected.append(norm(F.conv2d(level, smooth.conv.weight, padding=1), smooth.norm))
    expected.append(expected[-1][:, :, ::2, ::2])
    outs = neck((x,))
    assert [out.shape[2:] for out in outs] == [(20, 28), (10, 14), (5, 7), (3, 4), (2, 2)]
    for out, wanted in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, wanted)
    assert all(torch.equal(one, other) for one, other in zip(outs, neck(x)))


@pytest.mark.parametrize(
    'scales, num_outs, sizes',
    [
        ((2, 1, 0.5, 0.25), 4, [(14, 18), (7, 9), (4, 5), (2, 3)]),
        ((1,), 3, [(7, 9), (4, 5), (2, 3)]),
        ((0.5,), None, [(4, 5), (2, 3)]),
        ((8.0,), 1, [(56, 72)]),
    ],
)
def test_scales_and_number_of_levels(scales, num_outs, sizes):
    outs = build(scales=scales, num_outs=num_outs)([torch.randn(1, 16, 7, 9)])
    assert [tuple(out.shape) for out in outs] == [(1, 8, *size) for size in sizes]


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_built_in_either_scope_and_trained(scope):
    with DefaultScope.overwrite_default_scope(scope):
        neck = build(norm_cfg=dict(type='GN', num_groups=2)).train()
    assert not any(isinstance(m, nn.LayerNorm) for m in neck.modules())
    sum(out.square().mean() for out in neck([torch.randn(2, 16, 4, 4)])).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in neck.parameters())


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(scales=(3, 1)), r'neck\.scales=\(3, 1\) must be powers of two'),
        (dict(scales=(1, 2)), r'neck\.scales=\(1, 2\) must fall'),
        (dict(scales=2), r'neck\.scales=2 must be a list'),
        (dict(in_channels=6), r'neck\.in_channels=6 cannot be halved that often'),
        (dict(num_outs=2), r'neck\.num_outs=2 must be an integer'),
        (dict(out_channels=0), r'neck\.out_channels=0 must be an integer'),
    ],
)
def test_wrong_arguments(wrong, words):
    with pytest.raises(ValueError, match=words) as error:
        build(**wrong)
    assert '\n' not in str(error.value)


def test_several_maps_are_refused():
    with pytest.raises(ValueError, match='the backbone gives 2; set backbone.out_indices to the last block'):
        build()([torch.randn(1, 16, 4, 4)] * 2)
