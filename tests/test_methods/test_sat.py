"""SAT against a loop over cells, its published token counts and costs, and the definitions of its losses."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmtoken.core import HostInfo, build_reducer
from mmtoken.methods.mixed_scale.cells import Cells
from mmtoken.methods.sat import SAT, covered_scales, scale_targets
from mmtoken.methods.sat.scale_map import focal_loss
from mmtoken.testing import PATCH, toy_hosts

HOSTS = toy_hosts()
SIZE = (24, 40)


def images(batch=3, size=SIZE, seed=1):
    pictures = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    return pictures * torch.linspace(0.3, 2, batch).view(-1, 1, 1, 1)


def build(host='TokenDINOv2', **args):
    torch.manual_seed(0)
    made = HOSTS[host](reducer=dict(type='mmtoken.SAT', **args), out_indices=(3,))
    made.served = True
    return made


def guided(host, maps):
    """Lets given maps ``(B, 2, h, w)`` decide."""
    host.reducer.guided, host.reducer.guide = 1.0, maps.flatten(2)
    host.reducer.set_progress(0.0, 0)
    host.reducer.training = True  # the backbone itself stays in test mode


def maps_of(batch, shape, small=(), large=()):
    maps = torch.zeros(batch, 2, *shape)
    for b, y, x in small:
        maps[b, :, y, x] = torch.tensor([1.0, 0.2])
    for b, y, x in large:
        maps[b, :, y, x] = torch.tensor([1.0, 0.8])
    return maps


# ---------------------------------------------------------------------- the published example and costs
def test_the_published_example_of_token_counts():
    """A grid of 4x6 cells, one small at (0, 0), one large at (2, 3): 4 fine, 7 coarse and 4 pooled tokens."""
    host = build(blocks=1)
    guided(host, maps_of(1, (4, 6), [(0, 0, 0)], [(0, 2, 3)]))
    state = host.reducer.start(host, images(1, (8 * PATCH, 12 * PATCH)), None)
    sizes = state.sizes.tolist()
    assert [sizes.count(size) for size in (1, 4, 16)] == [4, 7, 4]
    fine = sorted(c for c, size in zip(state.coords.tolist(), sizes) if size == 1)
    assert fine == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert [1.5, 5.5] in [c for c, size in zip(state.coords.tolist(), sizes) if size == 16]
    assert [0.5, 2.5] in [c for c, size in zip(state.coords.tolist(), sizes) if size == 4]  # beside somebody


DIMS, QUERIES = 768, 50  # of SAT-HMR's ViT-B and its decoder


def block_macs(*sequences):
    return sum(12 * n * DIMS**2 + 2 * n**2 * DIMS for n in sequences)


def on_tokens(tokens):
    """Decoder work that grows with the tokens: a projection before; in six layers content, position and value of each
    token, and cross-attention whose keys are twice as wide as its values."""
    return tokens * (DIMS**2 + 6 * 3 * DIMS**2 + 6 * 3 * QUERIES * DIMS)


def on_queries():
    """What the parameters say of the rest: six layers (nine projections and the MLP of 2048), the networks of anchors,
    boxes, pose, shape and camera, and the body model of 6890 vertices."""
    layers = 6 * (9 * DIMS**2 + 2 * 2048 * DIMS) + DIMS**2 + 6 * 2 * QUERIES * DIMS
    anchors = (6 * 3 + 5 * 2 + 6 * 1) * DIMS**2
    boxes, camera = 6 * (2 * DIMS**2 + 4 * DIMS), 6 * (DIMS * 384 + 384**2 + 3 * 384)
    pose, shape = 6 * (5 * DIMS**2 + 144 * DIMS), 6 * (4 * DIMS**2 + 10 * DIMS)
    body = (10 + 24 + 207) * 3 * 6890 + 24 * 16 * 6890
    return QUERIES * (layers + anchors + boxes + camera + pose + shape + body)


def uniform(tokens):
    """A plain ViT-B on that many patches of 14 pixels, and the decoder's work on them."""
    return 12 * block_macs(tokens + 1) + tokens * 3 * 14**2 * DIMS + on_tokens(tokens)


