"""The stand-in for ``mmcv._ext``: against slow formulas, and under ``make test-full`` against the compiled ops."""

import importlib
import importlib.util
import math
import os

import mmcv._ext
import pytest
import torch
from mmcv import ops

import mmtoken

PATH = os.path.join(os.path.dirname(mmtoken.__file__), '_ext_standin.py')
COMPILED = mmcv._ext if mmcv._ext.__file__ != PATH else None
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]

compiled = pytest.mark.skipif(
    COMPILED is None and 'MMTOKEN_TEST_COMPILED' not in os.environ, reason='mmcv has no compiled ops (make test-full)'
)


def load():
    spec = importlib.util.spec_from_file_location('standin', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=['torch'] + ['torchvision'] * (importlib.util.find_spec('torchvision') is not None))
def standin(request, monkeypatch):
    """The stand-in behind ``mmcv.ops``, on plain torch and, where it loads, on torchvision."""
    module = load()
    if request.param == 'torch':
        module._torchvision = lambda device: None
    elif module._torchvision('cuda' if torch.cuda.is_available() else 'cpu') is None:
        pytest.skip('torchvision does not load')
    behind(module, monkeypatch)
    return module


def behind(module, monkeypatch):
    for name in ('nms', 'roi_align', 'focal_loss', 'multi_scale_deform_attn', 'deform_conv', 'modulated_deform_conv'):
        monkeypatch.setattr(importlib.import_module(f'mmcv.ops.{name}'), 'ext_module', module)


def make_rois(number, device='cpu'):
    """Boxes in and around a 264 × 152 image, some empty, some partly outside, of two batch images."""
    corner = torch.rand(number, 2) * torch.tensor([284.0, 172.0]) - 20
    size = torch.rand(number, 2) * 150 * (torch.arange(number) % 7 != 6)[:, None]
    image = torch.randint(0, 2, (number, 1)).float()
    return torch.cat([image, corner, corner + size], 1).to(device)


# ------------------------------------------------------------------------------------------------------------- slow
def slow_nms(boxes, scores, threshold, offset):
    kept = []
    for i in scores.argsort(descending=True).tolist():
        for j in kept:
            x1, y1 = torch.maximum(boxes[i, :2], boxes[j, :2])
            x2, y2 = torch.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = max(x2 - x1 + offset, 0) * max(y2 - y1 + offset, 0)
            area = sum((boxes[k, 2] - boxes[k, 0] + offset) * (boxes[k, 3] - boxes[k, 1] + offset) for k in (i, j))
            if inter / (area - inter) > threshold:
                break
        else:
            kept.append(i)
    return kept


def interpolate(image, y, x):
    """Bilinear sample of ``(C, H, W)``, differentiable."""
    height, width = image.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return image.new_zeros(len(image))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    return (1 - fy) * ((1 - fx) * image[:, y0, x0] + fx * image[:, y0, x1]) + fy * (
        (1 - fx) * image[:, y1, x0] + fx * image[:, y1, x1]
    )


