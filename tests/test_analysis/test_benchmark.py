"""What is timed, what it needs, and where one model overtakes another."""

from collections import OrderedDict

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from mmtoken.analysis import count_macs, latency, segmentor_macs
from mmtoken.analysis.benchmark import Bench, _peak_on_the_cpu, batches, break_even, break_even_points, ladder
from mmtoken.analysis.loading import build_model, read_config
from mmtoken.engine.errors import UserError

OPTIMIZER = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-5))


@pytest.fixture(autouse=True)
def _own_scope(monkeypatch):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


@pytest.mark.parametrize(
    'ratios, expected',
    [
        ([0.5, 0.9, 1.1, 1.3], 300),  # half way between 200 and 400
        ([0.5, 0.8, 1.0, 1.3], 400),
        ([1.1, 1.2, 1.3, 1.4], 100),
        ([0.9, 1.1, 0.7, 1.3], 600),  # the last time that it overtakes
        ([0.5, 0.6, 0.7, 0.99], None),
    ],
)
def test_break_even(ratios, expected):
    counts = [100, 200, 400, 800]
    assert break_even(counts, ratios) == (expected if expected is None else pytest.approx(expected))
    rows = [
        dict(name=name, batch=1, tokens=n, speedup=dict(ratio=ratio if name == 'b' else 1))
        for n, ratio in zip(counts, ratios)
        for name in 'ab'
    ]
    (point,) = break_even_points(rows, 'a')
    text = {None: 'slower up to 800', 100: 'faster at every size, from 100'}.get(expected, f'from about {expected}')
    assert point['name'] == 'b' and text in point['text']


def test_ladder_keeps_the_shape_in_whole_patches():
    assert ladder((504, 672), 14, [252, 1008, 252]) == [(252, 336), (1008, 1344)]
    sizes = ladder((504, 672), 14)
    assert len(sizes) == 6 and all(h % 14 == w % 14 == 0 and abs(w / h - 4 / 3) < 0.08 for h, w in sizes)
    assert ladder((32, 32), 32) == [(32, 32), (64, 64)]


