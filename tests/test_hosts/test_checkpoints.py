"""Stock checkpoints go into the hosts and back; initialisation and layer-wise learning rates are upstream's."""

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor
from mmseg.registry import MODELS
from torch import nn

from mmtoken.core import Reducer

DEPTH = 3
hosts = pytest.mark.parametrize('name', ['TokenVisionTransformer', 'TokenBEiT', 'TokenMAE'])
relative_hosts = pytest.mark.parametrize('name', ['TokenBEiT', 'TokenMAE'])


class Gate(Reducer):
    """A trainable reducer that reduces nothing: parameters and a buffer of its own."""

    trainable = True

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(32, 1)
        self.register_buffer('rate', torch.ones(1))


GATE_KEYS = {'reducer.score.weight', 'reducer.score.bias', 'reducer.rate'}


def assert_equal_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


# --------------------------------------------------------------------------------------------------------- checkpoints
@hosts
@pytest.mark.parametrize('reducer', [None, dict(type='mmtoken.Expedit', layer=1, grid=0.5)], ids=['none', 'expedit'])
def test_keys_are_upstreams(name, reducer, twins):
    ours, theirs = twins(name, reducer=reducer, final_norm=True)
    assert_equal_state(ours, theirs)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]


@hosts
def test_a_reducers_own_weights_are_all_that_differs(name, twins, tmp_path):
    ours, theirs = twins(name, reducer=Gate(), final_norm=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    loaded = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert set(loaded.missing_keys) == GATE_KEYS
    assert not loaded.unexpected_keys
    torch.save(ours.state_dict(), tmp_path / 'ours.pth')
    nn.init.zeros_(theirs.cls_token)
    loaded = theirs.load_state_dict(torch.load(tmp_path / 'ours.pth'), strict=False)
    assert set(loaded.unexpected_keys) == GATE_KEYS
    assert not loaded.missing_keys
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    torch.testing.assert_close(ours.double()(x)[0], theirs.double()(x)[0], rtol=1e-9, atol=1e-9)


def segmentor(backbone_type, **backbone):
    norm = dict(type='BN', requires_grad=True)
    return MODELS.build(
        dict(
            _scope_='mmseg',
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            pretrained=None,
            backbone=dict(
                type=backbone_type,
                img_size=24,
                patch_size=4,
                embed_dims=32,
                num_layers=DEPTH,
                num_heads=4,
                mlp_ratio=2,
                **backbone,
            ),
            decode_head=dict(
                type='FCNHead', in_channels=32, channels=16, num_convs=1, num_classes=3, norm_cfg=norm, in_index=0
            ),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
    )


@hosts
def test_only_the_type_changes_in_a_segmentor(name, randomize, tmp_path):
    stock = segmentor(name.removeprefix('Token'))
    randomize(stock)
    torch.save(dict(state_dict=stock.state_dict(), meta={}), tmp_path / 'stock.pth')
    ours = segmentor(f'mmtoken.{name}')
    load_checkpoint(ours, str(tmp_path / 'stock.pth'), map_location='cpu', strict=True)
    assert_equal_state(ours, stock)
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x), rtol=1e-4, atol=1e-4)

    reduced = segmentor(f'mmtoken.{name}', reducer=dict(type='mmtoken.Expedit', layer=1, grid=0.5))
    load_checkpoint(reduced, str(tmp_path / 'stock.pth'), map_location='cpu', strict=True)
    out = reduced.eval()(x)
    assert out.shape == (2, 3, 6, 6)
    assert torch.isfinite(out).all()
    assert not torch.allclose(out, stock(x), atol=1e-3)
    assert reduced.backbone.token_counts(x) == [36, 9, 9]