def slow_roi_align(x, rois, size, scale, ratio, mode, aligned):
    out = []
    for image, *box in rois.tolist():
        left, top, right, bottom = (v * scale - (0.5 if aligned else 0) for v in box)
        height, width = bottom - top, right - left
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        rows, columns = (ratio, ratio) if ratio else (-int(-bin_h // 1), -int(-bin_w // 1))
        for i in range(size[0]):
            for j in range(size[1]):
                points = [
                    interpolate(
                        x[int(image)], top + (i + (a + 0.5) / rows) * bin_h, left + (j + (b + 0.5) / columns) * bin_w
                    )
                    for a in range(rows)
                    for b in range(columns)
                ]
                if mode == 'avg':
                    out.append(sum(points) / len(points) if points else x.new_zeros(x.shape[1]))
                else:
                    out.append(torch.stack(points).amax(0) if points else x.new_full((x.shape[1],), -10000.0))
    if not out:
        return x.new_zeros(0, x.shape[1], *size)
    return torch.stack(out).view(len(rois), *size, -1).permute(0, 3, 1, 2)


# -------------------------------------------------------------------------------------------------- against formulas
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('number', [0, 1, 60])
def test_nms(standin, number, offset, device):
    corner = torch.rand(number, 2) * 40
    boxes, scores = torch.cat([corner, corner + torch.rand(number, 2) * 30], 1), torch.rand(number)
    dets, kept = ops.nms(boxes.to(device), scores.to(device), 0.4, offset=offset)
    expected = slow_nms(boxes, scores, 0.4, offset)
    assert kept.tolist() == expected and kept.dtype == torch.int64
    assert number < 2 or 1 < len(expected) < number
    assert torch.equal(dets[:, 4].cpu(), scores[expected])


def test_nms_over_many_blocks_and_long_chains(standin):
    """Each box of the chain overlaps its neighbour only: every second one stays."""
    left = torch.arange(3000.0) * 0.4
    boxes = torch.stack([left, left * 0, left + 1, left * 0 + 1], 1)
    kept = ops.nms(boxes, torch.arange(3000, 0, -1.0), 0.3)[1]
    assert kept.tolist() == list(range(0, 3000, 2))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('number', [0, 14])
def test_roi_align(standin, number, mode, ratio, aligned, device):
    x, rois = torch.randn(2, 3, 19, 33, requires_grad=True), make_rois(number)
    expected = slow_roi_align(x, rois, (3, 2), 0.125, ratio, mode, aligned)
    on_device = x.detach().to(device).requires_grad_()
    got = ops.roi_align(on_device, rois.to(device), (3, 2), 0.125, ratio, mode, aligned)
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(expected)
    (grad,) = torch.autograd.grad(got, on_device, weight.to(device))
    (wanted,) = torch.autograd.grad(expected, x, weight) if number else (torch.zeros_like(x),)
    torch.testing.assert_close(grad.cpu(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_roi_align_in_other_precisions(standin, dtype):
    x, rois = torch.randn(2, 3, 19, 33), make_rois(8)
    got = ops.roi_align(x.to(dtype), rois.to(dtype), 3, 0.125, 0, 'avg', True)
    wide = ops.roi_align(x.to(dtype).float(), rois.to(dtype).float(), 3, 0.125, 0, 'avg', True)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), wide.to(dtype).float(), rtol=1e-5, atol=1e-5)


def test_roi_align_keeps_its_precision_under_autocast(standin):
    x, rois = torch.randn(2, 3, 19, 33), make_rois(8)
    plain = ops.roi_align(x, rois, 3, 0.125, 0, 'avg', True)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(ops.roi_align(x, rois, 3, 0.125, 0, 'avg', True), plain)


def test_roi_align_reads_only_what_a_roi_covers(standin):
    x = torch.full((1, 1, 20, 20), torch.nan)
    x[..., 4:11, 3:7] = 1.0
    rois = torch.tensor([[0.0, 3.0, 5.0, 7.0, 10.0]])
    torch.testing.assert_close(ops.roi_align(x, rois, 2, 1.0, 0, 'avg', True), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('number', [0, 30])
def test_sigmoid_focal_loss(standin, number, weighted, device):
    x, gamma, alpha = torch.randn(number, 5) * 2, 2.0, 0.3
    target = torch.randint(0, 5 if weighted else 6, (number,))  # 5 is the background
    weight = torch.rand(5) + 0.5 if weighted else None
    wide = x.double().requires_grad_()
    hit = target[:, None] == torch.arange(5)
    p = wide.sigmoid()
    expected = torch.where(hit, -alpha * (1 - p) ** gamma * p.log(), -(1 - alpha) * p**gamma * (1 - p).log())
    if weighted:
        expected = expected * weight[target][:, None]
    x = x.to(device).requires_grad_()
    got = ops.sigmoid_focal_loss(
        x, target.to(device), gamma, alpha, weight if weight is None else weight.to(device), 'sum'
    )
    torch.testing.assert_close(got.cpu().double(), expected.sum(), rtol=1e-5, atol=1e-5)
    (grad,), (wanted,) = torch.autograd.grad(got, x), torch.autograd.grad(expected.sum(), wide)
    torch.testing.assert_close(grad.cpu().double(), wanted, rtol=1e-5, atol=1e-5)


def test_sigmoid_focal_loss_is_finite_at_the_ends(standin):
    x = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(x, torch.tensor([0]), 2.0, 0.25, None, 'none')
    assert torch.isfinite(loss).all() and torch.isfinite(torch.autograd.grad(loss.sum(), x)[0]).all()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('batch, queries', [(2, 6), (1, 0), (0, 6)])
def test_deformable_attention(standin, batch, queries, device):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    sizes, heads, channels, points = [(5, 7), (3, 4)], 2, 4, 3
    value = torch.randn(batch, sum(h * w for h, w in sizes), heads, channels, requires_grad=True)
    where = (torch.rand(batch, queries, heads, 2, points, 2) * 1.4 - 0.2).requires_grad_()
    weight = torch.rand(batch, queries, heads, 2, points, requires_grad=True)

    def sample(b, q, h):
        """Zeros beyond the border: a map with one more ring of zeros, sampled one pixel further."""
        total, start = 0, 0
        for level, (height, width) in enumerate(sizes):
            rows = value[b, start : start + height * width, h].view(height, width, channels).permute(2, 0, 1)
            ring = torch.nn.functional.pad(rows, (2, 2, 2, 2))
            for point in range(points):
                x, y = where[b, q, h, level, point] * torch.tensor([width, height]) - 0.5 + 2
                x, y = x.clamp(0, width + 3), y.clamp(0, height + 3)
                y0, x0 = min(int(y), height + 2), min(int(x), width + 2)
                fy, fx = y - y0, x - x0
                total = total + weight[b, q, h, level, point] * (
                    (1 - fy) * ((1 - fx) * ring[:, y0, x0] + fx * ring[:, y0, x0 + 1])
                    + fy * ((1 - fx) * ring[:, y0 + 1, x0] + fx * ring[:, y0 + 1, x0 + 1])
                )
            start += height * width
        return total

    starts = torch.tensor([0, 35], device=device)
    inputs = [x.detach().to(device).requires_grad_() for x in (value, where, weight)]
    got = MultiScaleDeformableAttnFunction.apply(inputs[0], torch.tensor(sizes, device=device), starts, *inputs[1:], 64)
    assert got.shape == (batch, queries, heads * channels)
    grads = torch.autograd.grad(got, inputs, torch.ones_like(got), allow_unused=True)
    if got.numel() == 0:
        assert all((grad == 0).all() for grad in grads)
        return
    expected = torch.stack(
        [
            torch.stack([torch.cat([sample(b, q, h) for h in range(heads)]) for q in range(queries)])
            for b in range(batch)
        ]
    )
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-5, atol=1e-5)
    for grad, wanted in zip(grads, torch.autograd.grad(expected.sum(), (value, where, weight))):
        torch.testing.assert_close(grad.cpu(), wanted, rtol=1e-4, atol=1e-5)


class FakeTorchvision:
    """Takes torchvision's arguments in torchvision's order, computes with the plain ops, and counts the calls."""

    def __init__(self, plain):
        self.plain, self.calls = plain, []

    def nms(self, dets, scores, iou_threshold):
        self.calls.append('nms')
        return self.plain.nms(dets, scores, iou_threshold, 0)

    def roi_align(self, input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned):
        self.calls.append('roi_align')
        output = input.new_zeros(len(rois), input.shape[1], pooled_height, pooled_width)
        self.plain.roi_align_forward(
            input,
            rois,
            output,
            None,
            None,
            aligned_height=pooled_height,
            aligned_width=pooled_width,
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            pool_mode=1,
            aligned=aligned,
        )
        return output

    def _roi_align_backward(
        self,
        grad,
        rois,
        spatial_scale,
        pooled_height,
        pooled_width,
        batch_size,
        channels,
        height,
        width,
        sampling_ratio,
        aligned,
    ):
        self.calls.append('_roi_align_backward')
        out = grad.new_zeros(batch_size, channels, height, width)
        self.plain.roi_align_backward(
            grad,
            rois,
            None,
            None,
            out,
            aligned_height=pooled_height,
            aligned_width=pooled_width,
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            pool_mode=1,
            aligned=aligned,
        )
        return out


def test_torchvision_is_used_where_it_loads(monkeypatch):
    plain, module = load(), load()
    plain._torchvision = lambda device: None
    vision = FakeTorchvision(plain)
    module._torchvision = lambda device: vision
    results = []
    for standin in (plain, module):
        behind(standin, monkeypatch)
        torch.manual_seed(0)
        x, rois = torch.randn(2, 3, 19, 33, requires_grad=True), make_rois(9)
        pooled = ops.roi_align(x, rois, (3, 2), 0.125, 2, 'avg', False)
        best = ops.roi_align(x, rois, (3, 2), 0.125, 2, 'max', False)  # torchvision has no such mode
        kept = ops.nms(rois[:, 1:].contiguous(), torch.rand(9), 0.1, offset=1)[1]
        results.append((pooled, best, kept, torch.autograd.grad(pooled.square().sum(), x)[0]))
    torch.testing.assert_close(*results)
    assert vision.calls == ['roi_align', 'nms', '_roi_align_backward']


def slow_softnms(boxes, scores, threshold, sigma, lowest, method, offset):
    left, out = list(enumerate(scores.tolist())), []
    while left:
        left.sort(key=lambda pair: -pair[1])
        best, score = left.pop(0)
        out.append((best, score))
        after = []
        for i, other in left:
            x1, y1 = torch.maximum(boxes[i, :2], boxes[best, :2]).tolist()
            x2, y2 = torch.minimum(boxes[i, 2:], boxes[best, 2:]).tolist()
            inter = max(x2 - x1 + offset, 0) * max(y2 - y1 + offset, 0)
            area = sum(float((boxes[k, 2:] - boxes[k, :2] + offset).prod()) for k in (i, best))
            iou = inter / (area - inter)
            factor = math.exp(-(iou**2) / sigma)
            if method != 'gaussian':
                factor = 1 if iou < threshold else 1 - iou if method == 'linear' else 0
            if other * factor >= lowest:
                after.append((i, other * factor))
        left = after
    return out


@pytest.mark.parametrize('number', [0, 1, 40])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(standin, number, offset, method):
    boxes, scores = make_rois(number)[:, 1:].contiguous(), torch.rand(number)
    boxes[:, 2:] += 3  # none is empty
    dets, indices = ops.soft_nms(boxes, scores, 0.3, 0.4, 0.1, method, offset)
    expected = slow_softnms(boxes, scores, 0.3, 0.4, 0.1, method, offset)
    assert indices.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in expected]))
    assert torch.equal(dets[:, :4], boxes[indices])


