"""The stand-in's deformable convolutions against their definition."""

import importlib
import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from mmcv import ops

import mmtoken

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]


@pytest.fixture
def standin(monkeypatch):
    """The stand-in behind ``mmcv.ops``, whether or not mmcv has compiled ops."""
    path = Path(mmtoken.__file__).parent / '_ext_standin.py'
    spec = importlib.util.spec_from_file_location('standin', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ('deform_conv', 'modulated_deform_conv'):
        monkeypatch.setattr(importlib.import_module(f'mmcv.ops.{name}'), 'ext_module', module)


def slow_deformable(x, weight, offset, mask, stride, padding, dilation, groups, parts):
    """The definition, one product after the other."""
    batch, channels, height, width = x.shape
    outs, ins, kh, kw = weight.shape
    ring = torch.nn.functional.pad(x, (2, 2, 2, 2))
    rows = []
    for b, o, h, w in itertools.product(range(batch), range(outs), *map(range, offset.shape[2:])):
        total = x.new_zeros(())
        for c, i, j in itertools.product(range(ins), range(kh), range(kw)):
            source = o // (outs // groups) * ins + c
            tap = (source // (channels // parts) * kh + i) * kw + j
            y = h * stride[0] - padding[0] + i * dilation[0] + offset[b, 2 * tap, h, w] + 2
            at = w * stride[1] - padding[1] + j * dilation[1] + offset[b, 2 * tap + 1, h, w] + 2
            y, at = y.clamp(0, height + 3), at.clamp(0, width + 3)
            y0, x0 = min(int(y), height + 2), min(int(at), width + 2)
            fy, fx, plane = y - y0, at - x0, ring[b, source]
            value = (1 - fy) * ((1 - fx) * plane[y0, x0] + fx * plane[y0, x0 + 1]) + fy * (
                (1 - fx) * plane[y0 + 1, x0] + fx * plane[y0 + 1, x0 + 1]
            )
            total = total + weight[o, c, i, j] * value * (1 if mask is None else mask[b, tap, h, w])
        rows.append(total)
    return torch.stack(rows).view(batch, outs, *offset.shape[2:])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize(
    'kernel, stride, padding, dilation, groups, parts',
    [
        ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
        ((3, 2), (2, 1), (0, 2), (1, 2), 2, 2),
        ((1, 1), (1, 1), (0, 0), (1, 1), 1, 4),
    ],
)
def test_deformable_convolution(standin, modulated, kernel, stride, padding, dilation, groups, parts, device):
    taps = kernel[0] * kernel[1]
    x, weight = torch.randn(2, 4, 5, 4), torch.randn(2, 4 // groups, *kernel)
    size = [(s + 2 * p - d * (k - 1) - 1) // t + 1 for s, p, d, k, t in zip((5, 4), padding, dilation, kernel, stride)]
    offset, mask = torch.randn(2, 2 * parts * taps, *size) * 2, torch.rand(2, parts * taps, *size)
    bias = torch.randn(2)
    tensors = [x, offset, mask, weight, bias] if modulated else [x, offset, weight]
    theirs = [tensor.clone().requires_grad_() for tensor in tensors]
    ours = [tensor.to(device).requires_grad_() for tensor in tensors]
    where = (stride, padding, dilation, groups, parts)
    if modulated:
        got = ops.modulated_deform_conv2d(*ours, *where)
        expected = slow_deformable(theirs[0], theirs[3], theirs[1], theirs[2], *where) + theirs[4].view(1, 2, 1, 1)
    else:
        got = ops.deform_conv2d(*ours, *where)
        expected = slow_deformable(theirs[0], theirs[2], theirs[1], None, *where)
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)
    factor = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * factor).sum(), theirs)
    for name, grad, slow in zip('xomwb', torch.autograd.grad((got * factor.to(device)).sum(), ours), wanted):
        torch.testing.assert_close(grad.cpu(), slow, rtol=1e-3, atol=1e-3, msg=name)


def test_deformable_convolution_without_offsets_is_a_convolution(standin):
    conv = ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1, groups=2)
    x = torch.randn(2, 4, 7, 9)
    plain = torch.nn.functional.conv2d(x, conv.weight, conv.bias * 2, padding=1, groups=2) / 2  # the mask is sigmoid(0)
    torch.testing.assert_close(conv(x), plain, rtol=1e-4, atol=1e-5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