def test_peak_of_what_is_alive_at_once():
    megabyte = 2**20

    def work():
        a = torch.empty(megabyte, dtype=torch.uint8)
        b = torch.empty(2 * megabyte, dtype=torch.uint8)
        del a
        c = torch.empty(megabyte // 2, dtype=torch.uint8)
        return b.numel() + c.numel()

    assert 3 * megabyte <= _peak_on_the_cpu(work) < 3.1 * megabyte


def test_peak_memory_is_that_of_the_model_alone():
    class Wide(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(width, 1, 1))

        def forward(self, images):
            return images * self.factor

    bench = Bench(dict(small=Wide(16), large=Wide(64)))
    images = torch.zeros(2, 1, 128, 128)
    weights, out = 4 * 64, 4 * 2 * 64 * 128 * 128
    assert weights + out <= bench.peak_memory('large', images) < 1.01 * out
    assert bench.peak_memory('large', images) > 3 * bench.peak_memory('small', images)


@pytest.mark.parametrize(
    'options', [dict(cuda_graph=True), dict(cuda_graph=True, device='cuda', optimizers=dict(a=OPTIMIZER))]
)
def test_cuda_graphs_are_for_predictions_on_a_gpu(options):
    with pytest.raises(UserError, match='--cuda-graph'):
        Bench(dict(a=nn.Conv2d(3, 3, 1)), **options)


def test_what_is_compiled_needs_a_fixed_number_of_tokens():
    from mmtoken.testing import toy_hosts

    host = toy_hosts()['TokenVisionTransformer']
    methods = [dict(type='mmtoken.ToMe', r=1), dict(type='mmtoken.MixedScale', threshold=0.5)]
    models = dict(dense=host(), mixed=host(reducer=methods[1:]), merged=host(reducer=methods[:1]))
    with pytest.raises(UserError, match='--compile: the token count of reducer MixedScale depends on the picture'):
        Bench(models, device='cpu', compile=True)
    del models['mixed']
    Bench(models, device='cpu', compile=True)


def test_cuda_graphs_need_a_fixed_number_of_tokens():
    model = nn.Conv2d(3, 3, 1)
    model.dynamic = True
    with pytest.raises(UserError, match='--cuda-graph needs the same work for each picture, and that of b depends'):
        Bench(dict(a=nn.Conv2d(3, 3, 1), b=model), device='cuda', cuda_graph=True)


def test_each_picture_comes_equally_often():
    images = torch.arange(6)
    assert [b.tolist() for b in batches(images, 4, True)] == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    assert [b.tolist() for b in batches(images, 4, False)] == [[0, 1, 2, 3], [4, 5, 0, 1]]
    assert [b.tolist() for b in batches(images, 3, True)] == [[0, 1, 2], [3, 4, 5]]
    assert [b.tolist() for b in batches(images[:1], 2, True)] == [[0, 0]]


@pytest.fixture
def on_paper(monkeypatch):
    """A machine whose seconds are MACs."""
    monkeypatch.setattr(latency, '_sample_cpu', lambda call, args: count_macs(call, args).total / 1e6)


def models_of_unlike_cost(loud):
    from mmtoken.testing import toy_hosts

    host = toy_hosts()['TokenVisionTransformer']
    return dict(
        dense=host(),
        pooled=host(reducer=dict(type='mmtoken.AvgPool', layer=1)),
        loud=host(reducer=dict(type='mmtoken.Loud', part=1.05)),
    )


@pytest.mark.parametrize('models', [['dense', 'loud'], ['loud', 'dense'], ['dense', 'pooled', 'loud']])
def test_where_seconds_are_macs_the_quotient_is_one(loud, on_paper, models):
    known = models_of_unlike_cost(loud)
    images = torch.randn(5, 3, 32, 32)
    bench = Bench({name: known[name] for name in models})
    costs = bench.costs(images)
    each = [segmentor_macs(known['loud'], image[None]).total for image in images]
    assert len(set(each)) > 2 and costs['loud'].total == sum(each) / 5
    rows = bench.measure(images, 1, 7, 0, costs)
    for row in rows:
        assert row['efficiency'] == pytest.approx(1, abs=1e-12) and len(row['seconds']) == 10
        assert row['speedup']['low'] == pytest.approx(row['speedup']['high'])


class Boxes(nn.Module):
    """The second half costs more the more boxes there are."""

    task = 'detect'

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 16)

    def predict(self, images):
        return self.head(images.new_zeros(int(images.sum()), 16))


def test_detectors_are_counted_on_all_pictures(monkeypatch, on_paper):
    from mmtoken.analysis.report import costs
    from mmtoken.analysis.tasks import TASKS

    monkeypatch.setattr(TASKS['detect'], 'run', lambda model, whole=False: lambda images: model.predict(images))
    model, images = Boxes(), torch.tensor([1, 2, 6]).view(3, 1, 1, 1).expand(3, 1, 2, 3) / 6
    bench = Bench(dict(a=model))
    assert bench.costs(images)['a'].total == 3 * 16**2
    assert costs(model, images.split(1))['macs'] == [n * 16**2 for n in (1, 2, 6)]
    assert bench.rounds(images, 1, 5) == 6
    with pytest.raises(UserError, match='--cuda-graph needs the same work'):
        Bench(dict(a=model), device='cuda', cuda_graph=True)


def test_of_pictures_alike_one_is_counted_after_a_first_call():
    from mmtoken.analysis import MacReport
    from mmtoken.analysis.flops import over_pictures

    seen = []
    inputs = [torch.zeros(1, 3, *size) for size in [(8, 8), (8, 9), (8, 8)]]

    def count(n):
        seen.append(n)
        return MacReport(total=10 * n + (5 if len(seen) == 1 else 2))

    reports = over_pictures(nn.Conv2d(3, 3, 1), inputs, count)
    assert [report.total for report in reports] == [2, 12, 2] and seen == [0, 0, 1]
    assert [report.once for report in reports] == [3, 0, 3]


class Trained(nn.Module):
    """Its cost depends on the picture; its batch norm is moved by whatever runs in training mode."""

    dynamic = True

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), nn.Linear(16, 16)

    def loss(self, images, samples):
        self.norm(images)
        return dict(loss=self.head(images.new_zeros(int(images.sum().round()), 16)).sum())


