"""SubPatchHead: its formula, and a life inside mmseg's segmentor."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import nn

from mmtoken.registry import MODELS
from mmtoken.testing import randomize

K, S = 3, 5
HEAD = dict(type='mmtoken.SubPatchHead', in_channels=32, sub_patch=S, num_classes=K, align_corners=False)
NORMS = pytest.mark.parametrize('norm_cfg', [None, dict(type='BN')], ids=['plain', 'BN'])
SIZE = (24, 40)  # 6×10 patches of 4


def segmentor(**head):
    init_default_scope('mmseg')
    backbone = dict(
        type='mmtoken.TokenDINOv2',
        arch=dict(embed_dims=32, num_layers=2, num_heads=2),
        img_size=16,
        patch_size=4,
        frozen=True,
    )
    parts = dict(backbone=backbone, decode_head=dict(HEAD, **head), train_cfg=dict(), test_cfg=dict(mode='whole'))
    model = MODELS.build(ConfigDict(type='EncoderDecoder', **parts))
    randomize(model)
    return model.eval()


def samples(labels, ori_shape=SIZE):
    from mmseg.structures import SegDataSample

    out = []
    for label in labels:
        meta = dict(ori_shape=ori_shape, img_shape=SIZE, pad_shape=SIZE, padding_size=[0] * 4)
        out.append(SegDataSample(metainfo=meta))
        out[-1].gt_sem_seg = PixelData(data=label[None])
    return out


@NORMS
def test_each_sub_patch_is_a_linear_map_of_its_token(norm_cfg):
    init_default_scope('mmseg')
    head = MODELS.build(dict(HEAD, norm_cfg=norm_cfg)).double()
    randomize(head)
    head.eval()
    maps = torch.randn(2, 32, 3, 4, dtype=torch.double)
    out = head((maps * 0, maps))  # the last map is read
    assert out.shape == (2, K, 3 * S, 4 * S)
    x = maps
    if norm_cfg:
        mean, var, gamma, beta = (
            t[None, :, None, None]
            for t in (head.norm.running_mean, head.norm.running_var, head.norm.weight, head.norm.bias)
        )
        x = (maps - mean) / (var + 1e-5).sqrt() * gamma + beta
    weight = head.conv_seg.weight.reshape(K, S, S, 32)
    bias = head.conv_seg.bias.reshape(K, S, S)
    for b in range(2):
        for row in range(3 * S):
            for col in range(4 * S):
                token = x[b, :, row // S, col // S]
                expected = weight[:, row % S, col % S] @ token + bias[:, row % S, col % S]
                torch.testing.assert_close(out[b, :, row, col], expected)


@NORMS
def test_predicts_at_the_size_of_the_file_and_batches_like_singles(norm_cfg):
    model, images = segmentor(norm_cfg=norm_cfg), torch.randn(3, 3, *SIZE)
    labels = torch.zeros(3, 30, 35, dtype=torch.long)
    with torch.no_grad():
        together = model.predict(images, samples(labels, ori_shape=(30, 35)))
        for image, result in zip(images, together):
            (alone,) = model.predict(image[None], samples(labels[:1], ori_shape=(30, 35)))
            torch.testing.assert_close(result.seg_logits.data, alone.seg_logits.data, atol=1e-5, rtol=1e-4)
    assert together[0].pred_sem_seg.data.shape == (1, 30, 35)
    assert together[0].pred_sem_seg.data.unique().numel() > 1


def test_learns_structures_finer_than_a_patch():
    """Stripes one sub-patch wide in the left half; without sub-patches a patch can have one class only."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, *SIZE)
    labels = torch.zeros(2, 6 * S, 10 * S, dtype=torch.long)
    labels[:, :, : 5 * S : S] = 1
    labels[:, :2] = 255
    images[..., :20] += 3

    def accuracy(s):
        model = segmentor(norm_cfg=dict(type='BN'), sub_patch=s).train()
        optimizer = torch.optim.Adam(model.decode_head.parameters(), 0.05)
        for _ in range(60):
            losses = model.loss(images, samples(labels))
            optimizer.zero_grad()
            losses['decode.loss_ce'].backward()
            optimizer.step()
        return float(losses['decode.acc_seg'])

    assert accuracy(1) < 95 < 99 < accuracy(S)


@NORMS
def test_saves_and_loads(norm_cfg, tmp_path):
    first, second = segmentor(norm_cfg=norm_cfg), segmentor(norm_cfg=norm_cfg)
    with torch.no_grad():
        second.decode_head.conv_seg.weight.mul_(-2)
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        expected = first.encode_decode(image, [dict(img_shape=SIZE)])
        assert not torch.allclose(second.encode_decode(image, [dict(img_shape=SIZE)]), expected)
        torch.save(first.state_dict(), tmp_path / 'head.pth')
        second.load_state_dict(torch.load(tmp_path / 'head.pth', weights_only=True))
        torch.testing.assert_close(second.encode_decode(image, [dict(img_shape=SIZE)]), expected)
    assert second.decode_head.conv_seg.weight.shape == (K * S * S, 32, 1, 1)


def test_reads_joined_taps():
    init_default_scope('mmseg')
    cfg = dict(HEAD, in_channels=[32, 16], in_index=[0, 1], input_transform='resize_concat', norm_cfg=dict(type='BN'))
    head = MODELS.build(cfg)
    assert isinstance(head.norm, nn.BatchNorm2d) and head.norm.num_features == 48
    assert head((torch.randn(2, 32, 3, 4), torch.randn(2, 16, 3, 4))).shape == (2, K, 3 * S, 4 * S)


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(sub_patch=0), 'sub_patch=0'),
        (dict(sub_patch=3.5), 'sub_patch=3.5'),
        (dict(channels=8), 'leave channels out'),
        (dict(in_channels=[32, 32], in_index=[0, 1], input_transform='multiple_select'), 'resize_concat'),
    ],
)
def test_bad_arguments_are_named(wrong, words):
    init_default_scope('mmseg')
    with pytest.raises(ValueError, match=words):
        MODELS.build(dict(HEAD, **wrong))