#: Published for 1196 patches (644 pixels). What is left after the tokens is the work on the queries.
REST = 149.6e9 - uniform(1196)


def test_the_cost_model_of_the_decoder():
    """0.66 GMACs of the queries' 7.1 are in no parameter known; they are the same at 1288 pixels, so in all rows."""
    assert (REST - on_queries()) / 1e9 == pytest.approx(0.66, abs=0.06)
    assert (uniform(4784) + REST) / 1e9 == pytest.approx(894.2, abs=0.1)


@pytest.mark.parametrize(
    'fine, large, pooled, published',
    [
        (0, 0, 299, 65.3),
        (156, 85, 268, 87.1),
        (240, 104, 258, 97.5),
        (480, 152, 231, 128.5),
        (584, 170, 220, 142.5),
        (928, 184, 195, 188.0),
        (1424, 220, 155, 262.5),
    ],
)
def test_published_costs(fine, large, pooled, published):
    """GMACs of SAT-HMR with ViT-B on 728x1288 pictures, to 0.1: both they and ``REST`` are rounded to 0.05."""
    cells = 26 * 46
    host = build(blocks=1)
    host.patch_size = 14
    level = torch.ones(1, cells, dtype=torch.int64)
    level[:, : fine // 4] = 0
    level[:, fine // 4 + large : fine // 4 + large + 4 * pooled] = 2
    reducer = SAT()
    record = SimpleNamespace(levels=level, cells=Cells((52, 92), torch.device('cpu')))
    cost = reducer.closed_form(
        HostInfo(12, DIMS, 12, (11,), 1, host=host), (52, 92), SimpleNamespace(aux={reducer: record})
    )
    sequences = [n + 1 for block in cost.attention for n in (block if isinstance(block, tuple) else (block,))]
    tokens = fine + large + pooled
    assert sum(cost.mlp[3:]) == 9 * tokens
    dense_stem = 4 * cells * 3 * 14**2 * DIMS
    total = block_macs(*sequences) + cost.reduce + cost.stem + dense_stem + on_tokens(tokens) + REST
    assert total / 1e9 == pytest.approx(published, abs=0.1)


# ---------------------------------------------------------------------- the algorithm, cell by cell
@torch.no_grad()
def sat_by_loops(host, image, maps, levels):
    """Tokens of one image by the place of their first patch, before the mixed blocks; and the prefix."""
    reducer, side = host.reducer, 2 ** (levels - 1)
    image = host.fitted(image[None])[0]  # the picture as the backbone takes it
    down, across = (-n % (side * PATCH) for n in image.shape[1:])
    image = F.pad(image, (0, across, 0, down))[None]
    grid = tuple(n // PATCH for n in image.shape[2:])
    h, w = grid[0] // 2, grid[1] // 2
    # 1. low-resolution branch
    x = reducer.patch_embed.proj(F.interpolate(image, scale_factor=0.5, mode='bilinear')).flatten(2).transpose(1, 2)
    cls, positions = host.positions((h, w), 2)
    x = torch.cat([host.prefix_tokens(cls, 1, x), x + positions], 1)
    layout = host.embed(F.avg_pool2d(image, 2)).layout
    for block in reducer.blocks:
        x = host.mlp(block, host.attend(block, x, layout)[0])
    prefix, coarse = x[0, : host.num_prefix], x[0, host.num_prefix :].unflatten(0, (h, w))
    # 3. levels of cells
    someone = maps[0] > reducer.confidence
    small = someone & (maps[1] < reducer.scale)
    # 4. fine tokens of small cells alone
    full = host.embed(image)
    places = [(y, z) for y in range(grid[0]) for z in range(grid[1]) if small[y // 2, z // 2]]
    rows = [host.num_prefix + y * grid[1] + z for y, z in places]
    x = torch.cat([full.x[:, : host.num_prefix], full.x[:, rows]], 1)
    for block in host.blocks[: reducer.first]:
        x = host.mlp(block, host.attend(block, x, full.layout)[0])
    tokens = dict(zip(places, x[0, host.num_prefix :]))
    # 5. complete blocks of background
    pooled = set()
    for up in range(levels - 1, 1, -1):
        size = 2 ** (up - 1)
        for i in range(0, h, size):
            for j in range(0, w, size):
                if not someone[i : i + size, j : j + size].any() and (i, j) not in pooled:
                    tokens[2 * i, 2 * j] = coarse[i : i + size, j : j + size].amax((0, 1))
                    pooled |= {(i + a, j + b) for a in range(size) for b in range(size)}
    for i in range(h):
        for j in range(w):
            if not small[i, j] and (i, j) not in pooled:
                tokens[2 * i, 2 * j] = coarse[i, j]
    return [tokens[place] for place in sorted(tokens)], prefix


@pytest.mark.parametrize('levels', [2, 3, 4])
@pytest.mark.parametrize('size', [(32, 64), (24, 40), (30, 37)])
def test_tokens_are_those_of_a_loop(size, levels):
    host, inputs = build(blocks=2, levels=levels), images(3, size)
    step = 2 ** (levels - 1) * PATCH
    cells = tuple(-(-n // step) * step // PATCH // 2 for n in size)
    maps = torch.rand(3, 2, *cells, generator=torch.Generator().manual_seed(4))
    maps[1, 0] = 0  # nobody: no fine token at all
    maps[2, 0, :, 2:] *= 0.2
    guided(host, maps)
    with torch.no_grad():
        state = host.reducer.start(host, inputs, None)
        assert state.block == 2
        for b, tokens in enumerate(state.x.split(state.lengths.tolist())):
            expected, prefix = sat_by_loops(host, inputs[b], maps[b], levels)
            torch.testing.assert_close(tokens[: host.num_prefix], prefix, rtol=0, atol=2e-5)
            torch.testing.assert_close(tokens[host.num_prefix :], torch.stack(expected), rtol=0, atol=2e-5)
        assert host(inputs)[0].shape[2:] == tuple(-(-n // PATCH) for n in size)


@torch.no_grad()
def test_a_batch_is_its_images():
    host, inputs = build(blocks=2, confidence=0.55, scale=0.5), images(4, (32, 48))
    together = host(inputs)[0]
    alone = torch.cat([host(inputs[b : b + 1])[0] for b in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@torch.no_grad()
def test_padding_may_leave():
    host, inputs = build(blocks=1, mask_padding=True), images(1, (20, 36))  # padded to 24x40
    kept = build(blocks=1)
    for each in (host, kept):
        guided(each, maps_of(1, (4, 6), [(0, 0, 0), (0, 2, 4)]))
    masked, whole = (len(each.reducer.start(each, inputs, None).x) for each in (host, kept))
    assert masked < whole
    assert host(inputs)[0].shape == kept(inputs)[0].shape


@torch.no_grad()
def test_masked_padding_is_seen_in_neither_branch():
    """A picture gives the same beside a larger one, whatever the scale head says."""
    for confidence, levels in ((0.0, 3), (0.5, 3), (0.5, 4)):
        reducer = dict(type='mmtoken.SAT', blocks=1, mask_padding=True, confidence=confidence, scale=0.5, levels=levels)
        torch.manual_seed(0)  # a cropped table, so that positions do not depend on the size of the batch
        host = HOSTS['TokenDINOv2'](reducer=reducer, out_indices=(3,), img_size=64, table='crop')
        inputs = images(2, (32, 48))
        padding = torch.zeros(2, 8, 12, dtype=torch.bool)
        padding[0, 5:], padding[0, :, 7:] = True, True
        inputs[0, :, 5 * PATCH :], inputs[0, :, :, 7 * PATCH :] = 0, 0
        together = host(inputs, padding)[0][0, :, :5, :7]
        alone = host(inputs[:1, :, : 5 * PATCH, : 7 * PATCH])[0][0]
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize('size', [(PATCH, PATCH), (3, 9), (PATCH, 5 * PATCH)])
@torch.no_grad()
def test_a_picture_smaller_than_a_cell_is_padded_to_one(size):
    host, inputs = build(blocks=1), images(2, size)
    out = host(inputs)[0]
    assert out.shape[2:] == tuple(-(-n // PATCH) for n in size) and out.isfinite().all()
    torch.testing.assert_close(out[1:], host(inputs[1:])[0], rtol=0, atol=2e-5)


# ---------------------------------------------------------------------- weights
def test_the_low_resolution_branch_starts_from_the_backbone():
    dense = HOSTS['TokenDINOv2']()
    host = build(blocks=2)
    missing = host.load_state_dict(dense.state_dict(), strict=False).missing_keys
    assert missing and all(key.startswith('reducer.head.') for key in missing)
    for ours, theirs in zip(host.reducer.blocks, dense.blocks):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))
    assert torch.equal(host.reducer.patch_embed.proj.weight, dense.patch_embed.proj.weight)
    trained = host.state_dict()
    trained['reducer.norm.weight'] = trained['reducer.norm.weight'] + 1
    host.load_state_dict(trained)
    assert torch.equal(host.reducer.norm.weight, trained['reducer.norm.weight']), 'its own weights come first'


def test_positions_are_cropped_from_one_table():
    host = HOSTS['TokenDINOv2'](table='crop')
    table = host.pos_embed[:, 1:].unflatten(1, (8, 8))
    assert torch.equal(host.positions((3, 5))[1][0].unflatten(0, (3, 5)), table[0, :3, :5])
    half = F.interpolate(table.permute(0, 3, 1, 2), (4, 4), mode='bicubic', antialias=True).permute(0, 2, 3, 1)
    torch.testing.assert_close(host.positions((3, 4), 2)[1][0].unflatten(0, (3, 4)), half[0, :3])
    with pytest.raises(ValueError, match=r"table='crop' has positions for 8x8 patches.*img_size"):
        host.positions((9, 4))


# ---------------------------------------------------------------------- targets and losses
def test_a_map_of_a_smaller_picture_is_padded_to_the_batch():
    people = SegDataSample()
    people.gt_scale_map = PixelData(data=torch.ones(2, 2, 3))
    maps = scale_targets([people], Cells((8, 8), torch.device('cpu')), PATCH, 32).unflatten(2, (4, 4))
    assert maps[0].sum() == 12 and maps[0, :, :2, :3].sum() == 12


def test_boxes_give_maps_and_the_smaller_one_wins():
    cells = Cells((8, 8), torch.device('cpu'))
    boxes = torch.tensor([[0.0, 0, 32, 32], [9, 9, 12, 12]])
    maps = covered_scales([boxes, torch.zeros(0, 4)], cells, PATCH, 32).unflatten(2, (4, 4))
    assert maps[0, 0].sum() == 16 and maps[1].sum() == 0
    assert maps[0, 1, 0, 0] == 1 and maps[0, 1, 1, 1] == pytest.approx(3 * 2**0.5 / 32)


def test_each_kind_of_sample_gives_maps():
    cells = Cells((6, 10), torch.device('cpu'))
    labels = torch.zeros(1, 24, 40, dtype=torch.int64)
    labels[0, 0, 0] = 1
    segments = [SegDataSample(gt_sem_seg=PixelData(data=labels))]
    maps = scale_targets(segments, cells, PATCH, 40)
    assert maps[0, 0].sum() == 1 and maps[0, 0, 0] == 1 and maps[0, 1].sum() == 0
    people, boxes = SegDataSample(), SegDataSample()
    people.gt_scale_map = PixelData(data=torch.rand(2, 3, 5))
    assert torch.equal(scale_targets([people], cells, PATCH, 40)[0].unflatten(1, (3, 5)), people.gt_scale_map.data)
    boxes.gt_instances = InstanceData(bboxes=torch.tensor([[0.0, 0, 8, 8]]))
    assert scale_targets([boxes], cells, PATCH, 40)[0, 0].sum() == 1
    assert scale_targets([SegDataSample()], cells, PATCH, 40) is None


def test_losses_are_those_of_the_paper():
    host, inputs = build(blocks=1).train(), images(2)
    state = host.forward_tokens(inputs)[1]
    samples = []
    for b in range(2):
        sample = SegDataSample()
        sample.gt_scale_map = PixelData(data=maps_of(2, (4, 6), [(1, 0, 0)], [(1, 2, 3)])[b])
        samples.append(sample)
    losses = host.reducer.losses(state, samples)
    conf, scale = state.aux[host.reducer].maps.detach().unbind(1)
    focal = 0.0
    for b in range(2):
        for cell in range(24):
            p = float(conf[b, cell])
            there = b == 1 and cell in (0, 2 * 6 + 3)
            focal += -0.25 * (1 - p) ** 2 * torch.tensor(p).log() if there else -0.75 * p**2 * torch.tensor(1 - p).log()
    assert float(losses['loss_map_confidence']) == pytest.approx(4 * float(focal) / 48, rel=1e-4)
    error = (abs(float(scale[1, 0]) - 0.2) + abs(float(scale[1, 15]) - 0.8)) / 2
    assert float(losses['loss_map_scale']) == pytest.approx(4 * error, rel=1e-4)
    with pytest.raises(ValueError, match='gt_scale_map'):
        host.reducer.losses(state, [SegDataSample()])
    assert focal_loss(torch.tensor([0.9]), torch.tensor([1.0])) < focal_loss(torch.tensor([0.5]), torch.tensor([1.0]))


def test_labels_decide_in_the_first_part_of_training_only():
    host, inputs = build(blocks=1, guided=0.5).train(), images(1)
    host.reducer.guide = maps_of(1, (4, 6), [(0, 0, 0)]).flatten(2)
    counts = []
    for progress in (0.0, 0.6):
        host.reducer.set_progress(progress, 0)
        counts.append(int(host.reducer.start(host, inputs, None).lengths[0]))
    host.reducer.guide = None
    host.reducer.set_progress(0.0, 0)
    assert counts[0] != counts[1] == int(host.reducer.start(host, inputs, None).lengths[0])


@pytest.mark.parametrize(
    'args, message',
    [
        (dict(levels=5), r'levels=5 must be an integer in \[1, 4\]'),
        (dict(blocks=True), 'blocks=True'),
        (dict(confidence=1.5), 'confidence=1.5'),
        (dict(scale='0.5'), 'scale='),
        (dict(mask_padding=1), 'mask_padding=1'),
        (dict(guided=float('nan')), 'guided=nan'),
    ],
    ids=str,
)
def test_arguments_that_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        build_reducer(dict(type='mmtoken.SAT', **args))


def test_backbones_that_are_refused():
    with pytest.raises(ValueError, match='TokenVisionTransformer.*table of positions'):
        HOSTS['TokenVisionTransformer'](reducer=dict(type='mmtoken.SAT'))
    with pytest.raises(ValueError, match=r'reducer\.blocks=3 must not come after the first output'):
        HOSTS['TokenDINOv2'](reducer=dict(type='mmtoken.SAT'), out_indices=(0, 3))


def test_discarded_background_leaves_and_is_restored_as_it_was():
    inputs = images(2)
    host, kept = build(blocks=1, discard=True), build(blocks=1)
    for each in (host, kept):
        guided(each, maps_of(2, (4, 6), [(0, 0, 0)], [(0, 2, 3)]))  # nobody in the second picture
    states = [each.reducer.start(each, inputs, None) for each in (host, kept)]
    fewer, all_of_them = ([int(n) for n in state.lengths] for state in states)
    pooled = [int((one == 16).sum()) for one in states[1].sizes.split([n - 2 - 1 for n in all_of_them])]
    assert fewer == [a - b for a, b in zip(all_of_them, pooled)] and fewer[1] == states[0].num_prefix
    torch.testing.assert_close(states[0].dense(), states[1].dense())
    assert host(inputs)[0].isfinite().all()


def test_a_frozen_branch_learns_in_its_head_alone_and_a_frozen_method_in_nothing():
    whole = build(blocks=1, frozen=True).reducer
    assert not whole.trainable and not any(p.requires_grad for p in whole.parameters())
    reducer = build(blocks=1, frozen_branch=True).reducer
    assert {name.split('.')[0] for name, p in reducer.named_parameters() if p.requires_grad} == {'head'}
