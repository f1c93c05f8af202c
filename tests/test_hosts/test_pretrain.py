"""TokenPretrainViT, with nothing reduced, is mmpretrain's VisionTransformer; skipped without mmpretrain."""

import importlib
import warnings

import pytest
import torch
from mmengine.registry import DefaultScope

try:
    from mmpretrain.models.backbones import VisionTransformer
    from mmpretrain.registry import MODELS
except ImportError as error:
    reason = f'TOKENPRETRAINVIT IS NOT TESTED: mmpretrain does not import ({error}); install mmtoken[pretrain]'
    warnings.warn(reason, stacklevel=1)
    pytest.skip(reason, allow_module_level=True)

importlib.import_module('mmtoken.hosts.pretrain')

DIMS, DEPTH, PATCH, SQUARE, ODD = 32, 3, 4, (24, 24), (22, 31)
ARCH = dict(embed_dims=DIMS, num_layers=DEPTH, num_heads=4, feedforward_channels=64)


def host(reducer=None, **kwargs):
    kwargs = dict(dict(arch=ARCH, img_size=24, patch_size=PATCH), **kwargs)
    return MODELS.build(dict(type='mmtoken.TokenPretrainViT', reducer=reducer, **kwargs)).eval()


@pytest.fixture
def twins(randomize):
    """Makes the host and its stock twin with the same weights, in eval mode."""

    def make(dtype=torch.float32, **kwargs):
        # Upstream writes the resolved indices back into the list that it was given.
        indices = kwargs.pop('out_indices', -1)
        indices = [indices] if isinstance(indices, int) else list(indices)
        ours = host(out_indices=list(indices), **kwargs)
        args = dict(dict(arch=ARCH, img_size=24, patch_size=PATCH, out_type='featmap'), **kwargs)
        stock = VisionTransformer(out_indices=list(indices), **args)
        randomize(stock)
        ours.load_state_dict(stock.state_dict())
        stock.eval()
        return ours.to(dtype), stock.to(dtype)

    return make


@pytest.mark.parametrize('size', [SQUARE, (16, 28), ODD], ids=str)
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_outputs_and_gradients_are_upstreams(size, batch, mode, twins, assert_same, gradients):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        ours, stock = twins(dtype, out_indices=[0, -1], layer_scale_init_value=0.1, drop_path_rate=0.5)
        ours.train(mode == 'train'), stock.train(mode == 'train')
        x = torch.randn(batch, 3, *size, dtype=dtype)
        results = []
        for module in (ours, stock):
            torch.manual_seed(1)
            outputs = module(x)
            results.append((outputs, gradients(module, outputs)))
        assert_same(results[0][0], results[1][0], tolerance)
        for one, other in zip(results[0][1], results[1][1]):
            rtol, atol = (1e-9, 1e-10) if dtype is torch.float64 else (1e-3, 1e-4)
            torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(out_indices=[0, 1, 2]),
        dict(out_type='raw', out_indices=[0, 2]),
        dict(out_type='cls_token', out_indices=[0, 2]),
        dict(out_type='avg_featmap'),
        dict(with_cls_token=False),
        dict(with_cls_token=False, out_type='raw'),
        dict(pre_norm=True),
        dict(final_norm=False),
        dict(qkv_bias=False),
        dict(layer_scale_init_value=1e-5),
        dict(layer_cfgs=dict(ffn_type='swiglu_fused', layer_scale_init_value=1e-5)),
        dict(layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU'))),
        dict(interpolate_mode='bilinear'),
        dict(norm_cfg=dict(type='LN', eps=0.1)),
        dict(patch_cfg=dict(padding='same')),
        dict(img_size=(16, 28)),
    ],
    ids=str,
)
def test_options_behave_as_upstreams(options, twins, assert_same):
    ours, stock = twins(torch.float64, **options)
    x = torch.randn(2, 3, *ODD, dtype=torch.float64)
    assert_same(ours(x), stock(x), 1e-12)


@pytest.mark.parametrize('rates', [dict(drop_rate=0.3), dict(drop_path_rate=0.6)], ids=str)
def test_drops_the_same(rates, twins, assert_same):
    ours, stock = twins(torch.float64, **rates)
    ours.train(), stock.train()
    x = torch.randn(3, 3, *SQUARE, dtype=torch.float64)
    results = []
    for seed in range(3):
        for module in (ours, stock):
            torch.manual_seed(seed)
            results.append(module(x))
        assert_same(*results[-2:], 1e-12)
    assert not torch.equal(results[0][0], results[2][0])


def test_attention_dropout_is_upstreams(twins, assert_same):
    """Upstream runs the same fused kernel, on tensors laid out alike: the same draws fall on the same weights."""
    ours, stock = twins(torch.float64, layer_cfgs=dict(attn_drop_rate=0.4))
    ours.train(), stock.train()
    x = torch.randn(2, 3, *SQUARE, dtype=torch.float64)
    torch.manual_seed(0)
    got = ours(x)
    torch.manual_seed(0)
    assert_same(got, stock(x), 1e-12)
    assert not torch.equal(got[0], ours(x)[0])


@pytest.mark.parametrize('frozen_stages', [-1, 1, DEPTH])
def test_frozen_stages_and_modes(frozen_stages, twins):
    ours, stock = twins(frozen_stages=frozen_stages)
    trained = {name: p.requires_grad for name, p in ours.named_parameters()}
    assert trained == {name: p.requires_grad for name, p in stock.named_parameters()}
    assert all(trained.values()) == (frozen_stages == -1)
    for mode in (True, False):
        assert ours.train(mode) is ours
        stock.train(mode)
        assert {n: m.training for n, m in ours.named_modules()} == {n: m.training for n, m in stock.named_modules()}
    assert ours.eval() is ours


