"""MACs of detectors and Mask2Former through to their predictions, and of the compiled operators that they call."""

import sys
from collections import OrderedDict

import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from mmcv.ops import multi_scale_deform_attn as deformable
from mmengine.registry import DefaultScope
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtoken.analysis import count_macs, inference_path, model_parts, segmentor_macs
from mmtoken.analysis.loading import build_model, read_config

HEIGHT, WIDTH = 64, 96
#: Keys of the feature maps at 1/8, 1/16 and 1/32, and at 1/64.
KEYS, LAST = 8 * 12 + 4 * 6 + 2 * 3, 1 * 2


@pytest.fixture(autouse=True)
def _own_scope(monkeypatch):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


SMALL = {'backbone.depth': 18, 'neck.in_channels': [64, 128, 256, 512]}
#: Every box is kept, so that the mask head has work.
BOXES = {**SMALL, 'test_cfg.rcnn.score_thr': -1, 'test_cfg.rpn.max_per_img': 20, 'test_cfg.rcnn.max_per_img': 5}


def few(head):
    """Two layers in the encoder of Mask2Former's pixel decoder, two in its transformer decoder; a shallow backbone."""
    return {
        'backbone.depths': [1, 1, 1, 1],
        f'{head}.pixel_decoder.encoder.num_layers': 2,
        f'{head}.transformer_decoder.num_layers': 2,
    }


@pytest.mark.parametrize(
    'path, options, heads, deformable_samples',
    [
        (
            'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
            {**BOXES, 'roi_head.bbox_head.fc_out_channels': 32},
            ['rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head'],
            0,
        ),
        (
            'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
            {**BOXES, **{f'roi_head.bbox_head.{i}.fc_out_channels': 32 for i in range(3)}},
            ['rpn_head', 'roi_head.bbox_head.2', 'roi_head.mask_head.2'],
            0,
        ),
        (
            'mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py',
            few('panoptic_head'),
            ['panoptic_head.pixel_decoder', 'panoptic_head.transformer_decoder', 'panoptic_head.cls_embed'],
            2 * KEYS * 3,
        ),
        (
            'mmseg::mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py',
            few('decode_head'),
            ['decode_head.pixel_decoder', 'decode_head.transformer_decoder', 'decode_head.cls_embed'],
            2 * KEYS * 3,
        ),
        (
            'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
            {
                'backbone.depth': 18,
                'neck.in_channels': [128, 256, 512],
                'num_queries': 50,
                'encoder.num_layers': 2,
                'decoder.num_layers': 1,
            },
            ['encoder', 'decoder', 'bbox_head'],
            2 * (KEYS + LAST) * 4 + 50 * 4,
        ),
    ],
)
def test_through_to_the_prediction(path, options, heads, deformable_samples):
    model = build_model(read_config(path, {f'model.{key}': value for key, value in options.items()}))
    images = torch.randn(1, 3, HEIGHT, WIDTH)
    with sdpa_kernel(SDPBackend.MATH):
        report = segmentor_macs(model, images)
        with FlopCounterMode(display=False) as theirs:  # gradients stay on, which its module tracker asks for
            inference_path(model)(images)
    sampling = 5 * deformable_samples * 4 * 256  # levels in the number, 4 points each, 256 channels over the heads
    assert report.by_operator.get('attention', 0) == sampling
    seen, aten = theirs.get_flop_counts()['Global'], torch.ops.aten
    # RoIAlign interpolates, which is no multiply-add here, though the stand-in does it by products of matrices
    averages = sum(seen.get(op, 0) for op in (aten.mm, aten.bmm)) if hasattr(model, 'roi_head') else 0
    assert 2 * (report.total - sampling) == theirs.get_total_flops() - averages
    parts = model_parts(report, model)
    assert sum(parts.values()) == report.total and parts['reduce'] == parts['restore'] == parts['other'] == 0
    assert all(parts[part] > 0 for part in ('stem', 'blocks', 'heads')) and not report.missed
    assert all(report.by_module[head] > 0 for head in heads)


@pytest.mark.parametrize('compiled', [True, False])
def test_deformable_attention_counts_the_same_whatever_runs_it(compiled):
    batch, queries, heads, points, channels = 2, 5, 3, 4, 8
    shapes = torch.tensor([[4, 6], [2, 3]])
    value, locations = torch.randn(batch, 30, heads, channels), torch.rand(batch, queries, heads, 2, points, 2)
    weights = torch.rand(batch, queries, heads, 2, points)
    if compiled:
        if not deformable.ext_module.__file__.endswith('_ext_standin.py'):
            pytest.skip('the operator itself needs a GPU')
        starts = torch.tensor([0, 24])
        report = count_macs(
            lambda: deformable.ext_module.ms_deform_attn_forward(
                value, shapes, starts, locations, weights, im2col_step=64
            ),
            (),
        )
    else:
        report = count_macs(
            lambda: deformable.multi_scale_deformable_attn_pytorch(value, shapes, locations, weights), ()
        )
    assert report.total == 5 * batch * queries * heads * 2 * points * channels
    assert report.uncounted == {}  # what it is made of is no work beside


def test_deformable_convolutions(monkeypatch):
    """The kernels themselves are compiled; here they give zeros."""
    monkeypatch.setattr(
        sys.modules['mmcv._ext'], 'deform_conv_forward', lambda *args, **kwargs: args[3].zero_(), raising=False
    )
    monkeypatch.setattr(
        sys.modules['mmcv._ext'],
        'modulated_deform_conv_forward',
        lambda *args, **kwargs: args[6].zero_(),
        raising=False,
    )
    x, places = torch.randn(2, 4, 8, 10), 2 * 80
    offset, mask = torch.randn(2, 2 * 2 * 9, 8, 10), torch.rand(2, 2 * 9, 8, 10)
    product, corners = places * 6 * (4 // 2) * 9, 4 * places * 4 * 9
    plain = DeformConv2d(4, 6, 3, padding=1, groups=2, deform_groups=2)
    assert count_macs(plain, (x, offset)).total == product + corners
    modulated = ModulatedDeformConv2d(4, 6, 3, padding=1, groups=2, deform_groups=2)
    assert count_macs(modulated, (x, offset, mask)).total == product + corners + places * 4 * 9


def test_a_compiled_product_without_a_formula_is_missed(monkeypatch):
    ext = sys.modules['mmcv._ext']
    monkeypatch.setattr(ext, 'carafe_forward', lambda x: None, raising=False)
    monkeypatch.setattr(ext, 'roi_pool_forward', lambda x: None, raising=False)
    report = count_macs(lambda x: (ext.carafe_forward(x), ext.roi_pool_forward(x)), torch.zeros(3, 4))
    assert report.uncounted == {'mmcv::carafe_forward': (1, 12), 'mmcv::roi_pool_forward': (1, 12)}
    assert list(report.missed) == ['mmcv::carafe_forward']
