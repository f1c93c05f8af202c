"""Bad input gets one line that names the key and what would be right, before any work starts."""

import os

import pytest
import torch

from mmtoken.core import build_reducer
from mmtoken.testing import PATCH, SIDE, toy_hosts

HOST = toy_hosts()['TokenVisionTransformer']


@pytest.mark.parametrize(
    ('reducer', 'expected'),
    [
        (dict(type='mmtoken.Exepdit', layer=1), r"reducer.type='mmtoken.Exepdit'.*mmtoken.Expedit"),
        (dict(layer=1), r"reducer.type='None' is not.*mmtoken.Expedit"),
        (dict(type='mmtoken.Expedit', layer=1, grid=1.5), r'Expedit: grid=1.5 is outside \(0, 1\]'),
        (dict(type='mmtoken.Expedit', layer=1, grid=0), r'grid=0 is outside \(0, 1\]'),
        (dict(type='mmtoken.AvgPool', layer=1, grid=(4,)), r'grid=\(4,\) is not a grid; give \(height, width\)'),
        (dict(type='mmtoken.ToMe', keep=-0.1), r'keep=-0.1 is outside \(0, 1\]'),
        (dict(type='mmtoken.ToMe', r=4, keep=0.5), 'either r or keep'),
        (dict(type='mmtoken.ToMe'), 'either r or keep'),
        (dict(type='mmtoken.ToMe', r=[1, 2, 3]), r'r has 3 entries; this model merges in 4 blocks'),
        (dict(type='mmtoken.ToMe', r=-3), 'integers >= 0'),
        (dict(type='mmtoken.ToMe', keep='0.5'), r"keep='0.5' is outside"),
        (dict(type='mmtoken.ToMe', r=3, layers=[]), r'layers=\[\] must be a list of different blocks'),
        (dict(type='mmtoken.ToMe', r=3, layers=2), 'layers=2 must be a list'),
        (dict(type='mmtoken.ToMe', r=3, layers=[1, 1]), r'layers=\[1, 1\] must be a list of different blocks'),
        ('mmtoken.ToMe', r"reducer='mmtoken.ToMe' must be a dict"),
        ([], 'reducer=.. is empty'),
        (
            [dict(type='mmtoken.Expedit', layer=1, grid=0.5, restore='late'), dict(type='mmtoken.ToMe', r=1)],
            "restore='late' must be the last",
        ),
        (dict(type='mmtoken.ToMe', r=3, layers=[2, 7]), r'layers=\[2, 7\] goes beyond the blocks 0 to 3'),
        (dict(type='mmtoken.Expedit', layer=4, grid=0.5), 'reducer.layer=4 is not a block.*0 to 3'),
        (dict(type='mmtoken.Expedit', layer=-1, grid=0.5), 'Expedit: layer=-1 is not a block'),
        (dict(type='mmtoken.Expedit', layer=2, grid=0.5, restore_at=9), 'reducer.restore_at=9 is not a block'),
        (dict(type='mmtoken.Expedit', layer=2, grid=0.5, restore_at=2), 'restore_at=2 must come after layer=2'),
        (dict(type='mmtoken.Expedit', layer=2, grid=0.5, window=4), 'window=4 must be odd'),
        (dict(type='mmtoken.Expedit', layer=2, grid=0.5, temperature='hot'), "temperature='hot' must be 'auto'"),
        (dict(type='mmtoken.Expedit', layer=2, grid=0.5, neighbors=0), 'neighbors=0 must be an integer of at least 1'),
        (
            dict(type='mmtoken.Expedit', layer=2, grid=0.5, restore='later'),
            "restore='later' is unknown; choose one of 'feature', 'late'",
        ),
        (dict(type='mmtoken.AvgPool', layer=1, mode='cubic'), "mode='cubic' is unknown"),
    ],
)
def test_reducer_arguments(reducer, expected):
    with pytest.raises(ValueError, match=expected) as error:
        HOST(reducer=reducer)
    assert '\n' not in str(error.value)