def test_autocast(twins):
    ours, stock = twins()
    x = torch.randn(2, 3, *ODD)
    exact = stock(x)[0]
    with torch.autocast('cpu', torch.bfloat16):
        got, expected = ours(x)[0], stock(x)[0]
    assert got.dtype == expected.dtype
    assert (got - exact).norm() < max(1.5 * (expected - exact).norm(), 0.01 * exact.norm())
    assert (expected - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize('arch', ['deit-tiny', 'dinov2-small', 'base', 'dinov2-giant'])
def test_keys_are_upstreams(arch):
    args = dict(arch=arch, img_size=28, patch_size=14)
    if arch == 'dinov2-giant':
        args['layer_cfgs'] = dict(ffn_type='swiglu_fused')
        args['arch'] = dict(VisionTransformer.arch_zoo[arch], num_layers=1)  # it has 40 alike
    if arch.startswith('dinov2'):
        args['layer_scale_init_value'] = 1e-5
    with torch.device('meta'):  # no need to fill the large ones
        stock = VisionTransformer(out_type='featmap', **args)
        for reducer in (None, dict(type='mmtoken.Expedit', layer=0, grid=0.5)):
            ours = host(reducer=reducer, **args)
            assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
                (k, v.shape) for k, v in stock.state_dict().items()
            ]


def test_layer_depths_are_upstreams(twins):
    ours, stock = twins()
    for name, _ in ours.named_parameters():
        assert ours.get_layer_depth(f'backbone.{name}', 'backbone.') == stock.get_layer_depth(
            f'backbone.{name}', 'backbone.'
        )
    assert ours.get_layer_depth('backbone.reducer.weight', 'backbone.') == (DEPTH + 1, DEPTH + 2)


def test_pretrained_with_another_table(twins, tmp_path):
    source, _ = twins(img_size=32)
    torch.save(source.state_dict(), tmp_path / 'pretrained.pth')
    ours, stock = twins(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'pretrained.pth')))
    for module in (ours, stock):
        torch.nn.init.zeros_(module.pos_embed)
        module.init_weights()
        assert module.pos_embed.shape == (1, 37, DIMS)
        assert module.pos_embed.std() > 0.05
    for (key, value), other in zip(ours.state_dict().items(), stock.state_dict().values()):
        assert torch.equal(value, other), key


@pytest.mark.parametrize(
    'reducer',
    [
        dict(type='mmtoken.Expedit', layer=1, grid=0.5),
        dict(type='mmtoken.ToMe', r=6),
        dict(type='mmtoken.AvgPool', layer=1, grid=0.5),
    ],
)
@pytest.mark.parametrize('with_cls_token', [True, False])
def test_out_types_of_a_reduced_model(reducer, with_cls_token, randomize):
    """Each output is upstream's formula over the restored feature map."""
    reduced = dict(reducer=reducer, with_cls_token=with_cls_token)
    model = host(**reduced)
    randomize(model)
    x = torch.randn(2, 3, *ODD)
    (featmap,) = model(x)
    assert featmap.shape == (2, DIMS, 6, 8)
    assert model.token_counts(x)[-1] < 48

    def other(out_type):
        same = host(out_type=out_type, **reduced)
        randomize(same)
        same.load_state_dict(model.state_dict(), strict=False)
        return same, same(x)[0]

    raw = other('raw')[1]
    assert raw.shape == (2, with_cls_token + 48, DIMS)
    torch.testing.assert_close(raw[:, with_cls_token:].mT.reshape(featmap.shape), featmap)
    same, average = other('avg_featmap')
    torch.testing.assert_close(average, same.ln2(featmap.mean((2, 3))))
    if with_cls_token:
        torch.testing.assert_close(other('cls_token')[1], raw[:, 0])


def test_bad_input():
    for size in ((0, 24), (24, 0)):
        with pytest.raises(ValueError, match=rf'{size[0]}x{size[1]} pixels.*patch_size={PATCH}') as error:
            host()(torch.randn(1, 3, *size))
        assert '\n' not in str(error.value)
    with pytest.raises(ValueError, match="reducer.restore='late'.*backbone.out_type='raw'.*'featmap'") as error:
        host(reducer=dict(type='mmtoken.Expedit', layer=1, grid=0.5, restore='late'), out_type='raw')
    assert '\n' not in str(error.value)
    with pytest.raises(ValueError, match=f'reducer.layer=9.*0 to {DEPTH - 1}'):
        host(reducer=dict(type='mmtoken.Expedit', layer=9, grid=0.5))


def test_dense_host_compiles_into_one_graph(randomize):
    model = host(drop_path_rate=0.1, layer_scale_init_value=0.1)
    randomize(model)
    x = torch.randn(2, 3, *SQUARE)
    with torch.no_grad():  # the eager backend runs what was traced, and needs no compiler
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend='eager')(x), model(x))


def test_found_from_mmsegs_scope():
    from mmseg.registry import MODELS as MMSEG_MODELS

    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MMSEG_MODELS.build(dict(type='mmtoken.TokenPretrainViT', arch=ARCH, img_size=24, patch_size=PATCH))
    assert model.out_type == 'featmap'
