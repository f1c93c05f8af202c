"""The hosts over mmseg's classes, with nothing reduced, are those classes: outputs, gradients, switches, bad input."""

import pytest
import torch
from torch import nn

NAMES = ('TokenVisionTransformer', 'TokenBEiT', 'TokenMAE')
PATCH, DEPTH = 4, 3
SQUARE, WIDE, ODD = (24, 24), (16, 28), (22, 31)

hosts = pytest.mark.parametrize('name', NAMES)


def run(module, x, seed=0):
    torch.manual_seed(seed)
    return module(x)


# ------------------------------------------------------------------------------------------------------------- outputs
@hosts
@pytest.mark.parametrize('size', [SQUARE, WIDE, ODD], ids=str)
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_outputs_and_gradients_are_upstreams(name, size, batch, mode, twins, assert_same, gradients):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        ours, stock = twins(name, size, dtype, out_indices=(0, DEPTH - 1), final_norm=True)
        ours.train(mode == 'train'), stock.train(mode == 'train')
        x = torch.randn(batch, 3, *size, dtype=dtype)
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        got, expected = ours(x1), stock(x2)
        assert_same(got, expected, tolerance)
        for one, other in zip(gradients(ours, got, x1), gradients(stock, expected, x2)):
            if other is None:
                assert one is None
            elif dtype is torch.float64:  # keys have no gradient through their bias but rounding
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
            else:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@hosts
@pytest.mark.parametrize('size', [SQUARE, ODD], ids=str)
def test_all_but_attention_is_bit_equal(name, size, twins, assert_same):
    """With the attention's projection at zero the rest of upstream's maths is left: stem, MLPs, norms, output."""
    ours, stock = twins(name, size, out_indices=(0, DEPTH - 1), final_norm=True)
    for module in (ours, stock):
        for layer in module.layers:
            projection = layer.attn.attn.out_proj if name == 'TokenVisionTransformer' else layer.attn.proj
            nn.init.zeros_(projection.weight), nn.init.zeros_(projection.bias)
    x = torch.randn(3, 3, *size)
    assert_same(ours(x), stock(x), 0)


SHARED = [
    dict(),
    dict(out_indices=[0, 2]),
    dict(out_indices=1),
    dict(out_indices=(0, 1, 2), final_norm=True),
    dict(patch_norm=True),
    dict(num_fcs=3, act_cfg=dict(type='ReLU')),
    dict(norm_cfg=dict(type='LN', eps=0.1), final_norm=True),
]
VIT = [
    dict(out_origin=True),
    dict(output_cls_token=True, out_indices=[0, 2], final_norm=True),
    dict(output_cls_token=True, out_origin=True),
    dict(with_cls_token=False, out_origin=True, out_indices=(1, 2)),
    dict(pre_norm=True),
    dict(qkv_bias=False),
    dict(patch_bias=True, patch_pad='same'),
    dict(interpolate_mode='bilinear'),
]
OPTIONS = [(name, one) for name in NAMES for one in SHARED] + [('TokenVisionTransformer', one) for one in VIT]
OPTIONS += [('TokenBEiT', dict(qv_bias=False)), ('TokenBEiT', dict(init_values=0.5)), ('TokenMAE', dict(img_size=24))]


@pytest.mark.parametrize('name, options', OPTIONS, ids=str)
def test_options_behave_as_upstreams(name, options, twins, assert_same):
    size = SQUARE if 'img_size' in options else ODD
    ours, stock = twins(name, size, torch.float64, **options)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert_same(ours(x), stock(x), 1e-12)


# ------------------------------------------------------------------------------------------------------------ training
@hosts
def test_drop_path_drops_the_same_images(name, twins, assert_same):
    ours, stock = twins(name, dtype=torch.float64, drop_path_rate=0.7, out_indices=(0, 1, 2))
    ours.train(), stock.train()
    x = torch.randn(3, 3, *SQUARE, dtype=torch.float64)
    for seed in range(4):
        assert_same(run(ours, x, seed), run(stock, x, seed), 1e-12)
    assert not torch.equal(run(ours, x, 0)[2], run(ours, x, 1)[2])
    ours.eval()
    assert torch.equal(run(ours, x, 0)[2], run(ours, x, 1)[2])


@pytest.mark.parametrize('batch', [1, 3])
def test_drop_rate_drops_the_same_values(batch, twins, assert_same):
    ours, stock = twins('TokenVisionTransformer', dtype=torch.float64, drop_rate=0.3, drop_path_rate=0.3)
    for layer in [*ours.layers, *stock.layers]:
        assert layer.attn.proj_drop.p == 0.3
        if batch > 1:  # upstream's attention is token-major in memory, so there the same draws fall on other tokens
            layer.attn.proj_drop.p = 0
    ours.train(), stock.train()
    x = torch.randn(batch, 3, *SQUARE, dtype=torch.float64)
    for seed in range(3):
        assert_same(run(ours, x, seed), run(stock, x, seed), 1e-12)
    assert not torch.equal(run(ours, x, 0)[0], run(ours, x, 1)[0])


@hosts
def test_attention_dropout_drops_as_much(name, twins):
    """Fused kernels draw other random numbers; the mean over many draws and their spread must be upstream's."""
    draws = 3000
    ours, stock = twins(name, (8, 8), torch.float64, img_size=8, attn_drop_rate=0.4, num_layers=1)
    for module in (ours, stock):
        attn = module.layers[0].attn
        if name == 'TokenVisionTransformer':
            assert attn.attn.dropout == 0.4
        else:  # upstream's BEiT and MAE lose the rate on its way to the attention, so it is set by hand
            assert attn.attn_drop.p == 0
            attn.attn_drop.p = 0.4
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(ours(x)[0], ours(x)[0])
    ours.train(), stock.train()
    got, expected = (run(module, x.expand(draws, -1, -1, -1))[0] for module in (ours, stock))
    spread = expected.std(0)
    assert spread.min() > 0
    torch.testing.assert_close(got.std(0), spread, rtol=0.15, atol=0)
    assert ((got.mean(0) - expected.mean(0)) / spread).abs().max() < 5 * (2 / draws) ** 0.5


