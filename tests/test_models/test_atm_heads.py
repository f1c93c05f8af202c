"""SegViT's heads inside mmseg's segmentor: training, whole and sliding prediction, and the published MACs."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

from mmtoken.analysis import count_macs, segmentor_macs
from mmtoken.registry import MODELS
from mmtoken.testing import randomize

BASELINES = Path(__file__).parents[2] / 'configs' / 'baselines'
K = 5
CASCADE = dict(
    type='mmtoken.ATMHead',
    in_channels=[32] * 3,
    in_index=[0, 1, 2],
    channels=24,
    num_heads=3,
    num_layers=2,
    num_classes=K,
)
SINGLE = dict(
    type='mmtoken.ATMSingleHead', in_channels=32, in_index=2, channels=24, num_heads=3, num_layers=2, num_classes=K
)
HEADS = pytest.mark.parametrize('head', [CASCADE, SINGLE], ids=['cascade', 'single'])


def segmentor(head, type='EncoderDecoder', test_cfg=None, auxiliary=None, reducer=None):
    init_default_scope('mmseg')
    backbone = dict(
        type='mmtoken.TokenVisionTransformer',
        img_size=32,
        patch_size=4,
        embed_dims=32,
        num_layers=4,
        num_heads=2,
        out_indices=(1, 2, 3),
        with_cls_token=False,
        reducer=reducer,
    )
    model = MODELS.build(
        dict(
            type=type,
            backbone=backbone,
            decode_head=head,
            auxiliary_head=auxiliary,
            train_cfg=dict(),
            test_cfg=ConfigDict(test_cfg or dict(mode='whole')),
        )
    )
    randomize(model)
    return model.eval()


def samples(images, classes=K):
    from mmseg.structures import SegDataSample

    size, out = tuple(images.shape[-2:]), []
    for _ in images:
        sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4))
        sample.gt_sem_seg = PixelData(data=torch.randint(classes, (1, *size)))
        sample.gt_sem_seg.data[:, :2] = 255
        out.append(sample)
    return out


def scores(model, images):
    with torch.no_grad():
        return torch.stack([s.seg_logits.data for s in model.predict(images, samples(images))])


@HEADS
@pytest.mark.parametrize(
    'test_cfg', [dict(mode='whole'), dict(mode='slide', crop_size=(20, 24), stride=(13, 17))], ids=['whole', 'slide']
)
@pytest.mark.parametrize('size', [(32, 32), (27, 41)])
def test_scores_of_a_batch_are_those_of_its_images(head, test_cfg, size):
    model, images = segmentor(head, test_cfg=test_cfg), torch.randn(3, 3, *size)
    together = scores(model, images)
    assert together.shape == (3, K, *size) and together.min() >= 0
    assert together.max() <= (1 if head is SINGLE else K), 'the cascade sums over queries'
    assert together.std() > 0.01
    for i, image in enumerate(images):
        torch.testing.assert_close(together[i], scores(model, image[None])[0], atol=1e-5, rtol=1e-4)


def test_cascade_goes_from_deep_to_shallow_and_mixes_classes_at_the_size_of_the_image():
    model, images = segmentor(CASCADE).double(), torch.randn(1, 3, 27, 41, dtype=torch.double)
    head, maps = model.decode_head, model.extract_feat(images)
    queries, total = head.queries[None], 0
    for stage, tap in zip(head.stages, (2, 1, 0)):
        queries, masks = (out[-1] for out in stage(queries, maps[tap].flatten(2).transpose(1, 2)))
        total = total + masks[0]  # (tokens, classes)
    masks = F.interpolate(total.T.reshape(1, K, 7, 11), (27, 41), mode='bilinear', align_corners=False)[0].sigmoid()
    shares = head.classify(queries)[0].softmax(-1)
    assert shares.shape == (K, K + 1)
    expected = [sum(shares[q, c] * masks[q] for q in range(K)) for c in range(K)]
    torch.testing.assert_close(scores(model, images)[0], torch.stack(expected).detach())


def test_single_head_resizes_the_scores_of_its_decoder():
    model = segmentor(dict(SINGLE, align_corners=True)).double()
    images = torch.randn(1, 3, 27, 41, dtype=torch.double)
    masks, classes = model.decode_head.decoder(model.extract_feat(images)[2].flatten(2).transpose(1, 2))
    each = [classes[0, c].softmax(0)[0] * masks[0, :, c].sigmoid() for c in range(K)]
    expected = F.interpolate(torch.stack(each).reshape(1, K, 7, 11), (27, 41), mode='bilinear', align_corners=True)
    torch.testing.assert_close(scores(model, images), expected.detach())


@HEADS
def test_bf16_autocast_predicts_and_trains(head):
    model, images = segmentor(head), torch.randn(2, 3, 27, 41)
    exact = scores(model, images)
    with torch.autocast('cpu', torch.bfloat16):
        rough = scores(model, images)
        losses = model.train().loss(images, samples(images))
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(p.grad.isfinite().all() for p in model.decode_head.parameters())


@pytest.mark.parametrize(
    'head, auxiliary, steps',
    [
        (CASCADE, None, ['decode.', 'decode.d0.', 'decode.d1.']),
        (SINGLE, [dict(SINGLE, in_index=0), dict(SINGLE, in_index=1)], ['decode.', 'aux_0.', 'aux_1.']),
        (dict(SINGLE, deep_supervision=True), dict(SINGLE, in_index=1), ['decode.', 'decode.d0.', 'aux.']),
        (dict(SINGLE, in_channels=[32] * 3, in_index=[0, 1, 2], input_transform='resize_concat'), None, ['decode.']),
    ],
    ids=['cascade', 'exits', 'deep', 'concat'],
)
def test_training_supervises_each_step_and_reaches_every_parameter(head, auxiliary, steps):
    model = segmentor(head, auxiliary=auxiliary).train()
    images = torch.randn(2, 3, 27, 41)
    losses = model.loss(images, samples(images))
    names = {name for name in losses if 'loss' in name}
    assert names == {f'{step}loss_{kind}' for step in steps for kind in ('cls', 'mask', 'dice')}
    assert 0 <= losses['decode.acc_seg'] <= 100
    sum(losses[name] for name in names).backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None]
    assert not unreached, 'DistributedDataParallel would need find_unused_parameters'


@pytest.mark.parametrize('head, steps', [(CASCADE, 25), (SINGLE, 60)], ids=['cascade', 'single'])
def test_a_few_steps_learn_one_picture(head, steps):
    init_default_scope('mmseg')
    head, maps = MODELS.build(head).train(), [torch.randn(1, 32, 8, 8) for _ in range(3)]
    sample = samples(torch.zeros(1, 3, 32, 32))
    label = torch.arange(32).div(8, rounding_mode='floor').expand(1, 32, 32).contiguous()
    sample[0].gt_sem_seg = PixelData(data=label)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = head.loss(maps, sample, None)
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        optimizer.step()
    predicted = head.eval().predict(maps, [sample[0].metainfo], None)
    assert (predicted.argmax(1) == label).float().mean() > 0.8
    assert predicted[:, 4].max() < 0.3, 'the class that is nowhere'


def test_weights_are_made_for_the_configs_names():
    """No classifier of mmseg's is left over, and an exit head's decoder has the names of a single head's."""
    from mmtoken.models.heads import ATMDecoder

    single = MODELS.build(SINGLE)
    assert not [name for name in single.state_dict() if not name.startswith('decoder.')]
    ATMDecoder(32, K, 24, 2, 3).load_state_dict(single.decoder.state_dict())


