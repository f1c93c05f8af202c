"""Every config of a detector builds, predicts and takes a training step, in an eighth of its width."""

import pytest
import torch
from mmengine.registry import DefaultScope

from mmtoken.analysis.synthetic import synthetic_samples

from .test_configs import DETECTORS, load, small_model

#: Proposals of a picture, of which heads get thousands otherwise, and layers: most of the time of this test.
MOST = dict(num=16, nms_pre=16, max_per_img=16, num_queries=16, num_layers=2)


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


@pytest.mark.parametrize('path', DETECTORS, ids=str)
def test_builds_predicts_and_steps(path):
    torch.manual_seed(0)
    cfg = load(path)
    assert cfg.default_scope == 'mmdet'
    for key in ('init_cfg', 'pretrained'):
        cfg.model.backbone.pop(key, None)
    backbone = cfg.model.pop('backbone')
    cfg.model = few(cfg.model)
    cfg.model.backbone = backbone
    with DefaultScope.overwrite_default_scope('mmdet'):
        model, patch = small_model(cfg)
        size = (8 * patch, 6 * patch)
        images, samples = torch.randn(2, 3, *size), synthetic_samples(model, 2, size)
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
