"""TokenDINOv2: the official checkpoints' names, and the maths against a slow and obvious reference."""

import math

import pytest
import torch
from mmseg.registry import MODELS

from mmtoken.core import Reducer

DIMS, DEPTH, HEADS, PATCH, SIDE = 16, 3, 2, 4, 5
TINY = dict(arch=dict(embed_dims=DIMS, num_layers=DEPTH, num_heads=HEADS), img_size=PATCH * SIDE, patch_size=PATCH)
#: Positions scaled to the exact grid, pictures padded: what the slow reference does.
EXACT = dict(interpolate_offset=0.0, interpolate_antialias=False, fit='pad')
SWIGLU = dict(TINY, arch=dict(TINY['arch'], ffn='swiglu'))


def build(**kwargs):
    return MODELS.build(dict(type='mmtoken.TokenDINOv2', **kwargs))


def on_meta(**kwargs):
    with torch.device('meta'):
        return build(**kwargs)


def count(module):
    return sum(p.numel() for p in module.parameters())


# --------------------------------------------------------------------------------------------------------------- names
def official_shapes(dims, depth, ffn='mlp', registers=0, patch=14, side=37):
    """Names and shapes of the official checkpoints, less ``mask_token``, which only pre-training reads."""
    shapes = {'cls_token': (1, 1, dims), 'pos_embed': (1, 1 + side * side, dims)}
    if registers:
        shapes['register_tokens'] = (1, registers, dims)
    shapes.update({'patch_embed.proj.weight': (dims, 3, patch, patch), 'patch_embed.proj.bias': (dims,)})

    def linear(name, wide, narrow):
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (wide, narrow), (wide,)

    def norm(name):
        shapes[f'{name}.weight'] = shapes[f'{name}.bias'] = (dims,)

    for i in range(depth):
        norm(f'blocks.{i}.norm1')
        linear(f'blocks.{i}.attn.qkv', 3 * dims, dims)
        linear(f'blocks.{i}.attn.proj', dims, dims)
        shapes[f'blocks.{i}.ls1.gamma'] = shapes[f'blocks.{i}.ls2.gamma'] = (dims,)
        norm(f'blocks.{i}.norm2')
        if ffn == 'mlp':
            linear(f'blocks.{i}.mlp.fc1', 4 * dims, dims)
            linear(f'blocks.{i}.mlp.fc2', dims, 4 * dims)
        else:  # two thirds of 4 x dims, rounded up to a multiple of 8
            hidden = math.ceil(int(4 * dims * 2 / 3) / 8) * 8
            linear(f'blocks.{i}.mlp.w12', 2 * hidden, dims)
            linear(f'blocks.{i}.mlp.w3', dims, hidden)
    norm('norm')
    return shapes


@pytest.mark.parametrize(
    'arch, dims, depth, ffn, tensors, parameters',
    [
        ('small', 384, 12, 'mlp', 174, 22_056_192),
        ('base', 768, 12, 'mlp', 174, 86_579_712),
        ('large', 1024, 24, 'mlp', 342, 304_367_616),
        ('giant', 1536, 40, 'swiglu', 566, 1_136_479_232),
    ],
)
@pytest.mark.parametrize('registers', [0, 4])
def test_names_and_shapes_of_the_official_checkpoints(arch, dims, depth, ffn, tensors, parameters, registers):
    model = on_meta(arch=arch, num_registers=registers)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == official_shapes(dims, depth, ffn, registers)
    assert len(shapes) == tensors + bool(registers)
    assert count(model) == parameters + registers * dims
    assert set(shapes) == {name for name, _ in model.named_parameters()}


def test_giant_hidden_width():
    assert on_meta(arch='giant').blocks[0].mlp.w3.in_features == 4096


def test_a_reducer_adds_no_other_names():
    plain, reduced = build(**TINY), build(**TINY, reducer=dict(type='mmtoken.Expedit', layer=1, grid=0.5))
    assert list(plain.state_dict()) == list(reduced.state_dict())
    reduced.load_state_dict(plain.state_dict())


# ----------------------------------------------------------------------------------------------------------- reference
def cubic(t, a):
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0


def cubic_weights(source, target, offset=0.0, antialias=False):
    """``(target, source)`` matrix of bicubic interpolation along one side; the scale is that of ``target + offset``.

    Plain: a = -0.75, borders repeated. Antialiased: a = -0.5, as wide as the scale, cut at the borders, rows sum to 1.
    """
    weights, scale = torch.zeros(target, source, dtype=torch.float64), source / (target + offset)
    for i in range(target):
        centre = (i + 0.5) * scale - 0.5
        if antialias:
            wide = max(scale, 1)
            row = torch.tensor([cubic((j - centre) / wide, -0.5) for j in range(source)], dtype=torch.float64)
            weights[i] = row / row.sum()
            continue
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            weights[i, min(max(j, 0), source - 1)] += cubic(centre - j, -0.75)
    return weights


