"""The hosts over timm, with nothing reduced, are timm's models: outputs, gradients, names, checkpoints, bad input."""

import sys
from pathlib import Path

import pytest
import torch

from mmtoken.registry import MODELS

timm = pytest.importorskip('timm')

DEPTH, PATCH, SQUARE, ODD = 3, 4, (24, 24), (22, 31)
SMALL = dict(img_size=24, patch_size=PATCH, embed_dim=32, depth=DEPTH, num_heads=4)
#: Host, model and options; each says what is special about it.
CASES = [
    ('TokenTimmViT', 'vit_small_patch14_dinov2', {}),  # LayerScale
    ('TokenTimmViT', 'vit_small_patch14_reg4_dinov2', {}),  # registers, positions for the patches alone
    ('TokenTimmViT', 'vit_base_patch16_224.mae', {}),
    ('TokenTimmViT', 'vit_base_patch16_224.mae', dict(class_token=False, img_size=(16, 28))),
    ('TokenTimmViT', 'vit_base_patch16_clip_224', {}),  # norm before the blocks
    ('TokenTimmViT', 'vit_base_patch16_siglip_224', {}),  # no class token
    ('TokenTimmViT', 'deit_small_distilled_patch16_224', {}),  # two of them
    ('TokenTimmViT', 'deit3_small_patch16_224', {}),
    ('TokenTimmViT', 'vit_base_patch16_224', dict(qk_norm=True, scale_attn_norm=True, scale_mlp_norm=True)),
    ('TokenTimmViT', 'vit_base_patch16_224', dict(pos_embed='none', attn_drop_rate=0.3)),
    ('TokenTimmEva', 'eva02_large_patch14_224', {}),  # SwiGLU, three projections
    ('TokenTimmEva', 'eva02_tiny_patch14_224', dict(class_token=False, img_size=(16, 28))),
    ('TokenTimmEva', 'eva_giant_patch14_224', {}),  # no rotation, q and v with a bias
    ('TokenTimmEva', 'eva02_base_patch16_clip_224', dict(ref_feat_shape=(7, 5))),  # norm of what attention gives
    ('TokenTimmEva', 'vit_small_patch16_dinov3', {}),
    ('TokenTimmEva', 'vit_small_plus_patch16_dinov3_qkvb', {}),
    ('TokenTimmEva', 'vit_pe_core_small_patch16_384', {}),  # x before y, from 1 on
    ('TokenTimmEva', 'vit_pe_spatial_small_patch16_512', {}),
    ('TokenTimmEva', 'vit_medium_patch16_rope_reg1_gap_256', {}),
    ('TokenTimmSAM', 'samvit_base_patch16', dict(window_size=4, global_blocks=[1])),  # 6 = 4 + 2: filled up
    ('TokenTimmSAM', 'samvit_base_patch16', dict(window_size=3, final_norm=True, use_abs_pos=False)),
    ('TokenTimmSAM', 'samvit_base_patch16', dict(window_size=0, img_size=(16, 28), qk_norm=True)),
    ('TokenTimmSAM', 'samvit_base_patch16', dict(window_size=5, use_rel_pos=False, init_values=0.1, pre_norm=True)),
    ('TokenTimmSAM', 'samvit_base_patch16_224', dict(window_size=2)),  # no table, another neck
]
cases = pytest.mark.parametrize(('host', 'model', 'options'), CASES)


def build(host, **options):
    return MODELS.build(dict(type=f'mmtoken.{host}', **options)).eval()


def small(host, model, **options):
    return build(host, model=model, **{**SMALL, **options})


@pytest.fixture
def twins(randomize):
    """Makes a host and its stock twin with the same weights, in test mode."""

    def make(host, model, options, dtype=torch.float32, **own):
        ours = small(host, model, **options, **own)
        renamed = dict(global_blocks='global_attn_indexes')
        options = {renamed.get(name, name): value for name, value in options.items() if name != 'final_norm'}
        extra = dict(global_pool='') if options.get('class_token') is False else {}
        if host != 'TokenTimmSAM':
            extra['use_fc_norm' if host == 'TokenTimmEva' else 'fc_norm'] = False
            extra['dynamic_img_size'] = 'distilled' not in model
        stock = timm.create_model(model, num_classes=0, **{**SMALL, **options, **extra}).eval()
        stock.patch_embed.dynamic_img_pad = True
        randomize(stock)
        ours.load_state_dict({name: value for name, value in stock.state_dict().items() if name in ours.state_dict()})
        return ours.to(dtype), stock.to(dtype)

    return make


