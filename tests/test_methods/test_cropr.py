"""Cropr: the paper's counts and costs, what learns from what, schedules, targets, selectors, what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmtoken.core import HostInfo, TokenState, build_reducer
from mmtoken.methods.cropr import CroprModule
from mmtoken.registry import MODELS
from mmtoken.testing import PATCH, SIDE, toy_hosts

HOST = toy_hosts()['TokenDINOv2']  # four blocks, a class token and two registers
N = SIDE * SIDE


def build(**args):
    torch.manual_seed(0)
    host = HOST(reducer=dict(type='mmtoken.Cropr', **({'num_classes': 3, 'queries': 2} | args)))
    host.served = True
    return host


def images(batch=2, seed=1):
    return torch.randn(batch, 3, PATCH * SIDE, PATCH * SIDE, generator=torch.Generator().manual_seed(seed))


def maps(batch=2, classes=3):
    labels = torch.randint(classes, (batch, 1, PATCH * SIDE, PATCH * SIDE), generator=torch.Generator().manual_seed(2))
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def on_paper(depth, dims, prefix, grid, **args):
    """Tokens of each block, prefix included, and the method's own cost."""
    info = HostInfo(depth, dims, dims // 64, (depth - 1,), prefix)
    reducer = build_reducer(dict(type='mmtoken.Cropr', selector='random', **args))
    reducer.bind(info)
    cost = reducer.closed_form(info, grid)
    assert cost.attention == cost.mlp
    return [n + prefix for n in cost.mlp]


def macs(tokens, dims, per_token):
    return sum(n * per_token + 2 * n * n * dims for n in tokens) / 1e9


# ---------------------------------------------------------------------- the paper's figures
EVA = 4 * 1024**2 + 3 * 1024 * 2730  # a token of EVA-02-L in the linear maps of a block
MAE = 12 * 1024**2


def test_counts_and_costs_on_ade20k():
    tokens = on_paper(24, 1024, 1, (32, 32), r=40, multiple=8)
    assert tokens == [1025, *range(984, 143, -40), 1025]
    assert tokens == on_paper(24, 1024, 1, (32, 32), keep=143 / 1024, multiple=8)
    assert macs([1025] * 24, 1024, EVA) == pytest.approx(361.1, abs=0.05)
    assert macs(tokens, 1024, EVA) == pytest.approx(203.4, abs=0.05)
    assert sum(tokens) / 24 == pytest.approx(602.4, abs=0.05)
    scattered = on_paper(24, 1024, 1, (32, 32), r=40, multiple=8, restore='scatter')
    assert scattered[:-1] == tokens[:-1] and scattered[-1] == 104
    assert macs(scattered, 1024, EVA) == pytest.approx(189.7, abs=0.05)


def test_counts_and_costs_on_imagenet():
    tokens = on_paper(24, 1024, 1, (14, 14), r=8, multiple=4)
    assert tokens == [197, *range(188, 19, -8), 197]
    assert macs([197] * 24, 1024, MAE) == pytest.approx(61.4, abs=0.05)
    assert macs(tokens, 1024, MAE) == pytest.approx(34.5, abs=0.05)


def test_costs_on_coco():
    """Published are linear maps and patches alone: 2790 → 1273 G, 97 % dropped; not the parts left at each block."""

    def linear(tokens):
        return (sum(tokens) * EVA + 9216 * 3 * 16**2 * 1024) / 1e9

    parts = [windows / 36 for windows in (24, 12, 6, 2, 1)]
    tokens = on_paper(24, 1024, 0, (96, 96), keep=parts, layers=[5, 8, 11, 14, 20])
    assert tokens == [9216] * 6 + [6144] * 3 + [3072] * 3 + [1536] * 3 + [512] * 6 + [256] * 2 + [9216]
    assert linear([9216] * 24) == pytest.approx(2789.9, abs=0.05)
    assert linear(tokens) == pytest.approx(1273, rel=0.005)


def test_costs_of_eva02_as_counted():
    """The same figures from the backbone itself, with what scoring costs: n·C for each module."""
    pytest.importorskip('timm')
    from mmtoken.analysis.flops import count_macs

    def count(size, reducer=None, **args):
        with torch.device('meta'):
            host = MODELS.get('TokenTimmEva')(
                'eva02_large_patch14_224', img_size=size, patch_size=16, reducer=reducer, **args
            )
            return count_macs(host.eval(), torch.zeros(1, 3, size, size))

    cropr = dict(type='mmtoken.Cropr', r=40, multiple=8, num_classes=150, queries=1)
    dense, reduced = count(512), count(512, cropr)
    stem, scoring = 1024 * 3 * 16**2 * 1024, sum(range(144 + 39, 1025, 40)) * 1024
    assert (dense.total - stem) / 1e9 == pytest.approx(361.1, abs=0.05)
    assert (reduced.total - stem - scoring) / 1e9 == pytest.approx(203.4, abs=0.05)
    detector = count(1536, class_token=False, window_size=16, global_blocks=[2, 5, 8, 11, 14, 17, 20, 23])
    operators = detector.by_operator
    assert (operators['linear'] + operators['conv']) / 1e9 == pytest.approx(2789.9, abs=0.05)


@pytest.mark.parametrize(('queries', 'classes', 'number'), [(1, 1000, 9423848), (1024, 150, 9600150), (1, 80, 8480848)])
def test_parameters_of_a_module(queries, classes, number):
    with torch.device('meta'):
        module = CroprModule(1024, queries, classes)
    assert sum(p.numel() for p in module.parameters()) == number
    module.fold()
    assert sum(p.numel() for p in module.parameters()) == 1024


# ---------------------------------------------------------------------- scores
@pytest.mark.parametrize('norm', [True, False])
def test_scores_are_summed_dot_products(norm):
    module, x = CroprModule(32, 5, 3, norm), 3 + torch.randn(2, 9, 32)
    seen = (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True) if norm else x
    literal = torch.einsum('qd,bnd->bqn', module.queries, seen).sum(1)
    torch.testing.assert_close(module.score(x), literal, rtol=1e-4, atol=1e-4)
    module.fold()
    torch.testing.assert_close(module.score(x), literal, rtol=1e-4, atol=1e-4)


def test_scores_do_not_overflow_in_half_precision():
    module, x = CroprModule(32, 64, 3, norm=False).half(), torch.full((1, 2, 32), 600.0).half()
    module.queries.data.fill_(10.0)
    with torch.autocast('cpu', torch.bfloat16):
        scores = module.score(x)
    assert scores.dtype == torch.float32 and scores.unique().item() == 600 * 10 * 32 * 64


@torch.no_grad()
def test_deployed_it_keeps_the_same_tokens():
    host, kept = build(keep=0.3, queries=(4, 5)).eval(), []

    def see(state, i):
        kept.append(state.coords.clone())

    with host.watching(see):
        before = host(images())[0]
        host.switch_to_deploy()
        after = host(images())[0]
    assert all(torch.equal(a, b) for a, b in zip(kept[: len(kept) // 2], kept[len(kept) // 2 :], strict=True))
    assert torch.equal(before, after)
    assert [tuple(p.shape) for p in host.reducer.parameters()] == [(1, 32)] * 2


@torch.no_grad()
def test_the_best_go_on_in_raster_order_and_the_others_join_with_the_features_they_left_with():
    """Against a loop over single tokens."""
    host, inputs = build(keep=0.25, layers=[0, 1], norm=True).eval(), images(1)
    whole = host.embed(inputs)
    x, prefix, away = whole.x[0], host.num_prefix, {}
    place = torch.arange(N)

    def block(i, x):
        layout = TokenState(x[None], (1, len(x) - prefix), prefix).layout
        return host.mlp(host.blocks[i], host.attend(host.blocks[i], x[None], layout)[0])[0]

    for i, number in enumerate((40, 16)):  # 64 · (1 - 0.75 / 2), then a quarter
        x = block(i, x)
        queries = host.reducer.modules_by_block[str(i)].queries
        score = [sum(torch.dot(q, F.layer_norm(token, (32,))) for q in queries) for token in x[prefix:]]
        best = sorted(sorted(range(len(score)), key=lambda j: -score[j])[:number])
        away.update({int(place[j]): x[prefix + j] for j in range(len(score)) if j not in best})
        x, place = torch.cat([x[:prefix], x[prefix:][best]]), place[best]
        assert len(place) == number
    x = block(2, x)
    away.update({int(p): token for p, token in zip(place, x[prefix:], strict=True)})
    x = block(3, torch.cat([x[:prefix], torch.stack([away[p] for p in range(N)])]))
    expected = host.norm(x)[prefix:].t().view(-1, SIDE, SIDE)
    torch.testing.assert_close(host(inputs)[0][0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_scattered_tokens_skip_the_last_block():
    llf, scatter = build(keep=0.5, layers=[1]).eval(), build(keep=0.5, layers=[1], restore='scatter').eval()
    scatter.load_state_dict(llf.state_dict())
    assert llf.token_counts(images()) == [N, N, N / 2, N] and scatter.token_counts(images()) == [N, N, N / 2, N / 2]
    assert not torch.allclose(llf(images())[0], scatter(images())[0], atol=1e-2)


# ---------------------------------------------------------------------- what learns from what
def test_the_main_loss_leaves_the_queries_alone_and_the_auxiliary_one_the_backbone():
    host = build(keep=0.3).train()
    outs, state = host.forward_tokens(images())
    outs[0].square().mean().backward(retain_graph=True)
    assert all(p.grad is None for p in host.reducer.parameters())
    own = [p for name, p in host.named_parameters() if not name.startswith('reducer.')]
    assert host.blocks[0].mlp.fc1.weight.grad.abs().max() > 0
    host.zero_grad()
    losses = host.reducer.losses(state, maps())
    assert list(losses) == ['loss_block0', 'loss_block1']
    sum(losses.values()).backward()
    assert all(p.grad is None or not p.grad.any() for p in own)
    assert all(p.grad is not None and p.grad.any() for p in host.reducer.parameters())


def test_the_queries_learn_to_find_what_the_labels_depend_on():
    """Four tokens tell the class, sixteen others tell another one each time; the queries learn to find the four."""
    module, (kind, other, sign) = CroprModule(16, 1, 2), 2 * torch.randn(3, 16)
    module.queries.data = (other - kind)[None] / 100  # it starts with the wrong ones
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)

    def batch():
        x, label, wrong = torch.randn(32, 20, 16), torch.randint(2, (32,)), torch.randint(2, (32,))
        x[:, :4] += kind + sign * (2 * label - 1)[:, None, None]
        x[:, 4:] += other + sign * (2 * wrong - 1)[:, None, None]
        return x, label

    def found(x):
        return (module.score(x).topk(4, dim=1).indices < 4).float().mean()

    assert found(batch()[0]) < 0.2
    for _ in range(60):
        x, label = batch()
        optimizer.zero_grad()
        F.cross_entropy(module(x)[:, 0], label).backward()
        optimizer.step()
    x, label = batch()
    assert (module(x)[:, 0].argmax(-1) == label).float().mean() > 0.95
    assert found(x) > 0.5  # by chance it would be 0.2


@pytest.mark.parametrize('size', [0.1, 30.0])
def test_queries_learn_where_tokens_are_alike_and_small_or_large(size):
    """Each query finds its own token among many that share most of what they are, at a learning rate for heads."""
    torch.manual_seed(0)
    module, common, places = CroprModule(32, 8, 2), 3 * torch.randn(32), torch.randn(8, 32)
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    for _ in range(100):
        label = torch.randint(2, (32, 8))
        x = common + places + torch.linspace(-1, 1, 32) * (2.0 * label[..., None] - 1)
        loss = F.cross_entropy(module(size * x).transpose(1, 2), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.4  # the entropy of the classes is 0.69; without the norm it ends at 0.63 where tokens are small


def test_the_rate_rises_over_the_first_half_of_training():
    host = build(keep=0.25, layers=[0, 1]).train()
    for progress, expected in ((0, [64] * 4), (0.25, [64, 52, 40, 64]), (0.5, [64, 40, 16, 64]), (1, [64, 40, 16, 64])):
        host.reducer.set_progress(progress, 0)
        assert host.token_counts(images()) == expected
    host.reducer.set_progress(0, 0)
    assert host.eval().token_counts(images()) == [64, 40, 16, 64], 'testing knows no curriculum'
    assert build(keep=0.25, curriculum=0.0).train().reducer.rate() == 1
    assert host.reducer.losses(host.forward_tokens(images())[1], maps()) == {}


def test_auxiliary_heads_learn_before_the_first_token_is_dropped():
    host = build(keep=0.3).train()
    host.reducer.set_progress(0, 0)
    state = host.forward_tokens(images())[1]
    assert not state.trail and len(host.reducer.losses(state, maps())) == 2


def test_rates_drawn_for_each_batch():
    host, counts = build(keep=0.1, random=(0.25, 0.75), layers=[0, 1]).train(), set()
    for _ in range(12):
        first, second, third, last = host.token_counts(images(1))
        assert first == last == N and second - third == pytest.approx(N - second, abs=1)
        counts.add(third)
    assert len(counts) > 4 and min(counts) >= 64 - 0.75 * 57.6 - 1 and max(counts) <= 64 - 0.25 * 57.6 + 1
    assert len({host.eval().token_counts(images(1))[2] for _ in range(3)}) == 1


# ---------------------------------------------------------------------- counts
def test_roundings_do_not_add_up():
    tokens = on_paper(24, 64, 1, (32, 32), keep=0.14, multiple=8)[1:-1]
    exact = [1024 * (1 - 0.86 * (j + 1) / 22) + 1 for j in range(22)]
    assert all(n % 8 == 0 and 0 <= whole - n < 8.5 for n, whole in zip(tokens, exact, strict=True))


def test_lists_say_what_is_left_after_each_block():
    assert on_paper(6, 64, 0, (10, 10), keep=[0.5, 0.5, 0.25], layers=[0, 2, 3]) == [100, 50, 50, 50, 25, 100]
    assert on_paper(6, 64, 0, (10, 10), r=[30, 0, 50], layers=[0, 2, 3]) == [100, 70, 70, 70, 20, 100]


def test_a_rate_that_leaves_no_token():
    host = build(r=30)
    assert host.token_counts(images()) == [64, 34, 4, 64]
    with pytest.raises(ValueError, match=r'reducer\.r=30 leaves none of the 5 tokens .* after block 1; lower r, or'):
        host(torch.randn(1, 3, 5 * PATCH, 7 * PATCH))
    assert build(keep=0.01).token_counts(torch.randn(1, 3, PATCH, PATCH)) == [1] * 4


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (dict(), 'Give either keep or r'),
        (dict(keep=0.5, r=3), 'Give either keep or r, not keep=0.5 and r=3'),
        (dict(keep=0), r'keep=0 must be a number in \(0, 1\]'),
        (dict(keep=[0.5, 0.6]), r'keep=\[0.5, 0.6\] must not rise'),
        (dict(keep=[0.5, 0.4, 0.3]), r'reducer.keep has 3 entries, and tokens are dropped after 2 blocks \(\[0, 1\]\)'),
        (dict(r=[1] * 9), 'reducer.r has 9 entries, and tokens are dropped after 2 blocks'),
        (dict(r=2.5), 'r=2.5 must be an integer'),
        (dict(keep=0.5, layers=[0, 2]), r'reducer.layers=\[0, 2\]: tokens dropped after block 2 spare no block'),
        (dict(keep=0.5, layers=[3], restore='scatter'), 'tokens dropped after block 3 spare no block'),
        (dict(keep=0.5, layers=[7]), r'reducer.layers=\[7\] goes beyond the blocks 0 to 3'),
        (dict(keep=0.5, num_classes=None), 'num_classes=None must be an integer'),
        (dict(keep=0.5, random=(0.8, 0.2)), r'random=\(0.8, 0.2\) must be two parts of the rate, the smaller first'),
        (dict(keep=0.5, selector='croper'), "selector='croper' is unknown.*did you mean 'cropr'"),
        (dict(keep=0.5, rare_classes=[3]), 'rare_classes=3 must be'),
        (dict(keep=0.5, rare_classes=[1], target='image'), "rare_classes=.1. needs target='patches' and num_classes"),
        (dict(keep=0.5, target='boxes'), "target='boxes' is unknown; choose one of 'patches', 'image', 'tokens'"),
    ],
    ids=str,
)
def test_bad_arguments(args, message):
    with pytest.raises(ValueError, match=message) as error:
        build(**args)
    assert '\n' not in str(error.value)


def test_two_blocks_have_none_to_spare():
    arch = dict(embed_dims=32, num_layers=2, num_heads=2)
    with pytest.raises(ValueError, match="reducer.layers: this model of 2 blocks has none.*set restore='scatter'"):
        HOST(arch=arch, reducer=dict(type='mmtoken.Cropr', keep=0.5, num_classes=3))
    args = dict(type='mmtoken.Cropr', keep=0.5, num_classes=3, restore='scatter')
    assert HOST(arch=arch, reducer=args).token_counts(images()) == [N, N / 2]


# ---------------------------------------------------------------------- targets
def boxes(*rows, size=(40, 48), **more):
    sample = SegDataSample(metainfo=dict(img_shape=size))
    instances = InstanceData(bboxes=torch.tensor([row[:4] for row in rows]).float().view(-1, 4))
    instances.labels = torch.tensor([row[4] for row in rows]).long()
    for key, value in more.items():
        instances[key] = value
    sample.set_data(dict(gt_instances=instances))
    return sample


def losses(target, samples, logits, size=(40, 48), ignore=255, **more):
    """Those of one auxiliary head that gives these logits ``(B, queries, classes)``, on a picture of a size."""
    queries = (5, 6) if target != 'image' else 1
    host = build(keep=0.5, target=target, queries=queries, ignore_index=ignore, **more).train()
    state = host.forward_tokens(torch.zeros(len(samples), 3, *size))[1]
    state.aux[host.reducer].logits = {0: logits}
    return host.reducer.losses(state, samples)['loss_block0']


def sure(labels, classes):
    """Logits that are right everywhere but where the label is ignored."""
    return 50.0 * F.one_hot(labels.clamp(max=classes - 1), classes).float().flatten(1, 2)


def test_patch_targets_follow_the_grid_of_queries():
    data = torch.arange(30).view(1, 5, 6).remainder(3)
    data[0, 2] = 255
    sample = SegDataSample(gt_sem_seg=PixelData(data=data.repeat_interleave(8, 1).repeat_interleave(8, 2)))
    right = sure(data, 3)
    assert losses('patches', [sample], right) < 1e-6
    assert losses('patches', [sample], right.roll(1, 2)) > 10
    changed = right.clone()
    changed[:, 12:18] = right[:, 12:18].roll(1, 2)
    assert losses('patches', [sample], changed) < 1e-6, 'ignored cells have no say'
    sample.gt_sem_seg = PixelData(sem_seg=sample.gt_sem_seg.data)
    assert losses('patches', [sample], right) < 1e-6 < losses('patches', [sample], right.roll(1, 2)), "mmdet's name"
    sample.gt_sem_seg.sem_seg.fill_(255)
    assert losses('patches', [sample], right) == 0, 'and nothing but ignored cells is no NaN'


def test_rare_classes_label_every_cell_that_they_touch():
    """Cells of 8×8 pixels: class 1 in a corner of one, classes 1 and 2 in another, 2 among ignored ones."""
    data = torch.zeros(1, 40, 48, dtype=torch.long)
    data[0, 0, 0] = data[0, 8, 8] = 1
    data[0, 16:24, 16:24] = 255
    data[0, 15, 15] = data[0, 20, 20] = 2
    labels = torch.zeros(1, 5, 6, dtype=torch.long)
    labels[0, 0, 0], labels[0, 1, 1], labels[0, 2, 2] = 1, 2, 2
    sample = SegDataSample(gt_sem_seg=PixelData(data=data))
    assert losses('patches', [sample], sure(labels, 3), rare_classes=[2, 1]) < 1e-6
    labels[0, 1, 1] = 1
    assert losses('patches', [sample], sure(labels, 3), rare_classes=(1, 2)) < 1e-6
    labels[0, 2, 2] = 0  # ignored, but for its pixel of class 2
    assert losses('patches', [sample], sure(labels, 3), rare_classes=[1]) < 1e-6
    assert losses('patches', [sample], sure(labels, 3), rare_classes=[1, 2]) > 1


def test_image_targets_are_the_classes_that_occur():
    samples = [boxes([0, 0, 9, 9, 2], [4, 4, 8, 8, 0]), boxes()]
    wanted = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    logits = torch.randn(2, 1, 3)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], wanted)
    torch.testing.assert_close(losses('image', samples, logits), expected)
    data = torch.tensor([[[0, 2], [255, 2]]])
    segmented = [SegDataSample(gt_sem_seg=PixelData(data=data)), samples[1]]
    torch.testing.assert_close(losses('image', segmented, logits), expected)


def test_token_targets_are_the_smallest_objects():
    """Cells of 8×8 pixels; a small box on a large one; nothing is known beyond the picture of 32×40 pixels."""
    sample = boxes([0, 0, 32, 24, 1], [8, 8, 16, 24, 0], size=(32, 40))
    labels = torch.full((1, 5, 6), 3)
    labels[0, :3, :4] = 1
    labels[0, 1:3, 1] = 0
    labels[0, 4:], labels[0, :, 5:] = 255, 255
    right = sure(labels, 4)
    assert losses('tokens', [sample], right) < 1e-6
    for cell, label in ((0, 1), (7, 0), (29, 255), (4, 3)):
        changed = right.clone()
        changed[0, cell] = changed[0, cell].roll(1)
        assert (losses('tokens', [sample], changed) < 1e-6) == (label == 255)
    assert losses('tokens', [boxes()], sure(torch.full((1, 5, 6), 3), 4)) < 1e-6


def test_token_targets_prefer_masks():
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((1, 40, 48), np.uint8)
    masks[0, :8, :16] = 1
    sample = boxes([0, 0, 48, 40, 1], masks=BitmapMasks(masks, 40, 48))
    labels = torch.full((1, 5, 6), 3)
    labels[0, 0, :2] = 1
    assert losses('tokens', [sample], sure(labels, 4)) < 1e-6


def test_a_segmentor_trains_the_queries_alone():
    cfg = dict(
        type='mmtoken.TokenEncoderDecoder',
        backbone=dict(type=HOST, reducer=dict(type='mmtoken.Cropr', keep=0.4, num_classes=3, queries=2)),
        decode_head=dict(type='mmseg.FCNHead', in_channels=32, channels=32, num_convs=0, concat_input=False),
        train_cfg=dict(only_reducer=True),
        test_cfg=dict(mode='whole'),
    )
    cfg['decode_head'].update(num_classes=3, in_index=0, norm_cfg=dict(type='BN'))
    net = MODELS.build(cfg).train()
    losses = net.loss(images(), maps())
    assert list(losses) == ['reducer.loss_block0', 'reducer.loss_block1']
    sum(losses.values()).backward()
    assert {n.split('.modules')[0] for n, p in net.named_parameters() if p.grad is not None} == {'backbone.reducer'}


@pytest.mark.parametrize('target', ['patches', 'image', 'tokens'])
@pytest.mark.parametrize('samples', [None, [], [SegDataSample()]])
def test_annotations_that_are_missing(target, samples):
    host = build(keep=0.5, target=target).train()
    state = host.forward_tokens(images(1))[1]
    with pytest.raises(ValueError, match=rf"reducer.target='{target}' learns from gt_.*which the batch lacks") as error:
        host.reducer.losses(state, samples)
    assert '\n' not in str(error.value)


def test_classes_are_those_of_the_model():
    host = build(keep=0.5)
    head = torch.nn.Module()
    head.num_classes = 7
    model = torch.nn.ModuleDict(dict(backbone=host, decode_head=head))
    with pytest.raises(ValueError, match='reducer.num_classes=3 is not that of the model.s heads; set it to 7'):
        host.reducer.bind_model(model)
    head.num_classes = 3
    assert host.reducer.bind_model(model) == {}


# ---------------------------------------------------------------------- the baselines
def kept_by(host, inputs):
    seen = {}
    with torch.no_grad(), host.watching(lambda state, i: seen.setdefault(i, state.coords)):
        host(inputs)
    return seen[host.reducer.last - 1]


def test_random_tokens_are_the_same_in_each_test_and_others_in_training():
    host = build(keep=0.5, layers=[1], selector='random')
    assert not list(host.reducer.parameters()) and not host.reducer.trainable
    kept = [kept_by(host, images(1, seed))[0] for seed in (1, 2)]
    assert torch.equal(*kept)
    assert 8 < (kept[0][:, 0] < 3.5).sum() < 24 and 8 < (kept[0][:, 1] < 3.5).sum() < 24
    host.train().reducer.set_progress(1, 0)
    assert not torch.equal(kept_by(host, images(1)), kept_by(host, images(1)))


def test_variance_keeps_the_tokens_whose_channels_differ_most():
    host = build(keep=0.5, layers=[1], selector='variance').eval()
    state = TokenState(torch.randn(2, N, 32) * torch.rand(2, N, 1), (SIDE, SIDE))
    host.reducer.before(state, 0)
    expected = state.x.var(-1).topk(N // 2, dim=1).indices.sort(1).values
    tokens = state.x.clone()
    host.reducer.after(state, 1)
    assert torch.equal(state.x, tokens.gather(1, expected[..., None].expand(-1, -1, 32)))


@torch.no_grad()
@pytest.mark.parametrize('name', ['TokenDINOv2', 'TokenVisionTransformer', 'TokenPretrainViT', 'TokenTimmViT'])
def test_attention_keeps_what_the_class_token_attends_to(name, monkeypatch):
    if name not in toy_hosts():
        pytest.skip(f'{name} is not installed')
    torch.manual_seed(0)
    host = toy_hosts()[name](reducer=dict(type='mmtoken.Cropr', keep=0.5, layers=[1], selector='attention')).eval()
    host.served, inputs = True, images()
    state, seen = host.run_blocks(host.embed(inputs), [0]), []
    fused = F.scaled_dot_product_attention  # what the block itself hands to the kernel
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda *qkv, **o: seen.append(qkv) or fused(*qkv, **o))
    host.attend(host.blocks[1], state.x, state.layout)
    monkeypatch.undo()
    (q, k, _), *_ = seen
    paid = (q[:, :, :1] @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)[:, :, 0, host.num_prefix :].mean(1)
    best = paid.topk(N // 2, dim=1).indices.sort(1).values
    assert torch.equal(kept_by(host, inputs), torch.stack([best // SIDE, best % SIDE], -1).float())


def test_attention_needs_a_class_token():
    args = dict(type='mmtoken.Cropr', keep=0.5, selector='attention')
    for name, options in (
        ('TokenVisionTransformer', dict(with_cls_token=False, output_cls_token=False)),
        ('TokenBEiT', {}),  # whose scores have a bias for each pair of places
    ):
        with pytest.raises(ValueError, match="selector='attention' needs a class token whose attention is.*'variance'"):
            toy_hosts()[name](reducer=args, **options)


# ---------------------------------------------------------------------- padding and windows
@torch.no_grad()
def test_padding_goes_first_and_may_be_all_there_is():
    host, padding = build(keep=0.5, layers=[1]).eval(), torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    padding[0, 6:], padding[1] = True, True
    kept = []
    with host.watching(lambda state, i: kept.append(state.padding)):
        outs = host(images(), padding)
    assert outs[0].isfinite().all() and not kept[2][0].any() and kept[2][1].all()


def test_windows_that_hold_padding_alone(newcomers):
    """Every token of an image may be padding: windows stay finite, in training too."""
    host = newcomers.newcomer_hosts.Pyramid(reducer=dict(type='mmtoken.Cropr', keep=0.4, num_classes=3, queries=2))
    host.served = True
    padding = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    padding[0, :, 3:], padding[1] = True, True
    outs, state = host.train().forward_tokens(images(), padding)
    total = outs[0].square().mean() + sum(host.reducer.losses(state, maps()).values())
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in host.parameters())
    counts = state.counts
    assert counts[1] < counts[0] and all(a >= b for a, b in pairwise(counts))


@pytest.mark.parametrize(
    ('host', 'windows', 'counts'),
    [
        ('TokenDINOv2', dict(window_size=4, global_blocks=[1], reduce_within='window'), [64, 32, 32, 32]),
        ('TokenSwin', {}, [64, 32, 16, 16]),
    ],
)
@torch.no_grad()
def test_without_learning_it_runs_inside_windows(host, windows, counts):
    """What it notes before a block is there after it; each window keeps half of its tokens."""
    args = dict(type='mmtoken.Cropr', keep=0.5, layers=[0], selector='variance', restore='scatter')
    made = toy_hosts()[host](reducer=args, **windows)
    assert made.token_counts(images()) == counts
    state = made.run_blocks(made.embed(images()), [0], made.reducer)
    homes = (state.coords // 4).long()
    assert ((homes[..., 0] * 2 + homes[..., 1]).sort(1).values == torch.arange(4).repeat_interleave(8)).all()
    with pytest.raises(ValueError, match='reducer Cropr (with|looks at whole pictures)'):
        toy_hosts()[host](reducer=dict(args, selector='attention'), **windows)