def layer_norm(x, w, name):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f'{name}.weight'] + w[f'{name}.bias']


def reference(w, image, num_registers=0):
    """Tokens after each block ``(1+R+H·W, C)`` and ``(H, W)``, for one image, patch by patch and head by head."""

    def linear(x, name):
        return x @ w[f'{name}.weight'].T + w[f'{name}.bias']

    h, w_ = (math.ceil(s / PATCH) for s in image.shape[1:])
    padded = torch.zeros(3, h * PATCH, w_ * PATCH, dtype=image.dtype)
    padded[:, : image.shape[1], : image.shape[2]] = image
    kernel = w['patch_embed.proj.weight']
    patches = [
        (kernel * padded[:, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]).sum((1, 2, 3))
        + w['patch_embed.proj.bias']
        for y in range(h)
        for x in range(w_)
    ]
    table = w['pos_embed'][0, 1:].view(SIDE, SIDE, DIMS)
    table = torch.einsum('yi,xj,ijc->yxc', cubic_weights(SIDE, h), cubic_weights(SIDE, w_), table).reshape(h * w_, DIMS)
    prefix = [w['cls_token'][0] + w['pos_embed'][0, :1]]
    if num_registers:
        prefix.append(w['register_tokens'][0])  # registers have no position
    x = torch.cat([*prefix, torch.stack(patches) + table])
    outputs = []
    for i in range(DEPTH):
        q, k, v = linear(layer_norm(x, w, f'blocks.{i}.norm1'), f'blocks.{i}.attn.qkv').split(DIMS, -1)
        heads = []
        for one in torch.arange(DIMS).split(DIMS // HEADS):
            scores = q[:, one] @ k[:, one].T / math.sqrt(DIMS // HEADS)
            scores = scores.exp() / scores.exp().sum(-1, keepdim=True)
            heads.append(scores @ v[:, one])
        x = x + w[f'blocks.{i}.ls1.gamma'] * linear(torch.cat(heads, -1), f'blocks.{i}.attn.proj')
        y = layer_norm(x, w, f'blocks.{i}.norm2')
        if f'blocks.{i}.mlp.fc1.weight' in w:
            y = linear(y, f'blocks.{i}.mlp.fc1')
            y = linear(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), f'blocks.{i}.mlp.fc2')
        else:
            gate, up = linear(y, f'blocks.{i}.mlp.w12').chunk(2, -1)
            y = linear(gate / (1 + (-gate).exp()) * up, f'blocks.{i}.mlp.w3')
        x = x + w[f'blocks.{i}.ls2.gamma'] * y
        outputs.append(layer_norm(x, w, 'norm'))
    return outputs, (h, w_)


@pytest.mark.parametrize('size', [(20, 20), (24, 12), (18, 29)], ids=str)
@pytest.mark.parametrize('args', [TINY, dict(TINY, num_registers=3), SWIGLU], ids=['plain', 'registers', 'swiglu'])
def test_against_a_slow_reference(size, args, randomize, assert_same):
    model = build(**args, **EXACT, out_indices=(0, DEPTH - 1), output_cls_token=True).eval()
    randomize(model)
    images = torch.randn(2, 3, *size)
    single = model(images)
    double = model.double()(images.double())
    weights, registers = model.state_dict(), args.get('num_registers', 0)
    for n, image in enumerate(images.double()):
        outputs, (h, w) = reference(weights, image, registers)
        for level, i in enumerate((0, DEPTH - 1)):
            prefix, patches = outputs[i][: 1 + registers], outputs[i][1 + registers :]
            expected = [patches.T.reshape(DIMS, h, w), prefix[0]]
            # A table that must be resized is resized in fp32, whatever the model runs in.
            assert_same([t[n] for t in double[level]], expected, 1e-12 if (h, w) == (SIDE, SIDE) else 1e-6)
            assert_same([t[n].double() for t in single[level]], expected, 1e-5)


def test_prefix_tokens_stand_in_order(randomize):
    model = build(**TINY, num_registers=3)
    randomize(model)
    state = model.stem(torch.randn(2, 3, 20, 20))
    assert state.num_prefix == 4
    assert state.x.shape == (2, 4 + 25, DIMS)
    for image in state.x:
        assert torch.equal(image[0], (model.cls_token + model.pos_embed[:, :1])[0, 0])
        assert torch.equal(image[1:4], model.register_tokens[0])


def test_position_table_is_untouched_at_its_own_size(randomize):
    model = build(**TINY)
    randomize(model)
    cls, patches = model.positions((SIDE, SIDE))
    assert torch.equal(torch.cat([cls, patches], 1), model.pos_embed)
    assert model.positions((3, 8))[1].shape == (1, 24, DIMS)


@pytest.mark.parametrize('size', [224, 336, 518, (224, 518), (700, 336)], ids=str)
@pytest.mark.parametrize(
    ('options', 'offset', 'antialias'),
    [
        (dict(), 0.1, False),
        (dict(num_registers=4), 0.0, True),
        (dict(interpolate_offset=0.0), 0.0, False),
        (dict(num_registers=4, interpolate_antialias=False), 0.0, False),
    ],
    ids=str,
)
def test_positions_are_resized_as_the_official_models_do(size, options, offset, antialias):
    """Official checkpoints hold 37x37 positions; with registers antialiased, without by a scale 0.1 patch too large."""
    model = build(arch=dict(embed_dims=8, num_layers=1, num_heads=1), **options)
    table = torch.randn(37 * 37, 8)
    model.pos_embed.data[0, 1:] = table
    grid = tuple(side // 14 for side in ((size, size) if isinstance(size, int) else size))
    expected = table.double().view(37, 37, 8)
    if grid != (37, 37):
        down, across = (cubic_weights(37, n, offset, antialias) for n in grid)
        expected = torch.einsum('yi,xj,ijc->yxc', down, across, expected)
    got = model.positions(grid)[1].view(*grid, 8).double()
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()


def test_tables_that_are_not_square(randomize):
    model = build(**dict(TINY, img_size=(8, 20)))
    assert model.pos_embed.shape == (1, 1 + 2 * 5, DIMS)
    randomize(model)
    assert torch.equal(model.positions((2, 5))[1], model.pos_embed[:, 1:])
    assert model.positions((5, 2))[1].shape == (1, 10, DIMS)
    for size in (20, (20,), (20, 20), [20, 20]):
        assert build(**dict(TINY, img_size=size)).table_grid == (SIDE, SIDE)


# ------------------------------------------------------------------------------------------------------------- options
def test_odd_sizes_are_padded_at_the_bottom_and_right(randomize):
    model = build(**TINY, fit='pad').eval()
    randomize(model)
    image = torch.randn(1, 3, 17, 22)
    padded = torch.zeros(1, 3, 20, 24)
    padded[..., :17, :22] = image
    assert torch.equal(model(image)[0], model(padded)[0])
    assert model(image)[0].shape == (1, DIMS, 5, 6)


def test_outputs_of_several_blocks(randomize):
    model = build(**TINY, out_indices=(0, -2, -1)).eval()
    randomize(model)
    x = torch.randn(2, 3, 20, 20)
    outs = model(x)
    assert [tuple(o.shape) for o in outs] == [(2, DIMS, SIDE, SIDE)] * 3
    for index, out in enumerate(outs):
        alone = build(**TINY, out_indices=index).eval()
        alone.load_state_dict(model.state_dict())
        assert torch.equal(alone(x)[0], out)
    raw = build(**TINY, out_indices=(0, -2, -1), final_norm=False).eval()
    raw.load_state_dict(model.state_dict())
    for one, normed in zip(raw(x), outs):
        torch.testing.assert_close(model.norm(one.flatten(2).mT).mT.view_as(one), normed)
        assert not torch.allclose(one, normed, atol=0.1)


@pytest.mark.parametrize('indices', [DEPTH, -DEPTH - 1, (0, DEPTH)], ids=str)
def test_out_indices_beyond_the_depth(indices):
    with pytest.raises(ValueError, match=rf'backbone.out_indices=.*{DEPTH} blocks') as error:
        build(**TINY, out_indices=indices)
    assert '\n' not in str(error.value)


def test_unknown_arch_and_an_image_smaller_than_a_patch():
    with pytest.raises(ValueError, match="backbone.arch='tiny'.*'small', 'base', 'large', 'giant'"):
        build(arch='tiny')
    for size in ((0, 20), (20, 0)):
        with pytest.raises(ValueError, match=rf'{size[0]}x{size[1]} pixels.*patch_size=4'):
            build(**TINY)(torch.randn(1, 3, *size))


class Gate(Reducer):
    trainable = True

    def __init__(self):
        super().__init__()
        self.score = torch.nn.Linear(DIMS, 1)


def test_frozen_stays_in_eval_mode_and_trains_nothing_but_the_reducer():
    model = build(**TINY, frozen=True, drop_path_rate=0.5, reducer=Gate())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {'reducer.score.weight', 'reducer.score.bias'}
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert model.training is mode
        for name, module in model.named_modules():
            if name:
                assert module.training is (mode and name.startswith('reducer'))
    assert model.eval() is model
    free = build(**TINY, drop_path_rate=0.5)
    assert free.train() is free
    assert all(m.training for m in free.modules())
    assert all(p.requires_grad for p in free.parameters())


def test_drop_path_grows_to_its_rate_and_drops_whole_images(randomize):
    model = build(**TINY, drop_path_rate=0.6)
    randomize(model)
    assert [getattr(block.drop_path, 'drop_prob', 0) for block in model.blocks] == pytest.approx([0, 0.3, 0.6])
    block, x = model.blocks[2].train(), torch.randn(64, 5, DIMS)
    dropped = (model.mlp(block, x) == x).flatten(1)
    assert torch.equal(dropped.all(1), dropped.any(1))
    assert 0 < dropped.all(1).sum() < 64


def test_gradient_checkpointing_changes_no_gradient(randomize, gradients, monkeypatch):
    calls, checkpoint = [], torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', lambda *a, **k: (calls.append(a), checkpoint(*a, **k))[1])
    x, results = torch.randn(3, 3, 20, 20), []
    for with_cp in (False, True):
        model = build(**TINY, with_cp=with_cp, drop_path_rate=0.5).train()
        randomize(model)
        torch.manual_seed(0)
        results.append(gradients(model, model(x)))
        assert len(calls) == (2 * DEPTH if with_cp else 0)
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_init_weights(tmp_path):
    model = build(**TINY, num_registers=2, layer_scale=1e-5)
    model.init_weights()
    for name in ('cls_token', 'pos_embed', 'register_tokens'):
        assert 0 < getattr(model, name).std() < 0.04
    assert torch.equal(model.blocks[0].ls1.gamma, torch.full((DIMS,), 1e-5))
    # Official files hold the mask token of the pre-training as well.
    torch.save(dict(model.state_dict(), mask_token=torch.zeros(1, DIMS)), tmp_path / 'official.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'official.pth'))
    loaded = build(**TINY, num_registers=2, init_cfg=init)
    loaded.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_autocast(randomize):
    model = build(**TINY).eval()
    randomize(model)
    x = torch.randn(2, 3, 20, 20)
    exact = model(x)[0]
    with torch.autocast('cpu', torch.bfloat16):
        out = model(x)[0]
    assert (out - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize('other', [dict(num_registers=4), dict(img_size=64), dict(patch_size=8)], ids=str)
def test_pretrained_checkpoint_of_another_architecture(tmp_path, other):
    """A frozen backbone that is half random would train a head without a word."""
    arch = dict(embed_dims=32, num_layers=2, num_heads=2)
    args = dict(type='mmtoken.TokenDINOv2', arch=arch, img_size=32, patch_size=4)
    made = MODELS.build(args)
    torch.save(dict(state_dict={**made.state_dict(), 'mask_token': torch.zeros(1, 32)}), tmp_path / 'made.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'made.pth'))
    same = MODELS.build(dict(args, init_cfg=init_cfg, reducer=dict(type='mmtoken.ToMe', r=2)))
    same.init_weights()
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in made.state_dict().items())
    with pytest.raises(ValueError, match='was made for another architecture .*; set backbone.arch, num_registers'):
        MODELS.build(dict(args, init_cfg=init_cfg, **other)).init_weights()


def test_a_cropped_table_is_enlarged_to_the_longest_side_when_it_is_loaded(tmp_path):
    arch = dict(embed_dims=16, num_layers=1, num_heads=2)
    small = MODELS.build(dict(type='mmtoken.TokenDINOv2', arch=arch, img_size=28, patch_size=4))
    torch.nn.init.normal_(small.pos_embed)
    torch.save(small.state_dict(), tmp_path / 'small.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'small.pth'))
    large = dict(type='mmtoken.TokenDINOv2', arch=arch, img_size=64, patch_size=4, init_cfg=init)
    model = MODELS.build(dict(large, table='crop'))
    model.init_weights()
    table = small.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (7, 7))
    grown = torch.nn.functional.interpolate(table, scale_factor=(16.1 / 7, 16.1 / 7), mode='bicubic')
    torch.testing.assert_close(model.pos_embed[:, 1:], grown.flatten(2).transpose(1, 2))
    torch.testing.assert_close(model.pos_embed[:, :1], small.pos_embed[:, :1])
    with pytest.raises(ValueError, match='made for another architecture'):
        MODELS.build(large).init_weights()