# --------------------------------------------------------------------------------------------------- reduced tokens


def test_late_restore_scores_reduced_tokens_but_does_not_train_on_them():
    late = dict(type='mmtoken.Expedit', layer=1, grid=0.5, restore='late')
    model, images = segmentor(SINGLE, 'mmtoken.TokenEncoderDecoder', reducer=late), torch.randn(2, 3, 27, 41)
    out = scores(model, images)
    assert out.shape == (2, K, 27, 41) and out.min() >= 0 and out.max() <= 1
    with pytest.raises(ValueError, match="learns from mask and class logits, which restore='late' cannot"):
        model.train().loss(images, samples(images))
    model = segmentor(CASCADE, 'mmtoken.TokenEncoderDecoder', reducer=late)
    with pytest.raises(ValueError, match="restore='late' needs a head with one logit map.*ATMHead"):
        scores(model, images)


# ------------------------------------------------------------------------------------------------ published figures
#: What the table in configs/baselines says.
ROWS = json.loads((BASELINES / 'results/segvit_macs.json').read_text())['rows']
#: With the heads of all exits, as the authors give them in G.
EVERY_HEAD = {
    'segvit-deep_vit-b_atm_4xb4-160k_ade20k-512x512': 114.5,
    'segvit-deep_vit-l_atm_4xb4-160k_ade20k-640x640': 627.7,
    'segvit-deep_vit-l_atm_4xb4-160k_pascal-context-59-480x480': 320.4,
    'segvit-deep_vit-l_atm_4xb4-160k_coco-stuff10k-512x512': 375.6,
}


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row['config'])
def test_macs_are_the_published_ones(row):
    """Those of the file are counted again; they are what the READMEs of SegViT and of DToP give.

    They count one crop with fvcore, which adds 5 a channel of each norm and 4 a pixel and class of each of two bilinear
    resizes. With these, and without the product that makes the mask logits of the last layer (there they
    come out of the attention), the figures agree to 0.1 %.
    """
    published, every_head = row['published'], EVERY_HEAD.get(row['config'])
    cfg = Config.fromfile(str(BASELINES / f'{row["config"]}.py')).model
    init_default_scope('mmseg')
    size = cfg.data_preprocessor['size']
    with pytest.MonkeyPatch.context() as patch, torch.device('meta'):  # its drop path rates are read as numbers
        patch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))
        model = ROOT_MODELS.build(dict(cfg, pretrained=None, test_cfg=ConfigDict(mode='whole')))
    macs = segmentor_macs(model, size).total
    assert macs == row['macs'] and row['crop'] == size[0]
    assert macs / 1e9 == pytest.approx(published, rel=0.01)

    tokens, classes, width = size[0] // 16 * (size[1] // 16), cfg.decode_head.num_classes, cfg.backbone.embed_dims
    extra = 5 * 2 * cfg.backbone.num_layers * tokens * width + 2 * 4 * size[0] * size[1] * classes
    heads = 1 if every_head else 3  # decoders, each with one such product
    missed = heads * tokens * classes * cfg.decode_head.channels
    assert (macs + extra - missed) / 1e9 == pytest.approx(published, rel=0.001)

    if every_head:
        decoders = [model.decode_head, *model.auxiliary_head]

        def run(images):
            maps = model.extract_feat(images)
            return [head.forward(maps) for head in decoders]

        report = count_macs(model, torch.zeros(1, 3, *size, device='meta'), call=run)
        assert report.total / 1e9 == pytest.approx(row['with the heads of all exits'])
        assert report.total / 1e9 == pytest.approx(every_head, rel=0.01)


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    'head, message',
    [
        (dict(CASCADE, num_classes=1), 'ATMHead gives a score for each class: num_classes=1'),
        (dict(SINGLE, num_classes=2, out_channels=1), 'ATMSingleHead gives a score for each class: num_classes=2'),
        (
            dict(CASCADE, in_channels=32),
            'ATMHead needs one of in_channels for each tap of in_index, not in_channels=32',
        ),
        (dict(CASCADE, in_index=[0, 1]), r'ATMHead needs one of in_channels for each tap.*in_index=\[0, 1\]'),
        (dict(CASCADE, input_transform='resize_concat'), 'ATMHead reads each tap by itself'),
        (
            dict(SINGLE, in_channels=[32, 32], in_index=[0, 1]),
            r'ATMSingleHead reads one tap, not in_channels=\[32, 32\]',
        ),
        (
            dict(SINGLE, in_channels=[32], in_index=[0], input_transform='multiple_select'),
            'ATMSingleHead reads one map',
        ),
        (
            dict(SINGLE, loss_decode=dict(type='CrossEntropyLoss')),
            'learns from loss_decode=dict.*ATMLoss.*not from Cross',
        ),
        (dict(SINGLE, sampler=dict(type='OHEMPixelSampler')), 'ATMSingleHead takes no pixel sampler'),
        (dict(SINGLE, num_heads=7), 'num_heads=7 does not divide channels=24'),
        (dict(CASCADE, dropout_ratio=-0.1), r'dropout of an ATM decoder is -0.1; give a rate in \[0, 1\)'),
    ],
)
def test_errors_say_what_would_be_right(head, message):
    init_default_scope('mmseg')
    with pytest.raises(ValueError, match=message):
        MODELS.build(head)


def test_taps_of_different_sizes_are_refused():
    head = MODELS.build(CASCADE)
    maps = [torch.zeros(1, 32, 4, 4), torch.zeros(1, 32, 4, 4), torch.zeros(1, 32, 2, 2)]
    with pytest.raises(ValueError, match='ATMHead adds the masks of its taps, so their maps must have one size'):
        head.forward(maps)
