"""Every config of a detector builds, predicts and takes a training step, in an eighth of its width."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmtoken.analysis.synthetic import synthetic_samples
from mmtoken.hosts.dinov2 import check_arch

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(
    p.relative_to(ROOT)
    for p in ROOT.glob('*/*.py')
    if {'retinanet', 'mask-rcnn', 'cascade-rcnn'} & set(p.stem.split('_'))
)


@pytest.mark.parametrize('path', CONFIGS, ids=str)
def test_builds_predicts_and_steps(path):
    torch.manual_seed(0)
    cfg = Config.fromfile(str(ROOT / path))
    assert cfg.default_scope == 'mmdet'
    arch = check_arch(cfg.model.backbone.arch)
    cfg.model.backbone.update(arch=dict(arch, embed_dims=arch['embed_dims'] // 8), init_cfg=None)
    cfg.model.neck.in_channels //= 8
    patch = 14
    cfg.model.data_preprocessor.pad_size_divisor = patch
    images = torch.randn(2, 3, 8 * patch, 6 * patch)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        samples = synthetic_samples(model, 2, tuple(images.shape[2:]))
        losses = model.train().loss(images, samples)
        total = sum(sum(v) if isinstance(v, list) else v for name, v in losses.items() if 'loss' in name)
        total.backward()
        assert total.isfinite()
        assert all(p.grad is not None for p in model.neck.parameters())
        with torch.no_grad():
            model.eval()
            results = model.predict(images, samples)
            counts = model.backbone.token_counts(images)
    assert len(results) == 2 and all(result.pred_instances.bboxes.shape[1] == 4 for result in results)
    assert (min(counts) < 48) == (path.parts[0] != 'baselines'), 'tokens are reduced where, and only where, it says so'