def theirs(stock, x, norm=True):
    return stock.forward_intermediates(x, indices=[0, DEPTH - 1], norm=norm, intermediates_only=True)


@cases
@pytest.mark.parametrize('size', [SQUARE, ODD], ids=str)
def test_outputs_are_timms(host, model, options, size, twins, assert_same):
    if 'distilled' in model and size != SQUARE:
        pytest.skip('timm runs it at its own size only')
    ours, stock = twins(host, model, options, out_indices=[0, -1])
    if options.get('img_size') and size == SQUARE:
        size = options['img_size']
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        got, expected = ours(x), theirs(stock, x, ours.final_norm)
        assert_same(got, tuple(out.contiguous() for out in expected), 1e-5)
        if host != 'TokenTimmSAM':
            last = stock.forward_features(x)[:, stock.num_prefix_tokens :]
            assert_same(got[-1].flatten(2).mT.contiguous(), last, 1e-5)
        elif ours.final_norm:
            assert_same(got[-1], stock.forward_features(x), 1e-5)


@pytest.mark.parametrize(('host', 'model', 'options'), [CASES[0], CASES[5], CASES[10], CASES[15], CASES[19]])
def test_gradients_and_drops_are_timms(host, model, options, twins, assert_same, gradients):
    if host != 'TokenTimmSAM':  # timm draws a number for each window there, ViTDet and this host one for each image
        options = dict(options, drop_path_rate=0.5, proj_drop_rate=0.2)
    ours, stock = twins(host, model, options, torch.float64)
    ours.train(), stock.train()
    x, results = torch.randn(3, 3, *SQUARE, dtype=torch.float64), []
    for module, run in ((ours, ours), (stock, lambda x: [theirs(stock, x, ours.final_norm)[-1]])):
        torch.manual_seed(1)
        outputs = run(x)
        named = dict(zip([name for name, _ in module.named_parameters()], gradients(module, outputs)))
        results.append((list(outputs), named))
    exact = host != 'TokenTimmEva'  # angles of rotary positions are fp32 in both
    assert_same(*[outputs for outputs, _ in results], 1e-12 if exact else 1e-6)
    for name, value in results[0][1].items():
        tolerances = dict(rtol=1e-9, atol=1e-10) if exact else dict(rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(value, results[1][1][name], **tolerances)


@cases
def test_names_are_timms(host, model, options, twins):
    ours, stock = twins(host, model, options)
    left = [name for name in stock.state_dict() if name not in ours.state_dict()]
    assert list(ours.state_dict()) == [name for name in stock.state_dict() if name not in left]
    assert all(name.split('.')[0] in ('head', 'attn_pool', 'fc_norm', 'neck') for name in left)


def test_published_sizes():
    """Names alone give the published model; a tag gives its picture size."""
    with torch.device('meta'):
        dino = build('TokenTimmViT', model='vit_small_patch14_dinov2.lvd142m')
        clip = build('TokenTimmViT', model='vit_large_patch14_clip_336.openai', img_size=224)
    assert (dino.patch_size, dino.table_grid, dino.embed_dims, dino.num_heads) == (14, (37, 37), 384, 6)
    assert (clip.patch_size, clip.table_grid, clip.embed_dims, len(clip.blocks)) == (14, (16, 16), 1024, 24)


def test_switches(twins):
    model = 'vit_base_patch16_224.mae'
    ours, stock = twins('TokenTimmViT', model, {}, output_cls_token=True)
    x = torch.randn(2, 3, *ODD)
    with torch.no_grad():
        feature, cls = ours(x)[0]
        expected = stock.forward_features(x)
        torch.testing.assert_close(cls, expected[:, 0])
        plain, stock = twins('TokenTimmViT', model, {}, final_norm=False)
        torch.testing.assert_close(plain(x)[0], theirs(stock, x, norm=False)[-1])
    assert 'norm.weight' not in plain.state_dict() and feature.shape[1] == 32


def test_checkpoints_are_loaded_strictly(twins, tmp_path):
    model, path = 'vit_base_patch16_224', tmp_path / 'weights.pth'
    source, _ = twins('TokenTimmViT', model, {})
    state = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    torch.save(dict(state_dict={**state, 'backbone.head.weight': torch.zeros(3)}), path)
    init = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    for final_norm in (True, False):
        ours = small('TokenTimmViT', model, init_cfg=init, final_norm=final_norm)
        ours.init_weights()
        assert all(torch.equal(value, source.state_dict()[name]) for name, value in ours.state_dict().items())
    for options in (dict(img_size=32), dict(depth=2), dict(init_values=1.0)):
        with pytest.raises(ValueError, match=r'backbone.init_cfg.checkpoint=.*another architecture[^\n]*img_size'):
            small('TokenTimmViT', model, init_cfg=init, **options).init_weights()


def test_without_a_checkpoint_weights_are_timms():
    torch.manual_seed(0)
    ours = small('TokenTimmViT', 'vit_base_patch16_224')
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    assert before['blocks.0.attn.qkv.weight'].std() > 0.01


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(model='vit_small_patch14_dinov22'), 'no model of timm .*vit_small_patch14_dinov2'),
        (dict(model='resnet18'), "timm's ResNet.*plain ViT"),
        (dict(model='vit_tiny_patch16_224', pretrained=True), 'backbone.pretrained.*tools/model_converters/timm.py'),
        (dict(model='vit_tiny_patch16_224', imgsize=224), "'imgsize'"),
        (dict(model='vit_tiny_patch16_224', patch_drop_rate=0.5), 'patch_drop_rate.*reducer'),
        (dict(model='vit_base_patch16_xp_224'), 'ParallelScalingBlock'),
        (dict(model='vit_tiny_patch16_224', patch_size=(8, 16)), r'patch_size=\(8, 16\) must be square'),
        (dict(model='vit_base_patch16_siglip_224', output_cls_token=True), 'output_cls_token=True.*no class token'),
        (dict(model='vit_tiny_patch16_224', out_indices=12), 'backbone.out_indices=12 goes beyond the 2 blocks'),
        (dict(model='vit_tiny_patch16_224', init_cfg='a.pth'), 'backbone.init_cfg'),
    ],
    ids=str,
)
def test_bad_input(options, words):
    sizes = {} if options['model'] == 'resnet18' else dict(embed_dim=32, depth=2, num_heads=2)
    with pytest.raises(ValueError, match=rf'^[^\n]*{words}[^\n]*$'):
        build('TokenTimmViT', **{**sizes, **options})


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ValueError, match=r"mmtoken.TokenTimmViT[^\n]*pip install 'mmtoken\[timm\]'"):
        small('TokenTimmViT', 'vit_tiny_patch16_224')