def test_nms_match(standin):
    boxes = make_rois(40)[:, 1:]
    boxes[:, 2:] += 3
    scores = torch.rand(40)
    groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.3)
    assert sorted(i for group in groups for i in group.tolist()) == list(range(40))
    assert any(len(group) > 1 for group in groups)
    assert [group[0].item() for group in groups] == slow_nms(boxes, scores, 0.3, 0)
    for group in groups:
        assert scores[group].tolist() == sorted(scores[group].tolist(), reverse=True)
        for i in group[1:].tolist():
            assert standin._iou(boxes[group[:1]], boxes[i : i + 1]) >= 0.3
    assert ops.nms_match(torch.zeros(0, 5), 0.3) == []


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_deformable_attention_keeps_its_type_under_autocast(standin, dtype):
    value, where = torch.randn(1, 20, 2, 4, dtype=dtype), torch.rand(1, 3, 2, 1, 2, 2, dtype=dtype)
    weight = torch.rand(1, 3, 2, 1, 2, dtype=dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = standin.ms_deform_attn_forward(
            value, torch.tensor([[4, 5]]), torch.tensor([0]), where, weight, im2col_step=64
        )
    assert out.dtype == dtype


def test_other_ops_name_themselves_and_their_package(standin):
    with pytest.raises(
        NotImplementedError, match='`active_rotated_filter_forward`.*mmcv>=2.1,<2.2.*onedl-mmcv'
    ) as error:
        standin.active_rotated_filter_forward(1)
    assert '\n' not in str(error.value)


def test_environment_of_a_run_can_be_collected(standin):
    from mmcv.utils import collect_env

    assert 'MMCV Compiler' in collect_env()


# --------------------------------------------------------------------------------------------------- against compiled
def test_standin_stands_in_only_where_nothing_is_compiled():
    package = os.path.dirname(mmcv.__file__)
    built = [name for name in os.listdir(package) if name.startswith('_ext.')]
    assert (COMPILED is not None) == bool(built)
    assert COMPILED is not None or 'MMTOKEN_TEST_COMPILED' not in os.environ, 'mmcv was to be compiled here'


def both(call, standin, monkeypatch):
    """``call()`` by the stand-in and by the compiled ops, on the same random numbers."""
    torch.manual_seed(1)
    ours = call()
    behind(COMPILED, monkeypatch)
    torch.manual_seed(1)
    return ours, call()


@compiled
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('number', [0, 1, 2500])
def test_nms_equals_the_compiled(standin, monkeypatch, number, offset):

    def call():
        corner = torch.rand(number, 2) * 300
        boxes = torch.cat([corner, corner + torch.rand(number, 2) * 80], 1)
        return ops.nms(boxes, torch.rand(number), 0.5, offset=offset)[1]

    ours, theirs = both(call, standin, monkeypatch)
    assert torch.equal(ours, theirs)


@compiled
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('number', [0, 150])
def test_roi_align_equals_the_compiled(standin, monkeypatch, number, mode, ratio, aligned):

    def call():
        x = torch.randn(2, 8, 19, 33, requires_grad=True)
        out = ops.roi_align(x, make_rois(number), (7, 5), 0.125, ratio, mode, aligned)
        return out, torch.autograd.grad(out, x, torch.randn_like(out))[0]

    ours, theirs = both(call, standin, monkeypatch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@compiled
@pytest.mark.gpu
def test_focal_loss_and_deformable_attention_equal_the_compiled(standin, monkeypatch):
    """mmcv compiles these for CUDA only."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    def call():
        x = (torch.randn(50, 5) * 2).cuda().requires_grad_()
        loss = ops.sigmoid_focal_loss(x, torch.randint(0, 6, (50,)).cuda(), 2.0, 0.25, None, 'none')
        value, where, weight = (
            t.cuda().requires_grad_()
            for t in (torch.randn(2, 47, 2, 8), torch.rand(2, 9, 2, 2, 4, 2) * 1.4 - 0.2, torch.rand(2, 9, 2, 2, 4))
        )
        out = MultiScaleDeformableAttnFunction.apply(
            value, torch.tensor([[5, 7], [3, 4]]).cuda(), torch.tensor([0, 35]).cuda(), where, weight, 64
        )
        return (loss, out, *torch.autograd.grad(loss.sum() + out.square().sum(), (x, value, where, weight)))

    ours, theirs = both(call, standin, monkeypatch)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
