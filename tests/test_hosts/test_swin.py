"""TokenSwin: upstream's classes with nothing reduced; windows that shrink inside a stage, against upstream's blocks."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones import SwinTransformer as DetSwin
from mmengine.config import Config, ConfigDict
from mmpretrain.models.backbones import SwinTransformer as PretrainSwin
from mmseg.models.backbones import SwinTransformer as SegSwin
from mmseg.models.backbones.swin import SwinBlock

from mmtoken.analysis import segmentor_macs
from mmtoken.analysis.tokens import token_of_patches
from mmtoken.core import TokenState, build_reducer
from mmtoken.core.folding import let
from mmtoken.hosts.swin import TokenSwin
from mmtoken.methods.expedit.reducer import cluster

CONFIGS = Path(__file__).parents[2] / 'configs'
SMALL = dict(embed_dims=16, depths=(2, 2, 4, 1), num_heads=(2, 2, 4, 4), window_size=4, drop_path_rate=0.0)
#: Whole windows in the first stages; cut off in all; narrower than a window in the last ones.
SIZES = [(64, 64), (76, 92), (20, 37)]


@pytest.fixture
def twins(randomize):
    def make(stock=SegSwin, dtype=torch.float64, reducer=None, **kwargs):
        theirs = stock(**{**SMALL, **kwargs})
        randomize(theirs)
        ours = TokenSwin(reducer=reducer, **{**SMALL, **kwargs})
        ours.load_state_dict(theirs.state_dict())
        ours.eval(), theirs.eval()  # the stock class gives back None
        return ours.to(dtype), theirs.to(dtype)

    return make


# ---------------------------------------------------------------------------------------------------------- as upstream
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('stock', [SegSwin, DetSwin], ids=['mmseg', 'mmdet'])
def test_outputs_and_gradients_are_upstreams(stock, size, twins, assert_same, gradients):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        ours, theirs = twins(stock, dtype)
        x = torch.randn(2, 3, *size, dtype=dtype)
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        got, expected = ours(x1), tuple(theirs(x2))
        assert_same(got, expected, tolerance)
    for one, other in zip(gradients(ours, got, x1), gradients(theirs, expected, x2)):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    'options',
    [
        dict(window_size=7, out_indices=(1, 3)),
        dict(qkv_bias=False, qk_scale=0.3, patch_norm=False),
        dict(use_abs_pos_embed=True, pretrain_img_size=(36, 44)),
        dict(depths=(1, 3), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1), mlp_ratio=2),
        dict(window_size=1),
    ],
    ids=str,
)
def test_options_behave_as_upstreams(options, twins, assert_same):
    ours, theirs = twins(**options)
    x = torch.randn(2, 3, 36, 44, dtype=torch.float64)
    assert_same(ours(x), tuple(theirs(x)), 1e-12)


def test_training_draws_as_upstream(twins, assert_same):
    ours, theirs = twins(drop_path_rate=0.5)
    assert ours.train() is ours
    theirs.train()
    x = torch.randn(3, 3, 32, 48, dtype=torch.float64)
    outs = []
    for module in (ours, theirs):
        torch.manual_seed(0)
        outs.append(tuple(module(x)))
    assert_same(*outs, 1e-12)
    assert not torch.equal(ours(x)[3], ours(x)[3])


@pytest.mark.parametrize('stages', [-1, 0, 2, 4])
def test_frozen_stages_are_upstreams(stages, twins):
    ours, theirs = twins(DetSwin, frozen_stages=stages)
    for mode in (True, False, True):
        ours.train(mode), theirs.train(mode)
        assert {n: m.training for n, m in ours.named_modules()} == {n: m.training for n, m in theirs.named_modules()}
    trained = {name: p.requires_grad for name, p in ours.named_parameters()}
    assert trained == {name: p.requires_grad for name, p in theirs.named_parameters()}


def test_depths_of_parameters_are_mmpretrains():
    ours = TokenSwin(embed_dims=96, depths=(2, 2, 6, 2), window_size=7)
    names, theirs = [name for name, _ in ours.named_parameters()], PretrainSwin('tiny')
    depths = [ours.get_layer_depth(f'backbone.{name}', 'backbone.') for name in names]
    assert depths == [theirs.get_layer_depth(name, '') for name in names]
    assert {depth for depth, _ in depths} == set(range(14)) and depths[0][1] == 14


@pytest.mark.parametrize('kind', ['mmseg', 'mmdet', 'official'])
def test_loads_checkpoints_of_other_windows(kind, twins, tmp_path, assert_same):
    """As the stock classes do: of mmseg, of mmdet's detectors, and of the official repository."""
    stock = SegSwin if kind == 'mmseg' else DetSwin
    _, source = twins(stock, torch.float32, window_size=5)
    state = {name: value for name, value in source.state_dict().items() if 'position_index' not in name}
    if kind == 'mmdet':
        state = {f'backbone.{name}': value for name, value in state.items()}
    if kind == 'official':
        names = [
            ('stages', 'layers'),
            ('attn.w_msa', 'attn'),
            ('ffn.layers.0.0', 'mlp.fc1'),
            ('ffn.layers.1', 'mlp.fc2'),
        ]
        for old, new in names:
            state = {name.replace(old, new): value for name, value in state.items()}
        state = {name.replace('projection', 'proj'): value for name, value in state.items()}
    path, more = tmp_path / 'swin.pth', dict(convert_weights=True) if kind == 'official' else {}
    torch.save(dict(state_dict=state), path)
    init = dict(type='Pretrained', checkpoint=str(path))
    models = [make(**SMALL, **more, init_cfg=ConfigDict(init)) for make in (TokenSwin, stock)]
    for model in models:
        model.init_weights(), model.eval()
    x = torch.randn(1, 3, 40, 40)
    assert_same(models[0](x), tuple(models[1](x)), 1e-5)
    assert torch.equal(models[0].patch_embed.projection.weight, source.patch_embed.projection.weight)