def test_a_gpu_that_is_named_becomes_the_current_one(monkeypatch):
    from mmtoken.engine.devices import check_device

    chosen = []
    monkeypatch.setattr(torch, 'empty', lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    for device in ('cpu', 'cuda', 'cuda:1'):
        check_device(device)
    assert chosen == ['cuda:1']


@pytest.mark.parametrize('scope, name', [('mmseg', 'VisionTransformer'), ('mmdet', 'mmseg.VisionTransformer')])
def test_a_reducer_on_a_stock_backbone(scope, name):
    from mmengine.config import Config

    from mmtoken.engine.errors import UserError
    from mmtoken.engine.models import build_runner

    backbone = dict(type=name, reducer=dict(type='mmtoken.ToMe', r=1))
    with pytest.raises(UserError, match=f'backbone.type={name} takes no reducer; use mmtoken.TokenVisionTransformer$'):
        build_runner(Config(dict(default_scope=scope, model=dict(backbone=backbone))))


def test_an_output_that_may_not_be_written(tmp_path, monkeypatch):
    from mmtoken.engine.errors import UserError
    from mmtoken.engine.files import check_output

    asked = []
    monkeypatch.setattr(os, 'access', lambda path, mode: asked.append(path) or False)
    (tmp_path / 'there').write_text('')
    for name, looked_at in (('there', tmp_path / 'there'), ('new', tmp_path)):
        with pytest.raises(UserError, match=f'--json .*{name}: no permission'):
            check_output('--json', tmp_path / name)
        assert asked.pop() == looked_at
    check_output('--json', None)


def test_a_file_that_is_no_checkpoint(tmp_path):
    from mmtoken.engine.checkpoints import check_checkpoint
    from mmtoken.engine.errors import UserError

    (tmp_path / 'text.pth').write_text('no weights')
    (tmp_path / 'empty.pth').write_bytes(b'')
    torch.save([1, 2], tmp_path / 'list.pth')
    for name in ('text', 'empty', 'list'):
        with pytest.raises(UserError, match=f'{name}.pth cannot be read .*give a file with the weights') as error:
            check_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / f'{name}.pth'))
        assert '\n' not in str(error.value)


def test_a_checkpoint_is_loaded_by_the_check_as_by_mmengine(tmp_path, capsys):
    from mmengine.runner import load_checkpoint

    from mmtoken.engine.checkpoints import check_checkpoint

    class Versioned(torch.nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state, prefix, metadata, *args):
            if metadata.get('version', 1) < 2:  # as upstream's modules turn what older ones saved
                state[f'{prefix}weight'] = -state[f'{prefix}weight']
            super()._load_from_state_dict(state, prefix, metadata, *args)

    def model():
        return torch.nn.Sequential(Versioned(2, 3), torch.nn.BatchNorm1d(3))

    trained = model()
    trained(torch.randn(4, 2))
    path = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict=trained.state_dict()), path)
    ours, theirs = model(), model()
    check_checkpoint(ours, path)
    assert capsys.readouterr().out == ''
    load_checkpoint(theirs, path, map_location='cpu')
    for name, value in trained.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value) and torch.equal(theirs.state_dict()[name], value)


def test_unknown_argument():
    with pytest.raises(TypeError, match="reducer mmtoken.Expedit: .*'ratio'"):
        build_reducer(dict(type='mmtoken.Expedit', layer=1, ratio=0.5))


def test_late_needs_outputs_on_reduced_tokens():
    with pytest.raises(ValueError, match="restore='late' needs every output.*out_indices from 2"):
        HOST(reducer=dict(type='mmtoken.Expedit', layer=2, grid=0.5, restore='late'), out_indices=(1, 3))


def test_late_needs_our_segmentor():
    host = HOST(reducer=dict(type='mmtoken.Expedit', layer=2, grid=0.5, restore='late'))
    with pytest.raises(ValueError, match="model.type='mmtoken.TokenEncoderDecoder'"):
        host(torch.randn(1, 3, PATCH * SIDE, PATCH * SIDE))


@pytest.mark.parametrize('method', ['mmtoken.Expedit', 'mmtoken.AvgPool'])
def test_grid_larger_than_the_image(method):
    host = HOST(reducer=dict(type=method, layer=1, grid=(4, 9)))
    with pytest.raises(ValueError, match=r"reducer.grid=\(4, 9\) is larger than the image's 8x8 tokens.*ratio"):
        host(torch.randn(1, 3, PATCH * SIDE, PATCH * SIDE))


