"""DPTDepthHead: depth in metres, what has no say in the loss; and the depth estimator around it with reducers."""

import warnings

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmtoken.registry import MODELS
from mmtoken.testing import PATCH, randomize, toy_hosts

HEAD = dict(
    type='mmtoken.DPTDepthHead',
    max_depth=5.0,
    embed_dims=32,
    post_process_channels=[4, 4, 8, 8],
    channels=8,
    norm_cfg=dict(type='BN'),
    align_corners=False,
)
BACKBONE = dict(type=toy_hosts()['TokenVisionTransformer'], out_indices=(0, 1, 2, 3))
SIZES = [(24, 40), (30, 21), (32, 48)]
TOME = dict(type='mmtoken.ToMe', r=8)


def head(**kwargs):
    torch.manual_seed(0)
    init_default_scope('mmseg')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        warnings.filterwarnings('ignore', '.*build_loss')
        return MODELS.build(ConfigDict(HEAD, **kwargs)).eval()


def estimator(reducer=None, **test_cfg):
    torch.manual_seed(0)
    init_default_scope('mmseg')
    parts = dict(
        backbone=dict(BACKBONE, reducer=reducer),
        decode_head=HEAD,
        train_cfg=dict(),
        test_cfg=dict(dict(mode='whole'), **test_cfg),
    )
    model = MODELS.build(ConfigDict(type='mmtoken.TokenDepthEstimator', **parts)).eval()
    randomize(model.decode_head, std=0.5)
    return model


@pytest.mark.parametrize('missing', [None, dict(), dict(max_depth=5.0)])
@torch.no_grad()
def test_the_whole_picture_is_the_default(missing):
    model, (inputs, samples) = estimator(), batch()
    whole = [one.pred_depth_map.data for one in model.predict(inputs, samples)]
    parts = dict(backbone=dict(BACKBONE), decode_head=HEAD, test_cfg=missing)
    bare = MODELS.build(ConfigDict(type='mmtoken.TokenDepthEstimator', **parts)).eval()
    bare.load_state_dict(model.state_dict())
    for one, expected in zip(bare.predict(inputs, samples), whole):
        assert torch.equal(one.pred_depth_map.data, expected)


def sample(depth, size):
    height, width = depth.shape[1:]
    meta = dict(img_shape=size, ori_shape=size, pad_shape=(height, width))
    meta.update(padding_size=[0, width - size[1], 0, height - size[0]])
    return SegDataSample(metainfo=meta, gt_depth_map=PixelData(data=depth))


def batch():
    """Pictures of three sizes, padded to the largest, and their depths."""
    torch.manual_seed(1)
    inputs, samples = torch.zeros(3, 3, 32, 48), []
    for picture, (h, w) in zip(inputs, SIZES):
        picture[:, :h, :w] = torch.randn(3, h, w)
        depth = torch.zeros(1, 32, 48)
        depth[:, :h, :w] = torch.rand(1, h, w) + 0.1
        samples.append(sample(depth, (h, w)))
    return inputs, samples


@torch.no_grad()
def test_depth_is_metric_at_sixteen_times_the_grid():
    net, taps = head(min_depth=2.0), [torch.randn(2, 32, 4, 5) for _ in range(4)]
    depth = net.forward(taps)
    assert depth.shape == (2, 1, 64, 96)
    net.conv_seg.weight.zero_()
    for bias, metres in ((-1000, 2.0), (0, 3.5), (1000, 5.0)):
        net.conv_seg.bias.fill_(bias)
        assert torch.allclose(net.forward(taps), torch.tensor(metres))


