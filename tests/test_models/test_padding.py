"""The padding of a batch reaches the backbone through a segmentor: a picture padded beside others is as it is alone."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmtoken.registry import MODELS
from mmtoken.testing import PATCH, toy_hosts

HOSTS = toy_hosts()
SIZES = [(24, 40), (30, 21), (32, 48)]
METHODS = [
    dict(type='mmtoken.ToMe', r=8),
    dict(type='mmtoken.Expedit', layer=1, grid=0.5),
    dict(type='mmtoken.MixedScale', fine=0.4),
]


def segmentor(reducer):
    torch.manual_seed(0)
    preprocessor = dict(type='mmseg.SegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3, size_divisor=16)
    preprocessor.update(test_cfg=dict(size_divisor=16))
    return MODELS.build(
        dict(
            type='mmtoken.TokenEncoderDecoder',
            backbone=dict(type=HOSTS['TokenVisionTransformer'], reducer=reducer),
            decode_head=dict(
                type='mmseg.FCNHead',
                in_channels=32,
                channels=32,
                num_convs=0,
                concat_input=False,
                num_classes=3,
                align_corners=False,
                in_index=0,
                norm_cfg=None,
                dropout_ratio=0.0,
            ),
            test_cfg=ConfigDict(mode='whole'),
            data_preprocessor=preprocessor,
        )
    ).eval()


def batch():
    """Pictures of three sizes, padded to the largest, with the sizes that they had."""
    generator = torch.Generator().manual_seed(1)
    inputs, samples = torch.zeros(3, 3, 32, 48), []
    for b, (h, w) in enumerate(SIZES):
        inputs[b, :, :h, :w] = torch.randn(3, h, w, generator=generator) * (b + 1)
        label = torch.full((1, 32, 48), 255)
        label[:, :h, :w] = torch.randint(3, (1, h, w), generator=generator)
        meta = dict(img_shape=(h, w), pad_shape=(32, 48), ori_shape=(h, w), padding_size=[0, 48 - w, 0, 32 - h])
        samples.append(SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label)))
    return inputs, samples


@pytest.mark.parametrize('reducer', METHODS, ids=lambda cfg: cfg['type'])
def test_padding_is_told_in_test_and_training(reducer):
    net, (inputs, samples) = segmentor(reducer), batch()
    seen = []
    with torch.no_grad(), net.backbone.watching(lambda state, i: seen.append(state.full_layout.padding)):
        net.predict(inputs, samples)
        net.loss(inputs, samples)
        net._forward(inputs, samples)
    assert len(seen) == 3 * 5
    for padding in seen:
        for b, (h, w) in enumerate(SIZES):
            own = padding[b].view(32 // PATCH, 48 // PATCH)
            assert not own[: -(-h // PATCH), : -(-w // PATCH)].any()
            assert own[-(-h // PATCH) :].all() and own[:, -(-w // PATCH) :].all()


@pytest.mark.parametrize('reducer', METHODS, ids=lambda cfg: cfg['type'])
@torch.no_grad()
def test_a_padded_picture_is_as_it_is_without_mates(reducer):
    net, (inputs, samples) = segmentor(reducer), batch()
    together = net.backbone(inputs, padding=net.backbone.padding_of(inputs, SIZES))[0]
    maps = net._forward(inputs, samples)
    for b in range(3):
        alone = net._forward(inputs[b : b + 1], samples[b : b + 1])
        torch.testing.assert_close(maps[b : b + 1], alone, rtol=0, atol=2e-5)
    blind = net.backbone(inputs)[0]
    # Without detail, padding stays coarse in MixedScale even if nobody tells.
    untold = reducer['type'] == 'mmtoken.MixedScale'
    assert torch.allclose(together[:2], blind[:2], atol=1e-3) == untold, 'padding must matter to the method'


@torch.no_grad()
def test_crops_have_the_padding_that_they_show():
    """Crops lie at 0 and 8 pixels down, at 0, 16 and 24 across; the second picture ends before the last two."""
    net, (inputs, samples) = segmentor(METHODS[0]), batch()
    net.test_cfg = ConfigDict(mode='slide', crop_size=(24, 24), stride=(16, 16))
    seen = []
    with net.backbone.watching(lambda state, i: seen.append(state.full_layout.padding) if i == 0 else None):
        logits = net.inference(inputs, [sample.metainfo for sample in samples])
    assert logits.shape == (3, 3, 32, 48) and net.slid is None
    corners = [(y, x) for y in (0, 8) for x in (0, 16, 24)]
    assert len(seen) == len(corners)
    for padding, (y, x) in zip(seen, corners):
        padding = torch.zeros(3, 36, dtype=torch.bool) if padding is None else padding
        for own, (h, w) in zip(padding.unflatten(1, (6, 6)), SIZES):
            down, across = -(-(h - y) // PATCH), -(-(w - x) // PATCH)
            expected = torch.ones(6, 6, dtype=torch.bool)
            expected[: max(down, 0), : max(across, 0)] = False
            assert torch.equal(own, expected) if across > 0 else not own.any()


@torch.no_grad()
def test_a_picture_in_crops_is_as_it_is_without_mates():
    net, (inputs, samples) = segmentor(METHODS[0]), batch()
    net.test_cfg = ConfigDict(mode='slide', crop_size=(24, 24), stride=(16, 16))
    together = net.inference(inputs, [sample.metainfo for sample in samples])
    for b in range(3):
        alone = net.inference(inputs[b : b + 1], [samples[b].metainfo])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=2e-5)