@pytest.mark.parametrize('name', [name for name, make in toy_hosts().items() if not make().pads])
def test_image_smaller_than_a_patch(name):
    with pytest.raises(ValueError, match=r'The image is 3x32 pixels, smaller than one patch \(patch_size=4\)'):
        toy_hosts()[name]()(torch.randn(1, 3, 3, 32))


@pytest.mark.parametrize('name', ['TokenBEiT', 'TokenMAE'])
def test_relative_host_has_one_size(name):
    with pytest.raises(ValueError, match=r'10x8 patches, but .* made for 8x8; set backbone.img_size'):
        toy_hosts()[name]()(torch.randn(1, 3, 40, 32))


# -------------------------------------------------------------------------------------------------- sections of configs
@pytest.mark.parametrize(
    'options, words',
    [
        (dict(model=5), r'^model=5 must be a dict\(…\)$'),
        ({'model.backbone': 'vit'}, "^model.backbone='vit' must be a dict"),
        ({'model.decode_head': 5}, '^model.decode_head=5 must be a dict.* or a list$'),
        ({'model.init_cfg': 5}, '^model.init_cfg=5 must be'),
        ({'model.data_preprocessor': [1]}, r'^model.data_preprocessor=\[1\] must be a dict'),
        ({'model.test_cfg': 5}, '^model.test_cfg=5 must be a dict'),
        ({'model.test_cfg.mode': 'slides'}, "^model.test_cfg.mode='slides' is unknown; choose 'whole', 'slide'"),
        ({'model.test_cfg.mode': 'slide'}, "^model.test_cfg.mode='slide' needs crop_size"),
        ({'model.test_cfg': dict(mode='slide', crop_size=(8, 8))}, "mode='slide' needs stride"),
        (dict(train_dataloader=5), '^train_dataloader=5 must be a dict'),
        ({'val_dataloader.dataset': 'ade'}, "^val_dataloader.dataset='ade' must be a dict"),
        (
            {'val_dataloader.dataset.data_prefix': 5},
            '^val_dataloader.dataset.data_prefix=5 must be a dict.* or a text',
        ),
        ({'val_dataloader.dataset.data_root': 5}, '^val_dataloader.dataset.data_root=5 must be a text'),
        ({'val_dataloader.dataset.dataset.pipeline': 'a'}, "dataset.dataset.pipeline='a' must be a list"),
        (dict(val_evaluator=5), '^val_evaluator=5 must be a dict.* or a list'),
        (dict(optim_wrapper='Adam'), "^optim_wrapper='Adam' must be a dict"),
        ({'optim_wrapper.optimizer': 5}, '^optim_wrapper.optimizer=5 must be a dict'),
        (dict(param_scheduler=5), '^param_scheduler=5 must be a dict.* or a list'),
        (dict(custom_hooks=5), '^custom_hooks=5 must be a list'),
        ({'train_cfg.max_iters': 0}, '^train_cfg.max_iters=0 must be an integer of at least 1'),
        ({'train_cfg.val_interval': 0}, '^train_cfg.val_interval=0 must be'),
        ({'train_cfg.max_epochs': '3'}, "^train_cfg.max_epochs='3' must be"),
        (dict(default_hooks=5), '^default_hooks=5 must be a dict'),
        (dict(default_scope=5), '^default_scope=5 must be a text'),
        (dict(work_dir=5), '^work_dir=5 must be a text'),
        (dict(randomness=5), '^randomness=5 must be a dict'),
    ],
)
def test_sections_of_a_config(options, words):
    from mmengine.config import Config

    from mmtoken.engine.configs import check_kinds
    from mmtoken.engine.errors import UserError

    dataset = dict(
        data_root='a', data_prefix=dict(img_path='b'), metainfo=dict(dataset='ade'), dataset=dict(pipeline=[])
    )
    cfg = Config(
        dict(
            model=dict(backbone=dict(init_cfg=None), decode_head=[dict()], test_cfg=dict(mode='whole'), neck=None),
            val_dataloader=dict(dataset=dataset),
            optim_wrapper=dict(optimizer=dict()),
            param_scheduler=[dict()],
            custom_hooks=[],
            train_cfg=dict(max_iters=3),
        )
    )
    check_kinds(cfg)
    cfg.merge_from_dict(options)
    with pytest.raises(UserError, match=words):
        check_kinds(cfg)