@torch.no_grad()
def test_the_trunk_is_that_of_mmsegs_head():
    """Same parameters as the segmentation head up to the last fusion, and the same map there."""
    net = head()
    own = {key: HEAD[key] for key in ('embed_dims', 'post_process_channels', 'channels', 'norm_cfg')}
    stock = dict(own, type='mmseg.DPTHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], num_classes=2)
    stock = MODELS.build(ConfigDict(stock, input_transform='multiple_select')).eval()
    trunk = {k: v for k, v in net.state_dict().items() if not k.startswith(('project', 'conv_seg'))}
    found = stock.load_state_dict(trunk, strict=False)
    assert not found.unexpected_keys and {k.split('.')[0] for k in found.missing_keys} == {'project', 'conv_seg'}
    taps, seen = [torch.randn(1, 32, 4, 4) for _ in range(4)], []
    for one in (net, stock):
        one.fusion_blocks[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    net.forward(taps), stock.forward([(tap, None) for tap in taps])
    assert torch.equal(*seen)


@pytest.mark.parametrize('readout', ['add', 'project'])
def test_a_readout_needs_the_class_token(readout):
    net, maps = head(readout_type=readout), [torch.randn(1, 32, 2, 2) for _ in range(4)]
    with pytest.raises(ValueError, match=f"readout_type='{readout}' needs the class token: set backbone.output_cls"):
        net.forward(maps)
    first = net.forward([[tap, torch.zeros(1, 32)] for tap in maps])
    assert not torch.equal(first, net.forward([[tap, torch.ones(1, 32)] for tap in maps]))


def test_depths_are_checked():
    for depths in (dict(max_depth=0), dict(min_depth=5.0), dict(min_depth=0.0), dict(max_depth=None)):
        with pytest.raises(ValueError, match='decode_head.m.._depth='):
            head(**depths)


def test_what_was_not_measured_has_no_say():
    """A pixel without depth changes nothing; nor does a whole picture, whose loss would have no derivative."""
    net = head()
    prediction = (torch.rand(2, 1, 16, 16) + 1).requires_grad_()
    truth = torch.rand(2, 1, 16, 16) + 1
    truth[0, :, :5], truth[1] = 0, 0
    truth[0, :, 3:5], truth[1, :, 9:] = 5.5, 255  # beyond max_depth; what upstream pads with
    loss = net.loss_by_feat(prediction, [sample(one, (16, 16)) for one in truth])['loss_silog']
    difference = (truth[0, :, 5:].log() - prediction[0, :, 5:].log()).flatten()
    assert torch.allclose(loss, (difference.square().mean() - 0.5 * difference.mean().square()).sqrt())
    loss.backward()
    grad = prediction.grad
    assert grad.isfinite().all() and (grad[0, :, 5:] != 0).all()
    assert not grad[1].any() and not grad[0, :, :5].any()
    nothing = net.loss_by_feat(prediction, [sample(one, (16, 16)) for one in truth * 0])['loss_silog']
    nothing.backward()
    assert nothing == 0 and torch.equal(prediction.grad, grad)


@torch.no_grad()
def test_a_method_that_reduces_nothing_is_the_dense_model():
    inputs, samples = batch()
    dense, identity = (estimator(reducer) for reducer in (None, dict(TOME, r=0)))
    identity.load_state_dict(dense.state_dict())
    a, b = (net.predict(inputs, samples)[2].pred_depth_map.data.clone() for net in (dense, identity))
    assert torch.equal(a, b) and a.shape == (1, 32, 48)


@pytest.mark.parametrize('mode', ['whole', 'slide', 'slide_flip'])
def test_padding_is_told_in_each_mode(mode):
    net, (inputs, samples) = estimator(TOME, mode=mode, crop_size=(32, 48), stride=(16, 16)), batch()
    seen = []
    with torch.no_grad(), net.backbone.watching(lambda state, i: seen.append((state, state.full_layout.padding))):
        net.predict(inputs, samples)
    if mode == 'slide_flip':  # pictures run alone, each without padding
        assert {state.grid for state, _ in seen} == {(-(-h // PATCH), -(-w // PATCH)) for h, w in SIZES}
        assert all(padding is None for _, padding in seen)
    else:
        own = torch.tensor([-(-h // PATCH) * -(-w // PATCH) for h, w in SIZES])
        assert len(seen) == 5 and all(torch.equal((~padding).sum(1), own) for _, padding in seen)


@torch.no_grad()
def test_slides_are_cut_and_put_together():
    """Upstream runs the crops of ``slide`` and then returns the whole picture's depth."""
    net, picture = estimator(mode='slide', crop_size=(32, 32), stride=(32, 32)), torch.randn(1, 3, 32, 64)
    metas = [dict(ori_shape=(32, 64), img_shape=(32, 64))]
    halves = [
        net.decode_head.predict(net.extract_feat(half), [dict(img_shape=half.shape[2:])], None)
        for half in picture.split(32, dim=3)
    ]
    assert torch.allclose(net.inference(picture, metas), torch.cat(halves, 3))


def test_it_learns():
    net = estimator(dict(TOME, r=4)).train()
    picture = torch.randn(2, 3, 32, 48)
    samples = [sample(torch.rand(1, 32, 48).cumsum(2) / 10 + 0.5, (32, 48)) for _ in range(2)]
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=1e-2), []
    for _ in range(15):
        loss = net.loss(picture, samples)['decode.loss_silog']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
