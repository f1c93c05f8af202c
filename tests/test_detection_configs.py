"""Every config of a detector builds, predicts and takes a training step, in an eighth of its width."""

import pytest
import torch
from mmengine.registry import DefaultScope

from mmtoken.analysis.synthetic import synthetic_samples

from .test_configs import DETECTORS, check_counts, few, load, small_model


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
        if hasattr(model, 'level_embed'):  # DINO's is whatever the memory held until init_weights()
            torch.nn.init.normal_(model.level_embed)
        size = (8 * patch, 6 * patch)
        images, samples = torch.randn(2, 3, *size), synthetic_samples(model, 2, size)
        losses = model.train().loss(images, samples)
        total = sum(sum(v) if isinstance(v, list) else v for name, v in losses.items() if 'loss' in name)
        total.backward()
        assert total.isfinite()
        learns = model.neck if model.with_neck else model.backbone
        learns = model.reducer if getattr(model, 'only_reducer', False) else learns
        assert all(p.grad is not None for p in learns.parameters())
        with torch.no_grad():
            model.eval()
            results = model.predict(images, samples)
            check_counts(model, images, path)
    assert len(results) == 2 and all(result.pred_instances.bboxes.shape[1] == 4 for result in results)