def test_heads_read_outputs_that_are_there():
    from mmtoken.engine.errors import UserError
    from mmtoken.engine.models import check_heads

    model = torch.nn.Module()
    model.backbone, model.decode_head = HOST(out_indices=(1, 3)), torch.nn.Identity()
    model.auxiliary_head = torch.nn.ModuleList([torch.nn.Identity()])
    for index, aux in ((1, 0), (-1, -2), ([0, 1], 1), (None, 'all')):
        model.decode_head.in_index, model.auxiliary_head[0].in_index = index, aux
        check_heads(model)
    for index, words in ((2, '2 reads output 2'), ([0, -3], r'\[0, -3\] reads output -3')):
        model.decode_head.in_index, model.auxiliary_head[0].in_index = index, 0
        with pytest.raises(UserError, match=f'^model.decode_head.in_index={words}'):
            check_heads(model)
    model.decode_head.in_index, model.auxiliary_head[0].in_index = 0, 7
    with pytest.raises(UserError, match='^model.auxiliary_head.0.in_index=7 reads output 7, and the backbone gives 2'):
        check_heads(model)
    model.neck = torch.nn.Identity()  # which may give any number
    check_heads(model)


def test_fsdp_shards_a_model_as_a_whole_only():
    """FSDP itself needs a GPU; what is looked at is where it stands."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    from mmtoken.engine.errors import UserError
    from mmtoken.engine.models import check_sharding

    class Sharded(FullyShardedDataParallel):
        def __init__(self, module):
            torch.nn.Module.__init__(self)
            self.inner = module

        module = property(lambda self: self.inner)

    model = torch.nn.Module()
    model.backbone, model.decode_head = HOST(), Sharded(torch.nn.Identity())
    check_sharding(Sharded(model))
    model.backbone.layers[1] = Sharded(model.backbone.layers[1])
    with pytest.raises(UserError, match='^FSDP shards model.backbone.layers.1 by itself.*no auto_wrap_policy') as error:
        check_sharding(Sharded(model))
    assert '\n' not in str(error.value)
    model.backbone = Sharded(HOST())
    with pytest.raises(UserError, match='^FSDP shards model.backbone by itself'):
        check_sharding(Sharded(model))


def test_weights_of_losses():
    from mmengine.registry import MODELS

    from mmtoken.engine.errors import UserError
    from mmtoken.engine.models import check_losses

    def model(**loss):
        head = dict(type='mmseg.FCNHead', in_channels=4, channels=4, num_convs=0, concat_input=False, num_classes=3)
        head['loss_decode'] = [dict(type='CrossEntropyLoss'), dict(type='CrossEntropyLoss', loss_name='loss_b', **loss)]
        return torch.nn.ModuleDict(dict(decode_head=MODELS.build(head)))

    check_losses(model(loss_weight=2, class_weight=[1, 2, 3]))
    with pytest.raises(UserError, match=r"^model.decode_head.loss_decode.1: loss_weight='x' must be a number"):
        check_losses(model(loss_weight='x'))
    with pytest.raises(UserError, match='decode_head.loss_decode: class_weight has 2 entries, and the head 3 classes'):
        check_losses(model(class_weight=[1, 2]))


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(type='PolyR'), '^param_scheduler.1.: .*PolyR is not in .* registry.*did you mean'),
        (dict(power='x'), r'^param_scheduler\[1\]: unsupported operand type'),
        (dict(pwer=1), r"^param_scheduler\[1\]: .*'pwer'"),
        (dict(begin=9), r'^param_scheduler\[1\]: '),
    ],
)
def test_schedules_are_tried_before_any_work(change, words):
    import logging
    from functools import partial
    from types import SimpleNamespace

    from mmengine.runner import Runner

    from mmtoken.engine.errors import UserError
    from mmtoken.engine.models import check_schedulers

    plans = [dict(type='LinearLR', start_factor=0.1, end=2), dict(type='PolyLR', begin=0, end=6, by_epoch=False)]
    plans += [dict(type='ReduceOnPlateauLR', monitor='loss'), dict(type='CosineAnnealingMomentum', T_max=3)]
    runner = SimpleNamespace(param_schedulers=plans, _train_loop=None, train_dataloader=[0] * 4)
    runner.logger = logging.getLogger('test')
    runner._build_param_scheduler = partial(Runner._build_param_scheduler, runner)
    check_schedulers(runner)
    runner.param_schedulers = dict(one=plans[0], other=plans)
    check_schedulers(runner)
    runner.param_schedulers = [plans[0], {**plans[1], **change}]
    with pytest.raises(UserError, match=words) as error:
        check_schedulers(runner)
    assert '\n' not in str(error.value)


def test_the_first_item_is_made_before_any_work_and_no_random_number_is_used_up():
    import random
    from types import SimpleNamespace

    import cv2
    import numpy as np

    from mmtoken.engine.errors import UserError
    from mmtoken.engine.models import check_loop

    class Data(torch.utils.data.Dataset):
        size = (2, 2)

        def __len__(self):
            return 3

        def __getitem__(self, i):
            assert i == 0
            return cv2.resize(np.zeros((4, 4)), self.size), random.random(), np.random.rand(), torch.rand(1)

    data = Data()
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=data))
    seen = []
    for look in (False, True):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        if look:
            check_loop(loop, 'train_dataloader')
        seen.append(data[0][1:])
    assert seen[0] == seen[1]
    data.size = (0, 0)
    with pytest.raises(UserError, match='^train_dataloader.dataset: item 0: error: OpenCV') as error:
        check_loop(loop, 'train_dataloader')
    assert '\n' not in str(error.value)

    from mmseg.evaluation import IoUMetric

    data.size = (2, 2)
    loop.evaluator = SimpleNamespace(metrics=[IoUMetric(iou_metrics=['mIoU', 'AP'])])
    with pytest.raises(
        UserError, match="^val_dataloader: IoUMetric does not know iou_metrics='AP'; it has mIoU, mDice"
    ):
        check_loop(loop, 'val_dataloader')


def test_the_first_batch_of_a_test_is_tried_before_any_work():
    """mmseg pads pictures of several sizes in training only, mmdet always; each at test time takes one by itself."""
    from types import SimpleNamespace

    from mmdet.models import DetDataPreprocessor
    from mmdet.structures import DetDataSample
    from mmengine.dataset import pseudo_collate
    from mmseg.models import SegDataPreProcessor

    from mmtoken.engine.errors import UserError, one_line_errors
    from mmtoken.engine.models import check_loop

    class Data(torch.utils.data.Dataset):
        sizes = [(8, 8), (8, 8), (8, 12)]

        def __len__(self):
            return 3

        def __getitem__(self, i):
            sample = DetDataSample(metainfo=dict(img_shape=self.sizes[i]))
            return dict(inputs=torch.zeros(3, *self.sizes[i]), data_samples=sample)

    def check(prepare, size):
        loader = SimpleNamespace(dataset=Data(), batch_size=size, collate_fn=pseudo_collate)
        model = torch.nn.Module()
        model.data_preprocessor = prepare
        check_loop(SimpleNamespace(dataloader=loader), 'val_dataloader', model)

    pads = SegDataPreProcessor(test_cfg=dict(size_divisor=4))
    for prepare, size in ((pads, 1), (pads, 2), (DetDataPreprocessor(), 8)):
        check(prepare, size)
    with pytest.raises(UserError, match='differ in size.* batch_size=1 in val_dataloader .*keep_ratio=False') as error:
        check(pads, 8)
    assert '\n' not in str(error.value)
    with pytest.raises(SystemExit, match='differ in size'), one_line_errors():  # in a later batch
        pads(pseudo_collate([Data()[0], Data()[2]]))
    with pytest.raises(AssertionError, match='of the code'), one_line_errors():
        raise AssertionError('a fault of the code')