@pytest.mark.parametrize('drop_path_rate', [0, 0.7])
def test_gradient_checkpointing_changes_no_gradient(drop_path_rate, twins, assert_same, gradients, monkeypatch):
    options = dict(dtype=torch.float64, drop_path_rate=drop_path_rate, out_indices=(0, 2), final_norm=True)
    plain, _ = twins('TokenVisionTransformer', **options)
    ours, stock = twins('TokenVisionTransformer', with_cp=True, **options)
    calls = []
    checkpoint = torch.utils.checkpoint.checkpoint

    def spy(*args, **kwargs):
        calls.append(args)
        return checkpoint(*args, **kwargs)

    x = torch.randn(3, 3, *SQUARE, dtype=torch.float64)
    results = []
    for module in (plain, ours, stock):
        module.train()
        monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', spy if module is ours else checkpoint)
        outputs = run(module, x)
        results.append((outputs, gradients(module, outputs)))
    assert len(calls) == 2 * DEPTH
    calls.clear()
    with torch.no_grad():
        ours(x)
    assert not calls
    for outputs, grads in results[1:]:
        assert_same(outputs, results[0][0], 1e-12)
        for one, other in zip(grads, results[0][1]):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_gradient_checkpointing_under_a_reducer(twins, gradients):
    """Proportional attention reads the sizes of the tokens: those of its own block, also when it is recomputed."""
    results = []
    for with_cp in (False, True):
        ours, _ = twins('TokenVisionTransformer', with_cp=with_cp, reducer=dict(type='mmtoken.ToMe', r=4))
        outputs = ours.train()(torch.linspace(-1, 1, 3 * 24 * 24).view(1, 3, 24, 24))
        results.append(gradients(ours, outputs))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('exclude', [['all'], ['pos_embed', 'norm'], ['layers.1'], []], ids=str)
def test_frozen_exclude_freezes_the_same_parameters(exclude, twins):
    ours, stock = twins('TokenVisionTransformer', frozen_exclude=exclude, final_norm=True)
    trained = {name: p.requires_grad for name, p in ours.named_parameters()}
    assert trained == {name: p.requires_grad for name, p in stock.named_parameters()}
    assert all(trained.values()) == (exclude == ['all'])


@hosts
@pytest.mark.parametrize('norm_eval', [False, True])
def test_modes_of_all_modules(name, norm_eval, twins):
    ours, stock = twins(name, norm_eval=norm_eval, final_norm=True)
    for mode in (True, False, True):
        assert ours.train(mode) is ours
        stock.train(mode)
        assert {n: m.training for n, m in ours.named_modules()} == {n: m.training for n, m in stock.named_modules()}
    assert ours.layers[0].norm1.training is not norm_eval
    assert ours.eval() is ours
    assert not any(m.training for m in ours.modules())


# ----------------------------------------------------------------------------------------------------- mixed precision
@hosts
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_autocast(name, mode, twins, gradients):
    ours, stock = twins(name, ODD, out_indices=(0, 2), final_norm=True)
    ours.train(mode == 'train'), stock.train(mode == 'train')
    x = torch.randn(2, 3, *ODD)
    exact = stock(x)
    with torch.autocast('cpu', torch.bfloat16):
        got, expected = ours(x), stock(x)
    for one, other, full in zip(got, expected, exact):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        upstreams_error = (other - full).norm() / full.norm()
        assert (one - full).norm() / full.norm() < max(1.5 * upstreams_error, 0.01)
        assert upstreams_error < 0.05
    for one, other in zip(gradients(ours, got), gradients(stock, expected)):
        assert one.dtype == other.dtype == torch.float32
        assert torch.isfinite(one).all()
        if other.norm() > 1:  # bf16 gradients of the key bias are noise
            assert (one - other).norm() < 0.1 * other.norm()


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize('size', [(PATCH - 1, 24), (24, PATCH - 1), (1, 1)], ids=str)
def test_image_smaller_than_a_patch_is_padded_as_upstreams(size, twins, assert_same):
    ours, stock = twins('TokenVisionTransformer')
    x = torch.randn(2, 3, *size)
    assert_same(ours(x), stock(x), 1e-5)
    reduced, _ = twins('TokenVisionTransformer', reducer=dict(type='mmtoken.ToMe', r=1))
    assert reduced(x)[0].shape == stock(x)[0].shape


@pytest.mark.parametrize('name', ['TokenBEiT', 'TokenMAE'])
@pytest.mark.parametrize('size', [(PATCH - 1, 24), (24, PATCH - 1)], ids=str)
def test_image_smaller_than_a_patch(name, size, twins):
    ours, _ = twins(name)
    with pytest.raises(ValueError, match=rf'{size[0]}x{size[1]} pixels.*patch_size={PATCH}') as error:
        ours(torch.randn(1, 3, *size))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['TokenBEiT', 'TokenMAE'])
@pytest.mark.parametrize('size', [(24, 28), (20, 24), (16, 36)], ids=str)  # the last has as many patches
def test_image_of_another_size_than_the_tables(name, size, twins):
    ours, _ = twins(name)
    with pytest.raises(ValueError, match=rf'{size[0] // PATCH}x{size[1] // PATCH} patches.*6x6.*img_size') as error:
        ours(torch.randn(1, 3, *size))
    assert '\n' not in str(error.value)