def test_no_file_of_the_hosts_imports_timm_first():
    files = list(Path(sys.modules['mmtoken.hosts'].__file__).parent.glob('timm*.py'))
    assert len(files) == 5
    for file in files:
        assert not any(line.startswith(('import timm', 'from timm')) for line in file.read_text().splitlines())


# ------------------------------------------------------------------------------------------------------------- windows
def eva02_detector(stock, x, window, everywhere):
    """EVA-02's detection backbone in loops over timm's blocks: windows filled up with zeros, a rotation inside them."""
    from timm.layers import RotaryEmbeddingCat
    from timm.models.vision_transformer_sam import window_partition, window_unpartition

    x, whole = stock._pos_embed(stock.patch_embed(x))
    grid = [-(-side // PATCH) for side in ODD]
    inside = RotaryEmbeddingCat(8, in_pixels=False, feat_shape=(window, window), ref_feat_shape=(16, 16)).get_embed()
    for i, block in enumerate(stock.blocks):
        y = block.norm1(x)
        if i in everywhere:
            y = block.attn(y, rope=whole)
        else:
            y, padded = window_partition(y.unflatten(1, grid), window)
            y = block.attn(y.flatten(1, 2), rope=inside).unflatten(1, (window, window))
            y = window_unpartition(y, window, grid, padded).flatten(1, 2)
        x = x + y
        x = x + block.mlp(block.norm2(x))
    return x.mT.unflatten(2, grid)


@pytest.mark.parametrize('window', [2, 4, 5])
def test_windowed_eva02_is_its_detectors(window, twins, assert_same):
    windows = dict(window_size=window, global_blocks=[1], final_norm=False)
    ours, stock = twins('TokenTimmEva', 'eva02_large_patch14_224', dict(class_token=False), **windows)
    x = torch.randn(2, 3, *ODD)
    with torch.no_grad():
        assert_same(ours(x)[0], eva02_detector(stock, x, window, [1]), 1e-5)
    assert ours.info().stages[0].windows == (window, None, window)


REDUCED = [
    dict(type='mmtoken.ToMe', r=5),
    dict(type='mmtoken.Expedit', layer=1, grid=0.5, proportional=True),
    dict(type='mmtoken.MixedScale', fine=0.4),
]
BACKBONES = [
    ('TokenTimmViT', 'vit_base_patch16_224', dict(class_token=False)),
    ('TokenTimmEva', 'eva02_large_patch14_224', dict(class_token=False)),
    ('TokenTimmSAM', 'samvit_base_patch16', dict(use_abs_pos=False)),
]


@pytest.mark.parametrize('reducer', REDUCED, ids=lambda reducer: reducer['type'])
@pytest.mark.parametrize(('host', 'model', 'options'), BACKBONES)
def test_one_window_is_the_whole_grid(host, model, options, reducer, randomize):
    """Reduced tokens in one window give what they give without windows; in small ones they give something else."""
    results, x = [], torch.randn(2, 3, *SQUARE)
    for window in (0 if host == 'TokenTimmSAM' else None, 6, 2):
        windows = dict(window_size=window, global_blocks=[]) if window else dict(window_size=window)
        made = small(host, model, **options, reducer=reducer, **windows)
        randomize(made)
        with torch.no_grad():
            results.append(made(x)[0])
        assert min(made.token_counts(x)) < 36
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    assert (results[0] - results[2]).abs().max() > 1e-2


@pytest.mark.parametrize('reducer', REDUCED, ids=lambda reducer: reducer['type'])
@pytest.mark.parametrize(('host', 'model', 'options'), BACKBONES[:2])
def test_windows_batch_exactly(host, model, options, reducer, randomize):
    made, x = (
        small(host, model, **options, reducer=reducer, window_size=4, global_blocks=[1]),
        torch.randn(3, 3, *ODD),
    )
    randomize(made)
    with torch.no_grad():
        torch.testing.assert_close(made(x)[0], torch.cat([made(one)[0] for one in x.split(1)]), rtol=1e-4, atol=1e-4)


INSIDE = [*REDUCED[:2], dict(type='mmtoken.AvgPool', layer=1, grid=0.5)]
WITHOUT_POSITIONS = [dict(pos_embed='none'), dict(use_abs_pos_emb=False), {}]


@pytest.mark.parametrize('reducer', INSIDE, ids=lambda reducer: reducer['type'])
@pytest.mark.parametrize(
    ('host', 'model', 'options'),
    [(host, model, {**options, **more}) for (host, model, options), more in zip(BACKBONES, WITHOUT_POSITIONS)],
)
def test_windows_that_are_reduced_by_themselves_are_pictures(host, model, options, reducer, randomize):
    """Where no block looks beyond its window, the windows, cut out of the picture, give the same on their own."""
    windows = dict(window_size=4, global_blocks=[], reduce_within='window')
    made = small(host, model, **options, reducer=reducer, **windows, img_size=16)
    alone = small(host, model, **options, reducer=reducer, img_size=16, window_size=0 if 'SAM' in host else None)
    randomize(made)
    alone.load_state_dict(made.state_dict())
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        cut = torch.cat([alone(part)[0] for line in x.split(16, 2) for part in line.split(16, 3)])
        out = torch.cat([part for line in made(x)[0].split(4, 2) for part in line.split(4, 3)])
    torch.testing.assert_close(out, cut, rtol=1e-4, atol=1e-4)
    assert made.token_counts(x) == [6 * count for count in alone.token_counts(x[..., :16, :16])]


def test_packed_pictures_have_their_own_bias(newcomers, randomize):
    """Without windows SAM runs methods that leave unequal numbers of tokens; with them it refuses."""
    reducer = dict(type=newcomers.Loud, part=1.0)
    made, x = small('TokenTimmSAM', 'samvit_base_patch16', window_size=0, reducer=reducer), torch.randn(3, 3, *ODD)
    randomize(made)
    with torch.no_grad():
        outs, state = made.forward_tokens(x)
        torch.testing.assert_close(outs[0], torch.cat([made(one)[0] for one in x.split(1)]), rtol=1e-4, atol=1e-4)
    assert state.packing is not None
    with pytest.raises(ValueError, match='packs images[^\n]* the windows of this backbone cannot follow'):
        small('TokenTimmSAM', 'samvit_base_patch16', window_size=4, reducer=reducer)


@pytest.mark.parametrize(
    ('windows', 'words'),
    [
        (dict(window_size=-1), 'backbone.window_size=-1'),
        (dict(window_size=2, global_blocks=[5]), 'backbone.global_blocks=.* beyond the blocks 0 to 2'),
    ],
    ids=str,
)
@pytest.mark.parametrize(('host', 'model', 'options'), BACKBONES)
def test_bad_windows(host, model, options, windows, words):
    with pytest.raises(ValueError, match=rf'^[^\n]*{words}[^\n]*$'):
        small(host, model, **options, **windows)
