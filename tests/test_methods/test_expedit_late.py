"""Expedit's late mode: the head runs on the centres and its logits are restored."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmtoken.registry import MODELS
from mmtoken.testing import randomize

LATE = dict(type='mmtoken.Expedit', layer=2, grid=(4, 5), restore='late')


def make(reducer, model='mmtoken.TokenEncoderDecoder', **backbone):
    """A segmentor of 5 classes, the same weights at every call."""
    torch.manual_seed(3)
    segmentor = MODELS.build(
        dict(
            type=model,
            _scope_='mmseg',
            backbone=dict(
                type='mmtoken.TokenDINOv2',
                arch=dict(embed_dims=32, num_layers=4, num_heads=2),
                img_size=32,
                patch_size=4,
                layer_scale=1.0,
                reducer=reducer,
                **backbone,
            ),
            decode_head=dict(
                type='FCNHead',
                in_channels=32,
                channels=32,
                num_convs=0,
                concat_input=False,
                kernel_size=1,
                in_index=0,
                num_classes=5,
                dropout_ratio=0,
                align_corners=False,
                loss_decode=dict(type='CrossEntropyLoss'),
            ),
            test_cfg=dict(mode='whole'),
        )
    )
    randomize(segmentor)
    return segmentor.eval()


def images(batch=2, size=(24, 40)):
    return torch.randn(batch, 3, *size)


@torch.no_grad()
def test_restored_logits_are_weighted_sums_of_those_of_the_centres():
    model, inputs = make(LATE), images()
    feats = model.extract_feat(inputs)
    assert feats[0].shape == (2, 32, 4, 5), 'the head sees the centres'
    reduced = model.decode_head.forward(feats).flatten(2)  # (B, classes, M)
    centres = torch.eye(20).expand(2, -1, -1)
    weights = model.backbone.forward_tokens(inputs)[1].dense(centres)  # (B, N, M)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 60), atol=1e-5)
    expected = (reduced @ weights.transpose(1, 2)).unflatten(2, (6, 10))
    assert torch.allclose(model._forward(inputs), expected, atol=1e-5)


@torch.no_grad()
def test_a_linear_head_gives_the_same_either_way():
    """Restoring commutes with a 1×1 head whose weights sum to one, if nothing but the head comes after."""
    inputs = images()
    late = make(LATE, final_norm=False)._forward(inputs)
    feature = make(dict(LATE, restore='feature'), final_norm=False)._forward(inputs)
    assert torch.allclose(late, feature, atol=1e-4)


@torch.no_grad()
def test_late_with_every_centre_is_the_dense_model():
    inputs = images()
    assert torch.equal(make(dict(LATE, grid=1.0))._forward(inputs), make(None)._forward(inputs))


def test_training_and_inference_run_to_the_end():
    model, inputs = make(LATE), images()
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 24, 40)))) for _ in range(2)]
    loss = model.train().loss(inputs, samples)['decode.loss_ce']
    loss.backward()
    assert loss.isfinite() and model.backbone.patch_embed.proj.weight.grad.abs().max() > 0
    meta = dict(ori_shape=(24, 40), img_shape=(24, 40), pad_shape=(24, 40), padding_size=[0, 0, 0, 0])
    with torch.no_grad():
        assert model.eval().encode_decode(inputs, [meta] * 2).shape == (2, 5, 24, 40)


def test_a_segmentor_that_restores_nothing_is_refused():
    with pytest.raises(ValueError, match=r"restore='late'.*mmtoken\.TokenEncoderDecoder"):
        make(LATE, model='EncoderDecoder')._forward(images())


@pytest.mark.parametrize('size', [(16, 16), (16, 24), (24, 40)])
@pytest.mark.parametrize('scale', [0.5, 2, 4])
def test_a_head_that_mixes_maps_of_several_sizes_is_refused_in_one_line(size, scale):
    """As heads for depth do: whether their parts fit each other by chance or not."""
    model = make(dict(LATE, grid=0.5))

    def forward(feats):
        other = torch.nn.functional.interpolate(feats[0], scale_factor=scale)
        return torch.cat([feats[0][..., : other.shape[-2], :], other[..., : feats[0].shape[-1]]], dim=1)

    model.decode_head.forward = forward
    with pytest.raises(
        ValueError, match=r"restore='late' needs a head .*FCNHead (cannot|gives).* restore='feature'"
    ) as e:
        model._forward(images(size=size))
    assert '\n' not in str(e.value)
