"""Plain backbones, some of whose blocks attend in windows: against loops over tokens, with each kind of method."""

import math

import pytest
import torch

from mmtoken.analysis import segmentor_macs
from mmtoken.core import Reducer
from mmtoken.hosts import dinov2, timm_base, vit
from mmtoken.registry import REDUCERS
from mmtoken.testing import toy_hosts

HOSTS = toy_hosts()
MODULES = dict(TokenDINOv2=dinov2, TokenVisionTransformer=vit, TokenTimmViT=timm_base)
MODULES = {name: module for name, module in MODULES.items() if name in HOSTS}  # where timm is installed
hosts = pytest.mark.parametrize('host', MODULES)
WINDOWS = dict(window_size=4, global_blocks=(1,))


class Drop(Reducer):
    """Drops the patches of a high norm: another number in each image."""

    dynamic = True

    def before(self, state, i):
        if i == 2:
            norm = state.patches.norm(dim=-1)
            state.select(norm < norm.median(1, keepdim=True).values * torch.tensor([[1.0], [1.1]])[: len(norm)], self)


KINDS = dict(
    full=None,
    merged=dict(type='mmtoken.ToMe', r=6),
    clustered=dict(type='mmtoken.Expedit', layer=1, grid=0.5, proportional=True),
    mixed=dict(type='mmtoken.MixedScale', fine=0.4),
    packed=Drop,
)
kinds = pytest.mark.parametrize('kind', KINDS)


def build(host, kind, **kwargs):
    torch.manual_seed(0)
    reducer = KINDS[kind]
    made = HOSTS[host](size=(28, 36), reducer=reducer() if isinstance(reducer, type) else reducer, **kwargs)
    made.served = True
    return made


def loops(qkv, num_heads, layout, *, rotate=None, dropout_p=0.0):
    """Stands in for ``token_attention``: each token on its own, with the keys that it may look at."""
    prefix, window = layout.num_prefix, layout.window
    sizes = [qkv.shape[1]] * len(qkv) if layout.packing is None else layout.packing.sizes
    coords = layout.coords.expand(len(qkv), -1, 2).flatten(0, 1) if layout.packing is None else layout.coords
    bias = torch.zeros(qkv.shape[:-1]) if layout.key_bias is None else layout.key_bias.expand(qkv.shape[:-1])
    rows, biases = qkv.reshape(-1, qkv.shape[-1]).split(sizes), bias.reshape(-1).split(sizes)
    outs = []
    for image, centres, weight in zip(rows, coords.split([size - prefix for size in sizes]), biases):
        q, k, v = image.unflatten(-1, (3, num_heads, -1)).unbind(1)
        home = [tuple(math.floor(round((c + 0.5) / (window or 999), 3)) for c in centre) for centre in centres.tolist()]
        home = [None] * prefix + home
        for i, own in enumerate(home):
            seen = [j for j, other in enumerate(home) if own is None or other in (None, own)]
            scores = torch.einsum('hd,nhd->hn', q[i], k[seen]) * q.shape[-1] ** -0.5 + weight[seen]
            outs.append(torch.einsum('hn,nhd->hd', scores.softmax(-1), v[seen]).flatten())
    return torch.stack(outs).view(*qkv.shape[:-1], -1), qkv.unflatten(-1, (3, num_heads, -1)).select(-3, 1)


def close(one, other):
    return all((a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1) for a, b in zip(one, other, strict=True))


@hosts
@pytest.mark.parametrize(
    ('kind', 'within'), [*((kind, 'grid') for kind in KINDS), ('merged', 'window'), ('clustered', 'window')]
)
@torch.no_grad()
def test_equals_loops(host, kind, within, monkeypatch):
    made = build(host, kind, **WINDOWS, reduce_within=within)
    images = torch.randn(2, 3, 28, 36)  # 7×9 patches: windows are cut off
    outs, state = made.forward_tokens(images)
    monkeypatch.setattr(MODULES[host], 'token_attention', loops)
    slow, again = made.forward_tokens(images)
    assert close(outs, slow) and state.counts == again.counts
    full = 2 * (63 + made.num_prefix)
    assert (state.counts == [full] * 4) == (kind == 'full')
    everywhere = build(host, kind)
    everywhere.load_state_dict(made.state_dict())
    assert not close(outs, everywhere(images))


@hosts
@kinds
@torch.no_grad()
def test_a_batch_is_its_images(host, kind):
    made, images = build(host, kind, **WINDOWS), torch.randn(2, 3, 28, 36)
    if kind == 'packed':
        made.reducer.before = lambda state, i: i == 2 and state.select(state.patches[..., 0] > 0, made.reducer)
    (together,) = made(images)
    for image, out in zip(images, together):
        assert close(made(image[None]), [out[None]])


@hosts
@torch.no_grad()
def test_windows_that_matter_to_no_one(host):
    images, plain = torch.randn(2, 3, 28, 36), build(host, 'full')
    for same in (dict(window_size=9, global_blocks=[]), dict(window_size=2, global_blocks=[0, 1, 2, 3])):
        made = build(host, 'full', **same)
        made.load_state_dict(plain.state_dict())
        assert close(made(images), plain(images))


@hosts
def test_what_padding_of_a_window_holds_gets_no_gradient_and_all_else_does(host):
    made = build(host, 'full', **WINDOWS).train()
    images = torch.randn(2, 3, 28, 36, requires_grad=True)
    made(images)[0].square().sum().backward()
    assert images.grad.isfinite().all() and (images.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize('kind', ['merged', 'clustered'])
def test_one_graph(kind):
    torch.compiler.reset()
    made, images = build('TokenDINOv2', kind, **WINDOWS), torch.randn(1, 3, 28, 36)
    with torch.no_grad():
        assert close(torch.compile(made, fullgraph=True, backend='eager')(images), made(images))


@hosts
def test_macs(host):
    made, size = build(host, 'full', window_size=4, global_blocks=(1, 3)), (28, 36)  # 7×9 patches in 2×3 windows of 16
    everywhere = build(host, 'full')
    saved = segmentor_macs(everywhere, size).total - segmentor_macs(made, size).total
    n, p, dims = 63, made.num_prefix, 32
    inside = 6 * 16 * (16 + p) + p * (n + p)
    assert saved == 2 * 2 * dims * ((n + p) ** 2 - inside)


def test_what_a_method_is_told():
    info = build('TokenDINOv2', 'full', **WINDOWS).info()
    assert info.stages[0].windows == (4, None, 4, 4) and not info.is_plain
    assert build('TokenDINOv2', 'full').info().is_plain
    deep = HOSTS['TokenDINOv2'](arch=dict(embed_dims=8, num_layers=12, num_heads=1), window_size=14)
    assert [i for i, window in enumerate(deep.info().stages[0].windows) if window is None] == [2, 5, 8, 11]


@hosts
@pytest.mark.parametrize('wrong, words', [
    (dict(window_size=0), 'backbone.window_size=0 must be an integer'),
    (dict(window_size=2.0), 'backbone.window_size=2.0 must be an integer'),
    (dict(window_size=2, global_blocks=[4]), r'backbone.global_blocks=\[4\] goes beyond the blocks 0 to 3'),
    (dict(window_size=2, global_blocks=1), 'backbone.global_blocks=1 must be a list'),
    (dict(global_blocks=[1]), r'backbone.global_blocks=\[1\] needs backbone.window_size'),
])  # fmt: skip
def test_wrong_arguments(host, wrong, words):
    REDUCERS.import_from_location()
    with pytest.raises(ValueError, match=words) as error:
        build(host, 'full', **wrong)
    assert '\n' not in str(error.value)
