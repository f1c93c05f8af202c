"""TokenStatsHook, in the runs of a tiny segmentor whose token counts are known."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, METRICS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from torch.utils.data import Dataset

from mmtoken.registry import HOOKS

GRID = (6, 8)
IMAGES = 5


class Noise(Dataset):
    """Five pictures of unlike contrast."""

    def __len__(self):
        return IMAGES

    def __getitem__(self, i):
        from mmseg.structures import SegDataSample

        size = (GRID[0] * 4, GRID[1] * 4)
        image = torch.randn(3, *size, generator=torch.Generator().manual_seed(i)) * (1 + i)
        sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4))
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.long))
        return dict(inputs=image, data_samples=sample)


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(nothing=0.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Builds a runner: ``run(reducer, **hook)``."""
    monkeypatch.setitem(DATASETS.module_dict, 'Noise', Noise)
    monkeypatch.setitem(METRICS.module_dict, 'Nothing', Nothing)

    def build(reducer, backend='LocalVisBackend', **hook):
        torch.manual_seed(0)
        loader = dict(
            batch_size=2, num_workers=0, dataset=dict(type='Noise'), sampler=dict(type='DefaultSampler', shuffle=False)
        )
        head = dict(
            type='FCNHead',
            in_channels=16,
            in_index=0,
            channels=16,
            num_convs=0,
            concat_input=False,
            num_classes=2,
            norm_cfg=None,
        )
        backbone = dict(
            type='mmtoken.TokenVisionTransformer',
            img_size=32,
            patch_size=4,
            embed_dims=16,
            num_layers=3,
            num_heads=2,
            reducer=reducer,
        )
        return Runner.from_cfg(
            Config(
                dict(
                    default_scope='mmseg',
                    work_dir=str(tmp_path),
                    experiment_name=tmp_path.name,
                    model=dict(
                        type='EncoderDecoder',
                        backbone=backbone,
                        decode_head=head,
                        test_cfg=dict(mode='whole'),
                        data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=4),
                    ),
                    train_dataloader=loader,
                    val_dataloader=loader,
                    test_dataloader=loader,
                    train_cfg=dict(type='IterBasedTrainLoop', max_iters=6, val_interval=3),
                    val_cfg=dict(),
                    test_cfg=dict(),
                    val_evaluator=dict(type='Nothing'),
                    test_evaluator=dict(type='Nothing'),
                    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
                    log_level='ERROR',
                    visualizer=dict(type='Visualizer', vis_backends=[dict(type=backend)]),
                    custom_hooks=[dict(type='mmtoken.TokenStatsHook', **hook)],
                )
            )
        )

    return build


def logged(folder, mode):
    """``{step: {name: value}}`` of what the local backend wrote."""
    (path,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        line['step']: {k.removeprefix(f'{mode}/'): v for k, v in line.items() if k.startswith(f'{mode}/')}
        for line in lines
        if f'{mode}/tokens/00' in line
    }


def expected(counts):
    return {
        **{f'tokens/{i:02}': n for i, n in enumerate(counts)},
        **{f'tokens_part/{i:02}': pytest.approx(n / 48) for i, n in enumerate(counts)},
    }


def test_training_and_validation(run, tmp_path):
    runner = run(dict(type='mmtoken.AvgPool', layer=1, grid=0.5), interval=2)
    runner.train()
    assert logged(tmp_path, 'train') == {step: expected([48, 12, 12]) for step in (2, 4, 6)}
    assert logged(tmp_path, 'val') == {step: expected([48, 12, 12]) for step in (3, 6)}
    assert 'forward_tokens' not in vars(runner.model.backbone)


def test_unequal_counts_are_means_over_the_images(run, tmp_path, loud):
    runner = run(dict(type='mmtoken.Loud', part=1.0, layer=1))
    runner.test()
    counts = []
    for i in range(IMAGES):  # one by one; the batches of the run are 2, 2, 1
        image = Noise()[i]['inputs'][None]
        counts.append(runner.model.backbone.token_counts(image))
    assert len({c[1] for c in counts}) > 1
    (values,) = logged(tmp_path, 'test').values()
    assert values == {k: pytest.approx(v) for k, v in expected([sum(c) / IMAGES for c in zip(*counts)]).items()}


def test_tensorboard(run, tmp_path):
    pytest.importorskip('tensorboard', reason='in no extra of mmtoken: pip install tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(dict(type='mmtoken.ToMe', r=4), backend='TensorboardVisBackend', interval=3).train()
    (folder,) = {path.parent for path in tmp_path.rglob('events.out.tfevents*')}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars('train/tokens/02')] == [(3, 36), (6, 36)]
    assert [(e.step, e.value) for e in events.Scalars('val/tokens_part/00')] == [
        (step, pytest.approx(44 / 48)) for step in (3, 6)
    ]


def test_wrapped_models_and_other_processes(run, tmp_path, monkeypatch):
    """Under DistributedDataParallel, beside a process that saw one image of 48 tokens in each block."""
    from mmtoken.engine import token_stats

    other = torch.tensor([48.0, 48, 48, 48, 1], dtype=torch.float64)
    monkeypatch.setattr(token_stats, 'all_reduce', lambda sums: sums.add_(other))
    runner = run(dict(type='mmtoken.AvgPool', layer=0, grid=0.5))
    wrapper = torch.nn.Module()
    wrapper.module, wrapper.test_step = runner.model, runner.model.test_step
    runner.model = wrapper
    runner.test()
    (values,) = logged(tmp_path, 'test').values()
    assert values == expected([(12 * IMAGES + 48) / (IMAGES + 1)] * 3)


def test_nothing_waits_for_the_device(run, monkeypatch):
    """Static methods: what the hook adds to a pass reads no tensor."""
    runner = run(dict(type='mmtoken.ToMe', r=4))
    hook = next(h for h in runner.hooks if type(h).__name__ == 'TokenStatsHook')
    hook.before_run(runner)
    host = runner.model.backbone.to('meta')
    host(torch.zeros(3, 3, 24, 32, device='meta'))  # reading a value of it would raise
    assert hook.sums == dict(train=[3 * 44, 3 * 40, 3 * 36, 3 * 48, 3])


def test_refusals(run):
    with pytest.raises(ValueError, match='interval=0 must be at least 1'):
        HOOKS.build(dict(type='mmtoken.TokenStatsHook', interval=0))
    runner = run(None)
    runner.model.backbone = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="no backbone of mmtoken's.*remove the hook"):
        runner.test()
