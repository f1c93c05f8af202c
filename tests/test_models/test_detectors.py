"""Detectors with a token reducer: loss, predictions, the padding of a batch, the reducer's losses, refusals."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmtoken.core import Reducer
from mmtoken.registry import REDUCERS
from mmtoken.testing import randomize

CLASSES, PATCH = 3, 4
BACKBONES = dict(
    TokenDINOv2=dict(arch=dict(embed_dims=32, num_layers=4, num_heads=2), img_size=32, layer_scale=1.0, fit='pad'),
    TokenVisionTransformer=dict(embed_dims=32, num_layers=4, num_heads=2, img_size=32),
)
BOXES = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4)
NECK = dict(type='FPN', in_channels=[32], out_channels=16, num_outs=2)
STRIDES = [PATCH, 2 * PATCH]


@pytest.fixture(autouse=True)
def _mmdets_scope():
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def assigner(high, low, least):
    return dict(type='MaxIoUAssigner', pos_iou_thr=high, neg_iou_thr=low, min_pos_iou=least)


def retinanet():
    return dict(
        type='mmtoken.TokenRetinaNet',
        bbox_head=dict(
            type='RetinaHead',
            num_classes=CLASSES,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            anchor_generator=dict(
                type='AnchorGenerator', octave_base_scale=2, scales_per_octave=1, ratios=[1.0], strides=STRIDES
            ),
            bbox_coder=BOXES,
        ),
        train_cfg=dict(assigner=assigner(0.5, 0.4, 0), allowed_border=-1, pos_weight=-1),
        test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.9), max_per_img=10),
    )


def mask_rcnn():
    def pool(size):
        layer = dict(type='RoIAlign', output_size=size, sampling_ratio=1)
        return dict(type='SingleRoIExtractor', roi_layer=layer, out_channels=16, featmap_strides=STRIDES)

    proposals = dict(nms_pre=50, max_per_img=10, nms=dict(type='nms', iou_threshold=0.9), min_bbox_size=0)
    return dict(
        type='mmtoken.TokenMaskRCNN',
        rpn_head=dict(
            type='RPNHead',
            in_channels=16,
            feat_channels=16,
            anchor_generator=dict(type='AnchorGenerator', scales=[2], ratios=[1.0], strides=STRIDES),
            bbox_coder=BOXES,
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=pool(3),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=16,
                fc_out_channels=16,
                roi_feat_size=3,
                num_classes=CLASSES,
                bbox_coder=BOXES,
            ),
            mask_roi_extractor=pool(4),
            mask_head=dict(type='FCNMaskHead', num_convs=1, in_channels=16, conv_out_channels=16, num_classes=CLASSES),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=assigner(0.7, 0.3, 0.3),
                sampler=dict(type='RandomSampler', num=16, pos_fraction=0.5, add_gt_as_proposals=False),
                allowed_border=-1,
                pos_weight=-1,
            ),
            rpn_proposal=proposals,
            rcnn=dict(
                assigner=assigner(0.5, 0.5, 0.5),
                sampler=dict(type='RandomSampler', num=8, pos_fraction=0.5, add_gt_as_proposals=True),
                mask_size=8,
                pos_weight=-1,
            ),
        ),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.9), max_per_img=5, mask_thr_binary=0.5),
        ),
    )


MODELS_MADE = dict(RetinaNet=retinanet, MaskRCNN=mask_rcnn)
detectors = pytest.mark.parametrize('name', MODELS_MADE)
hosts = pytest.mark.parametrize('host', BACKBONES)


def build(name, host='TokenVisionTransformer', reducer=None, divisor=1, only_reducer=False, **backbone):
    torch.manual_seed(0)
    backbone = dict(BACKBONES[host], **backbone)
    cfg = dict(
        MODELS_MADE[name](),
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3, pad_mask=True, pad_size_divisor=divisor
        ),
        backbone=dict(type=f'mmtoken.{host}', patch_size=PATCH, reducer=reducer, **backbone),
        neck=NECK,
    )
    cfg['train_cfg']['only_reducer'] = only_reducer
    model = MODELS.build(ConfigDict(cfg))
    randomize(model, 0.1)
    return model.eval()


def picture(height, width, seed=0):
    """A random picture, and a sample with two boxes and their masks."""
    from mmdet.structures.mask import BitmapMasks

    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(3, height, width, generator=generator)
    boxes = torch.tensor([[2.0, 3.0, 14.0, 15.0], [8.0, 2.0, 20.0, 12.0]])
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist()):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(
        metainfo=dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0), pad_shape=None)
    )
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, 2]), masks=BitmapMasks(masks.numpy(), height, width)
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return image, sample


def batch(*pictures):
    return dict(inputs=[image for image, _ in pictures], data_samples=[sample for _, sample in pictures])


REDUCERS_TRIED = [
    None,
    dict(type='mmtoken.ToMe', r=8),
    dict(type='mmtoken.Expedit', layer=1, grid=0.5),
    dict(type='mmtoken.AvgPool', layer=1, grid=0.5),
    dict(type='mmtoken.MixedScale', fine=0.4),
    dict(type='mmtoken.MixedScale', threshold=1.5),
    dict(type='mmtoken.SViT', skip=1),
    dict(type='mmtoken.Cropr', keep=0.4, num_classes=CLASSES, target='image', curriculum=0.0),
    dict(type='mmtoken.Cropr', keep=0.4, num_classes=CLASSES, target='tokens', queries=4, curriculum=0.0),
]


@detectors
@hosts
@pytest.mark.parametrize('reducer', REDUCERS_TRIED, ids=lambda r: 'none' if r is None else r['type'])
def test_loss_and_predictions(name, host, reducer):
    model = build(name, host, reducer).train()
    data = model.data_preprocessor(batch(picture(24, 30), picture(32, 40, 1)), training=True)
    losses = model(**data, mode='loss')
    total = sum(sum(v) if isinstance(v, list) else v for key, v in losses.items() if 'loss' in key)
    total.backward()
    assert total.isfinite()
    for part in (model.backbone.patch_embed, *model.backbone.blocks, model.neck):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert model.backbone.cls_token.grad.abs().max() > 0
    model.eval()
    data = model.data_preprocessor(batch(picture(24, 30), picture(32, 40, 1)))
    with torch.no_grad():
        results = model(**data, mode='predict')
    for result, (height, width) in zip(results, ((24, 30), (32, 40))):
        found = result.pred_instances
        assert len(found) > 0
        assert found.bboxes.isfinite().all()
        assert (found.bboxes.amax(0) <= torch.tensor([width, height, width, height])).all()
        if name == 'MaskRCNN':
            assert found.masks.shape[1:] == (height, width)


@detectors
def test_a_reducer_trained_alone(name, monkeypatch):
    """Its losses are those of training the whole detector, and nothing else gets a gradient or runs."""
    cropr, pictures = REDUCERS_TRIED[-1], batch(picture(24, 30), picture(32, 40, 1))
    alone, whole = build(name, reducer=cropr, only_reducer=True).train(), build(name, reducer=cropr)
    alone.load_state_dict(whole.train().state_dict())
    data = alone.data_preprocessor(pictures, training=True)
    expected = {key: value for key, value in whole(**data, mode='loss').items() if key.startswith('reducer.')}
    monkeypatch.setattr(alone.neck, 'forward', None)
    losses = alone(**data, mode='loss')
    assert losses == expected and losses
    sum(losses.values()).backward()
    assert {n for n, p in alone.named_parameters() if p.grad is not None and p.grad.any()} == {
        n for n, _ in alone.named_parameters() if n.startswith('backbone.reducer.')
    }
    for other in (None, dict(type='mmtoken.ToMe', r=8)):
        model = build(name, reducer=other, only_reducer=True)  # as the dense twin of a config, to be tested
        with pytest.raises(ValueError, match='model.train_cfg.only_reducer=True needs a reducer with losses'):
            model(**data, mode='loss')


@detectors
def test_without_a_reducer_it_is_the_stock_detector(name):
    ours = build(name)
    cfg = dict(MODELS_MADE[name](), neck=NECK, backbone=dict(type='mmseg.VisionTransformer', patch_size=PATCH))
    cfg['backbone'].update(BACKBONES['TokenVisionTransformer'])
    cfg['type'] = cfg['type'].replace('mmtoken.Token', 'mmdet.')
    import mmseg.models  # noqa: F401  registers the backbone

    stock = MODELS.build(ConfigDict(cfg)).eval()
    stock.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, 3, 30, 37)
    with torch.no_grad():
        for one, other in zip(ours.extract_feat(inputs), stock.extract_feat(inputs), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


class Seen(Reducer):
    """Notes the padding that it is shown, and has a loss."""

    trainable = True

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def before(self, state, i):
        if i == 0:
            self.seen.append(None if state.padding is None else state.padding.view(-1, *state.grid))

    def losses(self, state, targets=None):
        return dict(loss_size=self.scale * state.x.square().mean(), targets=torch.tensor(float(len(targets))))


@detectors
@hosts
def test_padding_reaches_the_reducer(name, host):
    model = build(name, host, Seen())
    data = model.data_preprocessor(batch(picture(24, 30), picture(33, 40, 1)))
    with torch.no_grad():
        model(**data, mode='predict')
    (padding,) = model.reducer.seen
    assert padding.shape == (2, 9, 10)
    assert not padding[0, :6, :8].any()
    assert padding[0, 6:].all()
    assert padding[0, :, 8:].all()
    assert not padding[1].any()
    data = model.data_preprocessor(batch(picture(24, 30), picture(33, 40, 1)), training=True)
    model.train()(**data, mode='loss')
    assert torch.equal(model.reducer.seen[1], padding)
    assert model.backbone.padding is None
    same = model.data_preprocessor(batch(picture(24, 30), picture(24, 30, 1)))
    with torch.no_grad():
        model.eval()(**same, mode='predict')
    assert model.reducer.seen[2] is None


@detectors
def test_losses_of_the_reducer_are_added(name):
    model = build(name, reducer=Seen()).train()
    data = model.data_preprocessor(batch(picture(24, 30), picture(32, 40, 1)), training=True)
    losses = model(**data, mode='loss')
    assert losses['reducer.targets'] == 2
    losses['reducer.loss_size'].backward()
    assert model.reducer.scale.grad.abs() > 0
    assert {key for key in losses if not key.startswith('reducer.')} == set(build(name).train()(**data, mode='loss'))


@detectors
@hosts
@pytest.mark.parametrize('reducer', REDUCERS_TRIED[1:], ids=lambda r: r['type'])
def test_an_image_padded_with_mates_is_the_image_padded_alone(name, host, reducer):
    model = build(name, host, reducer)
    small, large = picture(22, 30), picture(33, 41, 1)
    together = model.data_preprocessor(batch(small, large))
    # alone, padded to the same size, by a mate that is thrown away
    alone = dict(inputs=together['inputs'][:1], data_samples=together['data_samples'][:1])
    with torch.no_grad():
        feats, expected = [], model(**alone, mode='predict')[0].pred_instances
        handle = model.neck.register_forward_hook(lambda module, args, out: feats.append(out))
        got = model(**together, mode='predict')[0].pred_instances
        model(**alone, mode='predict')
        handle.remove()
    for both, one in zip(*feats, strict=True):
        assert (both[:1] - one).abs().max() <= 3e-5 * one.abs().max()
    torch.testing.assert_close(got.scores, expected.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.bboxes, expected.bboxes, rtol=1e-4, atol=1e-2)


@detectors
def test_methods_that_finish_a_segmentor_are_refused(name):
    head = dict(type='mmseg.FCNHead', num_convs=0, channels=32, concat_input=False, num_classes=CLASSES)
    REDUCERS.import_from_location()
    for reducer in (
        dict(type='mmtoken.Expedit', layer=1, grid=0.5, restore='late'),
        dict(type='mmtoken.DToP', heads=head, exits=[1]),
    ):
        with pytest.raises(ValueError, match=r'^reducer: .*which only a segmentor can finish') as error:
            build(name, reducer=reducer)
        assert '\n' not in str(error.value)


@detectors
def test_stretched_pictures_are_refused_unless_they_are_padded_to_whole_patches(name):
    with pytest.raises(ValueError, match=r"backbone.fit='resize'.*set backbone.fit='pad', or .*pad_size_divisor=4"):
        build(name, 'TokenDINOv2', fit='resize', divisor=6)
    assert build(name, 'TokenDINOv2', fit='resize', divisor=8).backbone.fit == 'resize'


@detectors
@torch.no_grad()
def test_boxes_are_fp32_under_autocast(name):
    """In bf16 every coordinate would be one of 256 steps; here pictures are wide, and small boxes far on the right."""
    model = build(name)
    data = model.data_preprocessor(batch(picture(16, 1200)))
    with torch.autocast('cpu', torch.bfloat16):
        (sample,) = model(**data, mode='predict')
        losses = model.train()(**model.data_preprocessor(batch(picture(24, 30)), training=True), mode='loss')
    found = sample.pred_instances
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    far = found.bboxes[found.bboxes[:, 0] > 600]
    assert len(far) > 0 and (far % 4 != 0).any()
    assert all(
        v.dtype == torch.float32 for value in losses.values() for v in (value if isinstance(value, list) else [value])
    )