def test_training_steps_are_counted_a_picture_and_leave_no_trace(monkeypatch):
    from mmtoken.analysis import benchmark

    monkeypatch.setattr(benchmark, 'synthetic_samples', lambda *args: None)
    model, images = Trained(), torch.tensor([1, 2, 6]).view(3, 1, 1, 1).expand(3, 1, 2, 3) / 6
    bench = Bench(dict(a=model), optimizers=dict(a=OPTIMIZER))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert bench.costs(images)['a'].total == 3 * 16**2
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers()) and model.norm.training


RESNET18 = {'backbone.depth': 18}


def few(head):
    """Mask2Former with less of everything."""
    return {
        **RESNET18,
        f'{head}.in_channels': [64, 128, 256, 512],
        f'{head}.pixel_decoder.encoder.num_layers': 1,
        f'{head}.transformer_decoder.num_layers': 2,
        f'{head}.num_queries': 20,
    }


@pytest.mark.parametrize(
    'path, options',
    [
        (
            'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
            {
                **RESNET18,
                'neck.in_channels': [64, 128, 256, 512],
                'train_cfg.rcnn.sampler.num': 16,
                'roi_head.bbox_head.fc_out_channels': 32,
            },
        ),
        (
            'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
            {**few('panoptic_head'), 'train_cfg.num_points': 64},
        ),
        (
            'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
            {
                **RESNET18,
                'neck.in_channels': [128, 256, 512],
                'num_queries': 20,
                'encoder.num_layers': 1,
                'decoder.num_layers': 1,
            },
        ),
        (
            'mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py',
            {**few('decode_head'), 'decode_head.train_cfg.num_points': 64},
        ),
    ],
)
def test_a_training_step_changes_the_weights(path, options):
    cfg = read_config(path, {f'model.{key}': value for key, value in options.items()})
    model = build_model(cfg)
    bench = Bench(dict(a=model), optimizers=dict(a=cfg.optim_wrapper))
    images = torch.randn(2, 3, 64, 96)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    bench.steps['a'](images)
    changed = [name for name, p in model.named_parameters() if name in before and not torch.equal(p, before[name])]
    assert len(changed) > 0.7 * len(before)  # all but what a residual that starts at zero hides
    report = bench.count('a', images)
    heads = [
        name
        for name in ('rpn_head', 'roi_head', 'panoptic_head', 'decode_head', 'bbox_head')
        if name in report.by_module
    ]
    assert heads and all(report.by_module[name] > 0 for name in heads)


@pytest.mark.gpu
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(amp='fp16'),
        dict(amp='bf16', compile=True),
        dict(cuda_graph=True),
        dict(amp='bf16', cuda_graph=True),
    ],
)
def test_on_a_gpu(options):
    from mmtoken.testing import toy_hosts

    host = toy_hosts()['TokenVisionTransformer']
    models = dict(dense=host().cuda(), pooled=host(reducer=dict(type='mmtoken.AvgPool', layer=1)).cuda())
    bench, images = Bench(models, device='cuda', **options), torch.randn(3, 3, 32, 32, device='cuda')
    rows = bench.measure(images, 2, 5, 2, bench.costs(images))
    assert [row['name'] for row in rows] == ['dense', 'pooled'] and rows[1]['mac_ratio'] < 1
    assert all(row['peak_memory'] > 0 for row in rows)
    out = bench.steps['pooled'](images[:2])[0].float()
    with torch.no_grad():
        assert (out - models['pooled'](images[:2])[0]).abs().max() < (0.2 if 'amp' in options else 1e-4)


@pytest.mark.gpu
def test_a_training_step_on_a_gpu():
    cfg = read_config('mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py')
    model = build_model(cfg).cuda()
    bench = Bench(dict(a=model), device='cuda', amp='fp16', optimizers=dict(a=cfg.optim_wrapper))
    rows = bench.measure(
        torch.randn(2, 3, 64, 64, device='cuda'), 2, 5, 1, bench.costs(torch.zeros(2, 3, 64, 64, device='cuda'))
    )
    assert rows[0]['peak_memory'] > 4 * sum(p.numel() for p in model.parameters())
