"""Panoptic segmentation by mmdet's Mask2Former and its fusion head on a plain ViT and on Swin, with a reducer."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope

from mmtoken.core import method_of
from mmtoken.testing import randomize

from ..test_configs import few, load, small_model

PLAIN = 'baselines/dinov3-b16_mask2former_8xb2-lsj-50e_coco-panoptic.py'
SWIN = 'baselines/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic.py'
CASES = [(PLAIN, 'Expedit'), (PLAIN, 'ToMe'), (PLAIN, 'AvgPool'), (PLAIN, 'MixedScale'), (SWIN, 'Expedit')]
cases = pytest.mark.parametrize('config, name', CASES, ids=[f'{config[10:15]}-{name}' for config, name in CASES])


@pytest.fixture(autouse=True)
def _mmdets_scope():
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def build(config, reducer=None):
    cfg = load(config)
    cfg.model.backbone.update(reducer=reducer, init_cfg=None)
    backbone = cfg.model.pop('backbone')
    cfg.model = few(cfg.model)
    cfg.model.backbone = backbone
    cfg.model.test_cfg.update(object_mask_thr=0.0, iou_thr=0.0, filter_low_score=False)
    torch.manual_seed(0)
    model, _ = small_model(cfg)
    randomize(model, 0.1)
    head = model.panoptic_head  # queries that differ, and masks with contrast: one segment would show nothing
    with torch.no_grad():
        for part in (head.query_feat, head.query_embed, head.cls_embed, head.mask_embed[-1]):
            part.weight.normal_()
    return model.eval()


def samples(*sizes, original=None):
    """Samples of pictures of these sizes in pixels, padded to the largest of them."""
    padded = tuple(max(sides) for sides in zip(*sizes))
    made = []
    for height, width in sizes:
        first = original or (height, width)
        made.append(
            DetDataSample(
                metainfo=dict(
                    img_shape=(height, width),
                    ori_shape=first,
                    batch_input_shape=padded,
                    scale_factor=(width / first[1], height / first[0]),
                )
            )
        )
    return made


@torch.no_grad()
def predict(model, images, data):
    return [(one.pred_panoptic_seg.sem_seg, one.pred_instances) for one in model.predict(images, data)]


@cases
def test_a_method_that_reduces_nothing_changes_no_pixel(config, name):
    images = torch.randn(1, 3, 96, 128)
    dense = build(config)
    identity = build(config, dict(type=f'mmtoken.{name}', **method_of(dict(type=f'mmtoken.{name}')).identity_example))
    identity.load_state_dict(dense.state_dict(), strict=not list(identity.backbone.reducer.parameters()))
    (expected, things), (got, ours) = (predict(model, images, samples((96, 128)))[0] for model in (dense, identity))
    share = things.masks.flatten(1).float().mean(1)
    assert len(expected.unique()) > 1 or (share * (1 - share)).max() > 0.1, 'masks with borders, or nothing is shown'
    assert torch.equal(got, expected)
    assert torch.equal(ours.masks, things.masks) and torch.equal(ours.scores, things.scores)


@cases
def test_maps_have_the_size_of_the_picture_and_do_not_depend_on_mates(config, name):
    example = dict(type='mmtoken.ToMe', keep=0.5) if name == 'ToMe' else dict(type=f'mmtoken.{name}')
    example.update({'MixedScale': dict(fine=0.5), 'ToMe': {}}.get(name, dict(layer=6, grid=0.67)))
    model = build(config, example)
    images = torch.randn(2, 3, 96, 128)
    images[0, :, 70:] = images[0, :, :, 90:] = 0  # padding
    data = samples((70, 90), (96, 128))
    feats = model.extract_feat
    with torch.no_grad(), model.serving(images, [sample.metainfo for sample in data]):
        both = feats(images)
    with torch.no_grad(), model.serving(images[:1], [data[0].metainfo]):
        alone = feats(images[:1])
    for one, other in zip(both, alone, strict=True):
        assert (one[:1] - other).abs().max() <= 3e-5 * other.abs().max()
    data = samples((96, 128), original=(75, 101))
    ((seg, things),) = predict(model, images[1:], data)
    assert seg.shape == (1, 75, 101) and things.masks.shape[1:] == (75, 101)
