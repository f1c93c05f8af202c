"""Every config of the repository builds, predicts and takes a training step, in an eighth of its width."""

import copy
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope

import mmtoken  # noqa: F401
from mmtoken.analysis.synthetic import synthetic_samples
from mmtoken.core import build_reducer, method_of
from mmtoken.hosts.dinov2 import check_arch

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p.relative_to(ROOT / 'configs') for p in (ROOT / 'configs').glob('*/*.py') if '_base_' not in p.parts)
ACCELERATED = [p for p in CONFIGS if p.parts[0] != 'baselines']
#: See test_detection_configs.py.
TASKS = r'_(retinanet|.*rcnn|mask2former|dino-\dscale)_.*(coco|bccd|panoptic)'
DETECTORS = [p for p in CONFIGS if re.search(TASKS, f'_{p.stem}')]
SEGMENTORS = [p for p in CONFIGS if p not in DETECTORS]


#: Every width is divided by this, so what does not fit together at full width does not either.
NARROWER = 8


@cache
def read(path: Path) -> Config:
    return Config.fromfile(str(ROOT / 'configs' / path))


def load(path: Path) -> Config:
    cfg = copy.deepcopy(read(path))
    init_default_scope(cfg.default_scope)
    return cfg


def narrow(value, key=''):
    """A model's config with all of its widths divided."""
    if isinstance(value, dict):
        return {name: narrow(one, name) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(narrow(one, key) for one in value)
    is_width = re.search('channel|dims?$|num_feats', key) and isinstance(value, int) and value % NARROWER == 0
    return value // NARROWER if is_width else value


#: Proposals of a picture, of which heads get thousands otherwise, and layers: most of the time of this test.
MOST = dict(num=16, nms_pre=16, max_per_img=16, num_queries=16, num_layers=2, num_points=64)


def few(value, key=''):
    """A config with no more proposals, samples, queries and layers than a few."""
    if isinstance(value, dict):
        for name, one in value.items():
            value[name] = few(one, name)
    elif isinstance(value, list):
        value = [few(one, key) for one in value]
    elif key in MOST and isinstance(value, int):
        value = min(value, MOST[key])
    return value


def small_model(cfg: Config):
    from mmseg.registry import MODELS

    backbone = cfg.model.backbone
    patch = backbone.get('patch_size', 14 if 'DINOv2' in backbone.type else 16)
    if backbone.type in ('mmtoken.TokenBEiT', 'mmtoken.TokenMAE'):
        backbone.img_size = (patch * 8, patch * 6)  # position tables have one size
    if 'DINOv2' in backbone.type:
        backbone.arch = check_arch(backbone.arch)
    model = cfg.model.to_dict()
    model.pop('pretrained', None)
    model.pop('body_model', None)  # SMPL's file is the user's
    if {'embed_dims', 'embed_dim'} & set(model['backbone']) or isinstance(model['backbone'].get('arch'), dict):
        wide = model
        model = narrow(model)
        if model['type'].endswith('DINO'):  # codes positions in a fixed width
            model = dict(
                wide, backbone=model['backbone'], neck=dict(wide['neck'], in_channels=model['neck']['in_channels'])
            )
    return revert_sync_batchnorm(MODELS.build(ConfigDict(model))), patch


def check_counts(model, images, path):
    """Tokens are reduced where, and only where, the config says so."""
    host = model.backbone
    counts, host.reducer = host.token_counts(images), None
    assert (sum(counts) < sum(host.token_counts(images))) == (path in ACCELERATED)


@pytest.mark.parametrize('path', SEGMENTORS, ids=str)
def test_builds_predicts_and_steps(path):
    torch.manual_seed(0)
    cfg = load(path)
    reducer = cfg.model.backbone.get('reducer') or {}
    reducers = reducer if isinstance(reducer, list) else [reducer]
    lively = False
    for one in filter(None, reducers):
        one.update(method_of(one).lively_example)  # heads at random are sure of nothing
        lively = lively or bool(method_of(one).lively_example)
    if 'num_queries' in cfg.model.get('decode_head', {}):
        cfg.model.decode_head = few(cfg.model.decode_head)
    model, patch = small_model(cfg)
    size = (patch * 8, patch * 6)
    images, samples = torch.randn(2, 3, *size), synthetic_samples(model, 2, size)

    model.eval()
    with torch.no_grad():
        result = model.predict(images, samples)
    if 'Depth' in cfg.model.type:
        assert result[0].pred_depth_map.data.shape == (1, *size) and result[0].pred_depth_map.data.min() > 0
    elif 'decode_head' in cfg.model:
        assert result[0].pred_sem_seg.data.shape == (1, *size)
    else:
        assert result[0].pred_instances.bboxes.isfinite().all()
    check_counts(model, images, path)

    if lively:  # a training step with the arguments that the config gives
        model, _ = small_model(load(path))
    model.train()
    losses = model.loss(images, samples)
    total = sum(sum(v) if isinstance(v, list) else v for name, v in losses.items() if 'loss' in name)
    total.backward()
    assert total.isfinite()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@pytest.mark.parametrize('path', ACCELERATED, ids=str)
def test_changes_nothing_but_the_backbone(path):
    """A method's config is its dense twin plus a reducer; some need our segmentor, some a schedule for fine-tuning."""
    cfg = load(path)
    twins = [
        load(p) for p in CONFIGS if p.parts[0] == 'baselines' and unscheduled(path.stem).endswith(unscheduled(p.stem))
    ]
    assert twins, 'no dense twin in configs/baselines'
    reducer = cfg.model.backbone.pop('reducer')
    cfg.model.backbone.pop('reduce_within', None)  # which says where it reduces
    methods = [method_of(one) for one in (reducer if isinstance(reducer, list) else [reducer])]
    built = build_reducer(reducer)
    if getattr(built, 'frozen', False):  # what is frozen comes with the backbone
        for one in (cfg, *twins):
            one.model.backbone.pop('init_cfg')
    scheduled = built.trainable or any(method.trainable for method in methods)  # training has a schedule of its own
    if built.finishes or scheduled:
        assert cfg.model.type.startswith('mmtoken.Token')
        cfg.model.type = cfg.model.type.replace('mmtoken.TokenEncoderDecoder', 'EncoderDecoder')
        for one in (cfg, *twins):
            one.pop('custom_hooks', None)  # the feature cache does not keep how to restore
            for key in ('load_from', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'default_hooks') * scheduled:
                one.pop(key, None)
            one.model.pop('train_cfg', None)  # what learns first, the method or what reads its tokens
        if scheduled and 'RandomCrop' in str(cfg.get('train_pipeline')) and 'RandomCrop' not in str(twins):
            # A gate alone learns on crops, since whole pictures take ten times as long; the head keeps its norm.
            for one in (cfg, *twins):
                for key in ('train_pipeline', 'train_dataloader', 'optim_wrapper'):
                    one.pop(key, None)
                one.model.data_preprocessor.pop('size')
                one.model.decode_head.norm_cfg.pop('momentum', None)
    assert any(cfg.to_dict() == twin.to_dict() for twin in twins)


def unscheduled(stem: str) -> str:
    """The name of a config without the length of its schedule: fine-tuning is shorter, the CamVid ones leave it out."""
    return re.sub(r'[_-]\d+k(?=_)', '', stem)


def test_configs_are_short():
    long = {str(p): n for p in CONFIGS if (n := len((ROOT / 'configs' / p).read_text().splitlines())) > 40}
    assert not long