# -------------------------------------------------------------------------------------------------------------- reduced
def expedit(**kwargs):
    return dict(type='mmtoken.Expedit', **{**dict(layer=5, grid=(3, 3), temperature=0.02, iterations=2), **kwargs})


@pytest.mark.parametrize('size', [(128, 192), (112, 176), (144, 64)], ids=str)
@torch.no_grad()
def test_a_reduced_stage_is_upstreams_stage_with_smaller_windows(size, twins, assert_same):
    """By loops over the windows of the third stage, and upstream's blocks with windows of 3 and resized tables."""
    ours, _ = twins(reducer=expedit())
    dense, _ = twins()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    grid = (size[0] // 16, size[1] // 16)
    before = dense.run_blocks(dense.embed(x), range(4)).x
    tokens = dense.stages[2].blocks[0](before, grid).unflatten(1, grid)

    rows, columns = (range(0, side, 4) for side in grid)
    clustered = [[cluster_window(tokens[:, y : y + 4, x : x + 4]) for x in columns] for y in rows]
    raster = torch.cat([torch.cat([centres for centres, _ in line], 2) for line in clustered], 1)
    shape, x3 = tuple(raster.shape[1:3]), raster.flatten(1, 2)
    for i in (1, 2, 3):
        x3 = small_block(dense.stages[2].blocks[i])(x3, shape)
    x3, out, top = x3.unflatten(1, shape), torch.zeros_like(tokens), 0
    for y, line in zip(rows, clustered):
        left = 0
        for column, (centres, weights) in zip(columns, line):
            down, across = centres.shape[1:3]
            part = x3[:, top : top + down, left : left + across].flatten(1, 2)
            h, w = tokens[0, y : y + 4, column : column + 4, 0].shape
            out[:, y : y + 4, column : column + 4] = (weights @ part).unflatten(1, (h, w))
            left += across
        top += down
    got = ours(x)
    assert_same(got[2], dense.norm2(out).permute(0, 3, 1, 2).contiguous(), 1e-5)  # clusters are made in fp32
    assert_same(got[:2], dense(x)[:2], 0)


def cluster_window(window):
    """Centres of one window ``(B, h, w, C)`` on their raster, and the weights of each patch over them."""
    raster = tuple(window.shape[1:3])
    grid = tuple(-(-side * 3 // 4) for side in raster)
    x = window.flatten(1, 2).float()
    origin = x.mean(1, keepdim=True)
    centres, _ = cluster(x - origin, raster, grid, iterations=2, temperature=0.02)
    weights = (-0.02 * torch.cdist(x - origin, centres).square()).softmax(-1)
    return (centres + origin).unflatten(1, grid).to(window), weights.to(window)


def small_block(block):
    """Upstream's block with windows of 3 patches and a table that is read at 4/3 of the offsets."""
    attn, shift = block.attn.w_msa, block.attn.shift_size > 0
    small = SwinBlock(attn.embed_dims, attn.num_heads, attn.embed_dims * 4, 3, shift).double().eval()
    state = {name: value for name, value in block.state_dict().items() if 'relative_position' not in name}
    small.load_state_dict(state, strict=False)
    offsets = torch.arange(-2, 3, dtype=torch.float64) * (4 / 3) / 3
    points = torch.stack(torch.meshgrid(offsets, offsets, indexing='ij'), -1).flip(-1)[None]
    plane = attn.relative_position_bias_table.unflatten(0, (7, 7)).permute(2, 0, 1)[None]
    table = F.grid_sample(plane, points, align_corners=True)[0].flatten(1).t()
    small.attn.w_msa.relative_position_bias_table.data.copy_(table)
    return small


def test_a_pass_leaves_the_parameters_alone(twins):
    ours, theirs = twins(dtype=torch.float32, reducer=expedit())
    x = torch.randn(2, 3, 128, 128)
    outs = [out.detach() for out in ours(x)]
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert all(torch.equal(one, other) for one, other in zip(outs, ours(x)))
    assert ours.token_counts(x)[4:] == [64, 36, 36, 36, 16]


def test_all_tokens_of_a_window_are_bit_equal_to_none(twins):
    x = torch.randn(2, 3, 112, 176, dtype=torch.float64)
    for reducer in (expedit(grid=(4, 4)), dict(type='mmtoken.AvgPool', layer=5, grid=(4, 4))):
        ours, _ = twins(reducer=reducer)
        dense, _ = twins()
        assert all(torch.equal(one, other) for one, other in zip(ours(x), dense(x)))


GRIDS = [(8, 12), (7, 9), (3, 10)]


@pytest.mark.parametrize('grid', GRIDS, ids=str)
@pytest.mark.parametrize('method', ['ToMe', 'AvgPool', 'Expedit'])
def test_methods_stay_inside_windows(grid, method):
    """Every whole window has equally many tokens, and no token stands for patches of two windows."""
    args = dict(r=5) if method == 'ToMe' else dict(layer=0, grid=0.5)
    reducer = build_reducer(dict(type=f'mmtoken.{method}', **args)).eval()
    reducer.steps = {0: 5}
    state = TokenState(torch.randn(2, grid[0] * grid[1], 8), grid)
    for call in (reducer.before, reducer.between):
        state.keys = state.x.unflatten(-1, (2, -1))
        let(call, state, 0, 4)
    index = token_of_patches(state).unflatten(1, grid)
    seen = []
    for y in range(0, grid[0], 4):
        for x in range(0, grid[1], 4):
            window = index[:, y : y + 4, x : x + 4]
            down, across = window.shape[1:]
            kept = (
                max(down * across - 5, -(-down * across // 2)) if method == 'ToMe' else -(-down // 2) * -(-across // 2)
            )
            here = [set(one.flatten().tolist()) for one in window]
            assert [len(one) for one in here] == [kept, kept]
            seen += [(image, token) for image, one in enumerate(here) for token in one]
    assert len(seen) == len(set(seen)) == 2 * state.x.shape[1]
    assert state.coords.shape[1] == state.sizes.shape[1] == state.x.shape[1]
    assert torch.allclose(state.sizes.sum(-1), torch.tensor(float(grid[0] * grid[1])))
    if method == 'ToMe':  # centres are the means of the patches
        y, x = torch.meshgrid(*map(torch.arange, grid), indexing='ij')
        for image, centres in zip(index.flatten(1), state.coords):
            for token, centre in enumerate(centres):
                mine = torch.stack([y.flatten(), x.flatten()], -1)[image == token].float()
                assert torch.allclose(mine.mean(0), centre, atol=1e-5)


@pytest.mark.parametrize('method', ['ToMe', 'AvgPool', 'Expedit'])
def test_what_padding_holds_joins_no_token_of_the_picture(method):
    grid, padding = (7, 10), torch.zeros(2, 7, 10, dtype=torch.bool)
    padding[0, 5:], padding[1, :, 3:] = True, True
    args = dict(r=3) if method == 'ToMe' else dict(layer=0, grid=0.5)
    reducer = build_reducer(dict(type=f'mmtoken.{method}', **args)).eval()
    reducer.steps = {0: 3}
    x, results = torch.randn(2, 70, 8), []
    for fill in (0.0, 7.0, -30.0):
        tokens = x.masked_fill(padding.flatten(1)[..., None], fill)
        state = TokenState(tokens, grid, padding=padding.flatten(1))
        for call in (reducer.before, reducer.between):
            state.keys = state.x.unflatten(-1, (2, -1))
            let(call, state, 0, 4)
        assert state.padding.any(1).all() and not state.padding.all(1).any()
        results.append((state.dense()[~padding.flatten(1)], state.x[~state.padding]))
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], other))


def test_padding_goes_from_stage_to_stage(twins):
    ours, _ = twins(dtype=torch.float32, reducer=expedit(layer=0, grid=0.5))
    x, seen = torch.randn(2, 3, 60, 84), []
    padding = ours.padding_of(x, [(33, 84), (60, 41)])
    with ours.watching(lambda state, i: seen.append(state.full_layout.padding)):
        ours(x, padding)
    for i, size in ((2, 8), (4, 16), (8, 32)):
        rows, columns = -(-60 // size), -(-84 // size)
        real = ~seen[i].unflatten(1, (rows, columns))
        assert [int(one.sum()) for one in real] == [-(-33 // size) * columns, rows * -(-41 // size)]


@pytest.mark.parametrize(
    'reducer, text',
    [
        (expedit(layer=9), r'reducer\.layer=9 is not a block of this model; it has blocks 0 to 8\.'),
        (expedit(grid=(5, 4)), r'reducer\.grid=\(5, 4\) is larger than a window of 4x4 tokens'),
        (expedit(grid=0.1), r'reducer\.grid=0\.1 leaves no token of a window of 4x4; give more than 0\.125'),
        (expedit(restore_at=9 - 1 + 0, layer=2), r'reducer\.restore_at=8 is beyond the stage of layer=2.*block 4'),
        (dict(type='mmtoken.MixedScale'), r'TokenSwin: reducer MixedScale looks at whole pictures'),
    ],
    ids=str,
)
def test_bad_input(reducer, text):
    with pytest.raises(ValueError, match=text) as error:
        TokenSwin(reducer=reducer, **SMALL)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'arguments, text',
    [
        (dict(out_indices=5), r'backbone\.out_indices=5 goes beyond the 4 stages'),
        (
            dict(out_indices=(1, 0)),
            r'backbone\.out_indices=\(1, 0\) must rise: outputs come in the order of the stages',
        ),
        (dict(window_size=0), r'backbone\.window_size=0'),
    ],
    ids=str,
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text) as error:
        TokenSwin(**{**SMALL, **arguments})
    assert '\n' not in str(error.value)


def test_one_stage_may_be_named_by_its_number():
    assert TokenSwin(**{**SMALL, 'out_indices': -1}).out_indices == (3,)


def test_a_picture_smaller_than_a_window_is_a_window_cut_off(twins):
    """As with upstream's classes, whatever the method."""
    dense, _ = twins()
    for reducer in (expedit(layer=4, grid=0.5), dict(type='mmtoken.ToMe', r=3)):
        ours, _ = twins(reducer=reducer)
        x = torch.randn(2, 3, 40, 24, dtype=torch.float64)
        assert [out.shape for out in ours(x)] == [out.shape for out in dense(x)]
        assert ours.token_counts(x)[4] < dense.token_counts(x)[4] == 6


def test_positions_that_do_not_fit_say_so(twins):
    ours, _ = twins(use_abs_pos_embed=True, pretrain_img_size=32)
    with pytest.raises(ValueError, match=r'8x9 patches, and backbone\.use_abs_pos_embed has positions for 64'):
        ours(torch.randn(1, 3, 32, 36, dtype=torch.float64))


# ----------------------------------------------------------------------------------------------------------------- cost
#: What the table in configs/expedit says.
ROWS = json.loads((CONFIGS / 'expedit/results/swin-l_macs.json').read_text())['rows']


def gmacs(backbone):
    with torch.device('meta'):
        model = TokenSwin(**{key: value for key, value in backbone.items() if key not in ('type', 'init_cfg')})
    report = segmentor_macs(model.eval(), (1152, 1152))
    assert not report.missed
    return report.total / 1e9


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row['config'])
def test_macs_are_the_published_ones(row, monkeypatch):
    """Those of the file are counted again; they, or those with one block more clustered, are the authors' to 1 %."""
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))  # upstream reads its values
    (path,) = CONFIGS.glob(f'*/{row["config"]}.py')
    backbone = Config.fromfile(path).model.backbone
    ours = gmacs(backbone)
    assert ours == pytest.approx(row['macs'] / 1e9, rel=1e-9)
    assert row['mac_ratio'] == pytest.approx(row['macs'] / ROWS[0]['macs'])
    if 'one block earlier' in row:
        backbone.reducer.layer -= 1
        ours = gmacs(backbone)
        assert ours == pytest.approx(row['one block earlier'], rel=1e-9)
    assert ours == pytest.approx(row['printed'], rel=0.01)