# ------------------------------------------------------------------------------------------------ layer-wise decay
def groups(backbone, decay_rate=0.5):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone
            self.decode_head = nn.Conv2d(32, 3, 1)

    constructor = LearningRateDecayOptimizerConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05)),
        dict(num_layers=DEPTH, decay_rate=decay_rate, decay_type='layer_wise'),
    )
    wrapper = constructor(Model())
    return {
        name: (group['group_name'], group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for name in group['param_names']
    }


@relative_hosts
def test_layer_decay_groups_are_upstreams(name, twins):
    ours, theirs = twins(name, final_norm=True)
    expected = groups(theirs)
    assert groups(ours) == expected
    assert len(set(expected.values())) > 2 * DEPTH

    ours, _ = twins(name, reducer=Gate(), final_norm=True)
    got = groups(ours)
    assert {n: g for n, g in got.items() if '.reducer.' not in n} == expected
    # A reducer is new, as the head is: the full learning rate.
    assert got['backbone.reducer.score.weight'] == expected['decode_head.weight']


def test_layer_decay_refuses_the_vision_transformer_as_upstreams(twins):
    for backbone in twins('TokenVisionTransformer'):
        with pytest.raises(NotImplementedError):
            groups(backbone)


# ------------------------------------------------------------------------------------------------------ initialisation
@hosts
def test_fresh_weights_are_upstreams(name, twins):
    ours, theirs = twins(name, final_norm=True)
    for module in (ours, theirs):
        torch.manual_seed(3)
        module.init_weights()
    assert_equal_state(ours, theirs)
    assert ours.layers[0].ffn.layers[1].weight.std() > 0


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('key', ['init_cfg', 'pretrained'])
def test_pretrained_vision_transformer_with_another_table(wrapped, key, twins, tmp_path):
    """A checkpoint from 32x32 pixels: upstream resizes its position table to ours of 24x24."""
    _, source = twins('TokenVisionTransformer', img_size=(32, 32))
    state = source.state_dict()
    state['head.weight'] = torch.zeros(2)  # what a classifier's checkpoint has besides
    path = str(tmp_path / 'pretrained.pth')
    torch.save(dict(state_dict=state) if wrapped else state, path)
    init = path if key == 'pretrained' else dict(type='Pretrained', checkpoint=path)
    ours, theirs = twins('TokenVisionTransformer', reducer=Gate(), **{key: init})
    score = ours.reducer.score.weight.clone()
    for module in (ours, theirs):
        nn.init.zeros_(module.pos_embed), nn.init.zeros_(module.layers[2].attn.attn.in_proj_weight)
        module.init_weights()
    assert torch.equal(ours.reducer.score.weight, score)
    del ours.reducer
    assert_equal_state(ours, theirs)
    assert torch.equal(ours.layers[2].attn.attn.in_proj_weight, state['layers.2.attn.attn.in_proj_weight'])
    assert ours.pos_embed.shape == (1, 37, 32)
    assert torch.equal(ours.pos_embed[:, 0], state['pos_embed'][:, 0])
    assert ours.pos_embed[:, 1:].std() > 0.05


@relative_hosts
def test_pretrained_relative_hosts(name, twins, tmp_path):
    _, source = twins(name)
    path = str(tmp_path / 'pretrained.pth')
    torch.save(source.state_dict(), path)
    ours, theirs = twins(name, init_cfg=dict(type='Pretrained', checkpoint=path))
    for module in (ours, theirs):
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        module.init_weights()
    assert_equal_state(ours, source)
    assert_equal_state(theirs, source)


def test_pretrained_mae_with_another_table(twins, tmp_path):
    """Released MAE weights have no relative tables; their position table is resized."""
    _, source = twins('TokenMAE', size=(32, 32))
    state = {k: v for k, v in source.state_dict().items() if 'relative_position' not in k}
    path = str(tmp_path / 'pretrained.pth')
    torch.save(state, path)
    ours, theirs = twins('TokenMAE', init_cfg=dict(type='Pretrained', checkpoint=path))
    for module in (ours, theirs):
        nn.init.zeros_(module.pos_embed)
        module.init_weights()
    assert_equal_state(ours, theirs)
    assert ours.pos_embed.shape == (1, 37, 32)
    assert ours.pos_embed[:, 1:].std() > 0.05


@hosts
def test_host_is_found_from_either_scope(name):
    """``type='mmtoken.…'`` works in an mmseg config without custom_imports."""
    from mmengine.registry import DefaultScope

    for scope in ('mmseg', 'mmdet'):
        with DefaultScope.overwrite_default_scope(scope):
            host = MODELS.build(
                dict(type=f'mmtoken.{name}', img_size=24, patch_size=4, embed_dims=32, num_layers=1, num_heads=4)
            )
        assert type(host).__name__ == name
