"""MixedScale against a plain loop over cells, and its selectors against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmtoken.core import build_reducer
from mmtoken.methods.mixed_scale import DetailSelector
from mmtoken.methods.mixed_scale.cells import Cells
from mmtoken.methods.mixed_scale.selectors import covered, impurity
from mmtoken.registry import MODELS
from mmtoken.testing import PATCH, toy_hosts

HOSTS = toy_hosts()
#: Not square, odd in patches on one side, on both.
SIZES = [(24, 40), (20, 36), (28, 36)]
FLEXIBLE = [name for name in HOSTS if HOSTS[name]().any_size]


def images(batch=2, size=SIZES[0], seed=1):
    """Detail grows to the right, and from image to image."""
    noise = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.1, 2, size[1]) * torch.linspace(0.5, 1.5, batch).view(-1, 1, 1, 1)


def build(host='TokenDINOv2', seed=0, **args):
    torch.manual_seed(seed)
    made = HOSTS[host](reducer=dict(type='mmtoken.MixedScale', **args))
    made.served = True
    return made


def grid_of(size):
    return tuple(-(-side // PATCH) for side in size)


# ---------------------------------------------------------------------- cells
@pytest.mark.parametrize('grid', [(6, 10), (5, 9), (4, 7), (2, 2)])
def test_the_sequence_is_that_of_a_loop(grid):
    cells = Cells(grid, torch.device('cpu'))
    fine = torch.rand(3, cells.number) > 0.5
    coarse, lead = cells.lead(fine)
    holds = lead == torch.arange(grid[0] * grid[1])
    number = (holds.cumsum(1) - 1).gather(1, lead)
    for b in range(3):
        place, expected = {}, {}
        for y in range(grid[0]):
            for x in range(grid[1]):
                inside = y < 2 * cells.shape[0] and x < 2 * cells.shape[1]
                is_coarse = inside and not fine[b, y // 2 * cells.shape[1] + x // 2]
                key = ('cell', y // 2, x // 2) if is_coarse else ('patch', y, x)
                place.setdefault(key, len(place))
                expected[y, x] = (place[key], is_coarse)
        got = {(y, x): (int(number[b, y * grid[1] + x]), bool(coarse[b, y * grid[1] + x])) for y, x in expected}
        assert got == expected
        assert holds[b].sum() == len(place)
        assert holds[b].sum() == 3 * fine[b].sum() + cells.number + cells.outside


# ---------------------------------------------------------------------- tokens
@torch.no_grad()
def tokens_by_loops(host, image, fine):
    """Tokens ``(n, C)`` of one image, sizes and centres, cell by cell; ``fine`` by cell."""
    grid = grid_of(image.shape[1:])
    h, w = grid[0] // 2, grid[1] // 2
    full = host.embed(image[None]).patches[0].unflatten(0, grid)
    half = F.avg_pool2d(image[None, :, : 2 * h * PATCH, : 2 * w * PATCH], 2)
    coarse = host.embed(half).patches[0].unflatten(0, (h, w))
    tokens, sizes, centres, done = [], [], [], set()
    for y in range(grid[0]):
        for x in range(grid[1]):
            cell = (y // 2, x // 2)
            if cell[0] < h and cell[1] < w and not fine[cell[0] * w + cell[1]]:
                if cell not in done:
                    done.add(cell)
                    tokens.append(coarse[cell])
                    sizes.append(4.0)
                    centres.append([2 * cell[0] + 0.5, 2 * cell[1] + 0.5])
            else:
                tokens.append(full[y, x])
                sizes.append(1.0)
                centres.append([float(y), float(x)])
    return torch.stack(tokens), sizes, centres


@pytest.mark.parametrize('args', [dict(fine=0.4), dict(fine=0.0), dict(threshold=1.5)], ids=str)
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', FLEXIBLE)
def test_tokens_are_those_of_a_loop(name, size, args):
    if build_reducer(dict(type='mmtoken.MixedScale', **args)).refuses(HOSTS[name]().info()):
        pytest.skip('some windows follow no unequal counts')
    host, inputs = build(name, **args), images(3, size)
    with torch.no_grad():
        state = host.reducer.start(host, inputs, None)
    fine = state.aux[host.reducer].fine
    for b in range(3):
        tokens, sizes, centres = tokens_by_loops(host, inputs[b], fine[b])
        if state.packing is None:
            got = state.patches[b], state.sizes[b], state.coords[b]
        else:
            lengths = (state.lengths - state.num_prefix).tolist()
            got = [part.split(lengths)[b] for part in (state.patches, state.sizes, state.coords)]
        torch.testing.assert_close(got[0], tokens, rtol=0, atol=1e-5)
        assert got[1].tolist() == sizes and got[2].tolist() == centres
    assert state.proportional
    assert len({int(row.sum()) for row in fine}) > 1 or 'fine' in args
    # Restored, fine tokens are in place and a coarse one is in its four patches.
    with torch.no_grad():
        dense = state.dense()
    coarse, _ = Cells(state.grid, dense.device).lead(fine)
    full = host.embed(inputs).patches
    assert torch.equal(dense[~coarse], full[~coarse])
    four = Cells(state.grid, dense.device).to_cells(dense[..., 0])
    assert torch.equal(four[~fine], four[~fine][:, :1].expand(-1, 4))


def test_the_cells_with_most_edges_stay_fine():
    host, inputs = build(fine=0.5), images(2)
    state = host.reducer.start(host, inputs, None)
    needs, fine = state.aux[host.reducer].needs, state.aux[host.reducer].fine
    assert fine.sum(1).tolist() == [8, 8]  # of 15 cells, half rounds to even
    assert needs[fine].view(2, -1).amin(1).ge(needs[~fine].view(2, -1).amax(1)).all()


def test_detail_is_the_mean_sobel_magnitude():
    inputs, cells = images(2, (20, 36)), Cells((5, 9), torch.device('cpu'))
    got = DetailSelector()(inputs, None, cells, PATCH)
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    grey = F.pad(inputs[..., :16, :32].mean(1, keepdim=True), (1, 1, 1, 1), mode='replicate')
    across, down = (F.conv2d(grey, k[None, None]) for k in (kernel, kernel.t()))
    expected = F.avg_pool2d((across**2 + down**2).sqrt(), 2 * PATCH).flatten(1)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('args', [dict(fine=0.4), dict(threshold=0.0)], ids=str)
def test_coarse_tokens_go_on_after_their_blocks(args):
    """Both resolutions run apart through the selector's blocks, and the prefix is that of the coarse ones."""
    host, inputs = build(selector=dict(type='coarse', blocks=2), **args), images(3)
    with torch.no_grad():
        state = host.reducer.start(host, inputs, None)
        seen = state.aux[host.reducer]
        needs, fine, cells = seen.needs, seen.fine, seen.cells
        assert state.block == 2 and fine.any() and not fine.all()
        for b in range(3):
            image = inputs[b : b + 1]
            coarse = host.run_blocks(host.embed(F.avg_pool2d(image, 2)), range(2))
            own = host.embed(image)
            own.keep((~cells.lead(fine[b : b + 1])[0]).nonzero()[:, 1][None])
            host.run_blocks(own, range(2))
            expected = own.dense()[0]
            is_coarse, lead = cells.lead(fine[b : b + 1])
            holds = lead == torch.arange(lead.shape[1])
            expected = torch.where(is_coarse[0][:, None], coarse.patches[0][cells.of_patches()[0]], expected)
            full = state.dense()[b]
            kept = holds[0]
            torch.testing.assert_close(full[kept], expected[kept], rtol=0, atol=2e-5)
            torch.testing.assert_close(state.prefix[b], coarse.prefix[0], rtol=0, atol=2e-5)
            # A linear head on normalised tokens.
            x = coarse.patches[0]
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            head = host.reducer.selector.head
            torch.testing.assert_close(needs[b], (x @ head.weight[0]) + head.bias, rtol=0, atol=2e-5)


def test_counts_of_blocks_that_run_apart():
    host = build(fine=0.4, selector=dict(type='coarse', blocks=2))
    few = 6  # of 15 cells
    assert host.token_counts(images()) == [15 + 4 * few, 15 + 4 * few, 15 + 3 * few, 15 + 3 * few]


@pytest.mark.parametrize('args', [dict(fine=0.3), dict(threshold=1.0), dict(threshold=0.1, selector='coarse')], ids=str)
@pytest.mark.parametrize('size', SIZES)
def test_a_batch_is_its_images(size, args):
    if args.get('selector'):
        args = dict(args, selector=dict(type='coarse', blocks=1))
    host, inputs = build(**args), images(4, size)
    with torch.no_grad():
        together = host(inputs)[0]
        alone = torch.cat([host(inputs[b : b + 1])[0] for b in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


# ---------------------------------------------------------------------- padding
def test_cells_of_padding_are_coarse_and_what_it_holds_does_not_matter():
    padding = torch.zeros(2, 6, 10, dtype=torch.bool)
    padding[0, :, 7:] = True  # the fourth column of cells is mixed, the fifth is padding
    host, inputs = build(fine=0.4), images(2)
    state = host.reducer.start(host, inputs, padding)
    fine = state.aux[host.reducer].fine.view(2, 3, 5)
    assert not fine[0, :, 4].any() and fine[1, :, 4].any()
    outs = []
    for fill in (0.0, 50.0):
        changed = inputs.clone()
        changed[0, :, :, 7 * PATCH :] = fill
        with torch.no_grad():
            state = host.reducer.start(host, changed, padding)
        outs.append(state.dense()[0].unflatten(0, (6, 10))[:, :7])
        # Three coarse cells, and the right half of those in the fourth column that are fine.
        assert state.padding[0].sum() == 3 + 2 * state.aux[host.reducer].fine.view(2, 3, 5)[0, :, 3].sum()
    assert torch.equal(*outs)


# ---------------------------------------------------------------------- selectors that learn
def samples(size, batch=2):
    labels = torch.randint(3, (batch, 1, *size), generator=torch.Generator().manual_seed(3))
    labels[:, :, :, : size[1] // 2] = 0
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def test_impurity_is_what_other_labels_cover():
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[0, :8, :2] = 1  # a quarter of the first cell of 8x8 pixels
    labels[0, 8:, :8] = 255
    got = impurity(labels, Cells((4, 4), torch.device('cpu')), PATCH)
    assert got.tolist() == [[0.25, 0, 0, 0]]


def test_boxes_cover_cells():
    cells = Cells((4, 6), torch.device('cpu'))
    got = covered([torch.tensor([[4.0, 0, 12, 8]]), torch.zeros(0, 4)], cells, PATCH)
    assert got.tolist() == [[0.5, 0.5, 0, 0, 0, 0], [0.0] * 6]


def test_given_boxes_choose():
    host, inputs = build(fine=0.2, selector='boxes'), images(2)
    with pytest.raises(ValueError, match=r'selector\.boxes.*2 images'):
        host(inputs)
    host.reducer.selector.boxes = [torch.tensor([[0.0, 0, 24, 8]]), torch.tensor([[16.0, 16, 40, 24]])]
    fine = host.reducer.start(host, inputs, None).aux[host.reducer].fine.view(2, 3, 5)
    host.reducer.selector.boxes[1] = torch.zeros(3, 5)
    with pytest.raises(ValueError, match=r'selector\.boxes\[1\] is \(3, 5\); give a tensor \(N, 4\)'):
        host(inputs)
    assert fine[0, 0, :3].all() and fine[1, 2, 2:].all() and fine.sum() == 6


def test_the_coarse_head_learns_where_labels_mix():
    host, inputs = build(fine=0.4, selector=dict(type='coarse', blocks=0)), images(2)
    host.train()
    optimizer = torch.optim.Adam(host.reducer.parameters(), 0.05)
    history = []
    for _ in range(30):
        state = host.forward_tokens(inputs)[1]
        loss = host.reducer.losses(state, samples((24, 40)))['loss_need']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
    boxes = [SegDataSample() for _ in range(2)]
    for sample in boxes:
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[0.0, 0, 8, 8]]))
    assert host.reducer.losses(state, boxes)['loss_need'] > 0
    with pytest.raises(ValueError, match=r"selector='coarse' learns from gt_sem_seg.*hold neither"):
        host.reducer.losses(state, [SegDataSample()])


def test_the_learned_gate_gets_the_tasks_gradient_and_keeps_its_budget():
    host, inputs = build(threshold=0.0, selector=dict(type='learned', budget=0.3)), images(2)
    plain = build(threshold=0.0, selector=dict(type='learned', budget=0.3))
    with torch.no_grad():
        expected = plain(inputs)[0]
    host.train()
    out = host(inputs)
    torch.testing.assert_close(out[0], expected, rtol=0, atol=1e-5)  # the gate is one in value
    (out[0] * torch.randn_like(out[0])).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in host.reducer.selector.layers.parameters() if p.dim() > 1)
    optimizer = torch.optim.Adam(host.reducer.parameters(), 0.02)
    for _ in range(60):
        loss = host.reducer.losses(host.forward_tokens(inputs)[1])['loss_budget']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    needs = host.forward_tokens(inputs)[1].aux[host.reducer].needs
    assert needs.sigmoid().mean().item() == pytest.approx(0.3, abs=0.05)


def test_one_model_for_many_budgets():
    host, inputs = build(fine=0.5, random=(0.1, 0.9)), images(1)
    host.train()
    counts = {tuple(host.token_counts(inputs)) for _ in range(8)}
    assert len(counts) > 3
    host.eval()
    assert len({tuple(host.token_counts(inputs)) for _ in range(8)}) == 1


# ---------------------------------------------------------------------- heads
HEAD = dict(type='mmtoken.SubPatchHead', in_channels=32, channels=32, num_classes=3, align_corners=False, in_index=0)


def segmentor(head=None, **args):
    torch.manual_seed(0)
    cfg = dict(
        type='mmtoken.TokenEncoderDecoder',
        backbone=dict(type=HOSTS['TokenDINOv2'], reducer=dict(type='mmtoken.MixedScale', **args)),
        decode_head=dict(HEAD, sub_patch=2),
        test_cfg=dict(mode='whole'),
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
    )
    return MODELS.build(cfg).eval()


@pytest.mark.parametrize('own', [False, True])
@torch.no_grad()
def test_the_head_reads_the_map_of_cells_where_they_are_coarse(own):
    head = dict(HEAD, sub_patch=4) if own else None
    net, inputs = segmentor(fine=0.4, restore='logits', coarse_head=head), images(2, (20, 36))
    got = net._forward(inputs)
    assert got.shape == (2, 3, 10, 18)
    feats, state = net.backbone.forward_tokens(inputs)
    seen = state.aux[net.backbone.reducer]
    fine, cells = seen.fine, seen.cells
    plain = net.decode_head.forward(tuple(feats))
    half = (F.avg_pool2d(feats[0], 2),)
    coarse = (net.backbone.reducer.coarse_head if own else net.decode_head).forward(half)
    if not own:
        coarse = F.interpolate(coarse, scale_factor=2, mode='bilinear')
    is_coarse = cells.lead(fine)[0].unflatten(1, (5, 9))
    for b in range(2):
        for y in range(10):
            for x in range(18):
                source = coarse if is_coarse[b, y // 2, x // 2] else plain
                torch.testing.assert_close(got[b, :, y, x], source[b, :, y, x])


def test_a_model_with_a_coarse_head_trains_and_saves_it():
    net, inputs = segmentor(fine=0.4, restore='logits', coarse_head=dict(HEAD, sub_patch=4)), images(2)
    net.train()
    losses = net.loss(inputs, samples((24, 40)))
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.backbone.reducer.coarse_head.parameters())
    assert any(key.startswith('backbone.reducer.coarse_head.') for key in net.state_dict())


def test_everything_fine_is_the_dense_model_with_any_head():
    net, dense, inputs = segmentor(fine=1.0, restore='logits'), segmentor(fine=1.0), images(2)
    with torch.no_grad():
        assert torch.equal(net._forward(inputs), dense._forward(inputs))


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    'args, message',
    [
        (dict(fine=1.5), r'fine=1\.5 must be a number in \[0, 1\]'),
        (dict(fine=True), 'fine=True'),
        (dict(fine=0.5, threshold=1.0), 'either fine or threshold'),
        (dict(threshold=float('nan')), 'threshold=nan'),
        (dict(selector='edges'), "selector='edges' is unknown; choose one of 'detail'"),
        (dict(selector=dict(type='coarse', depth=3)), 'depth'),
        (dict(selector=dict(type='coarse', blocks=-1)), r'selector\.blocks=-1'),
        (dict(selector=dict(type='learned', budget=0)), r'selector\.budget=0 must be a number in \(0, 1\]'),
        (dict(selector=dict(type='learned', budget=1.2)), r'selector\.budget=1\.2'),
        (dict(selector=dict(type='learned', width=0)), r'selector\.width=0'),
        (dict(selector=dict(type='learned', weight=-1)), r'selector\.weight=-1'),
        (dict(selector=['coarse']), r"selector=\['coarse'\] must be a name"),
        (dict(fine=float('nan')), 'fine=nan'),
        (dict(random=0.5), r'random=0\.5 must be a list with 2 entries'),
        (dict(random=(0.5, 1.5)), 'random=1.5'),
        (dict(proportional='False'), 'proportional'),
        (dict(restore='late'), "restore='late' is unknown"),
        (dict(coarse_head=HEAD), "restore='logits'"),
        (dict(random=(0.9, 0.1)), 'random'),
        (dict(threshold=1.0, random=(0.1, 0.9)), 'random'),
    ],
    ids=str,
)
def test_arguments_that_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        build_reducer(dict(type='mmtoken.MixedScale', **args))


def test_hosts_and_pictures_that_are_refused():
    with pytest.raises(ValueError, match='TokenBEiT.*half size'):
        HOSTS['TokenBEiT'](reducer=dict(type='mmtoken.MixedScale'))
    with pytest.raises(ValueError, match=r'1x3 patches, less than one cell'):
        build(fine=0.5)(images(1, (4, 12)))
    with pytest.raises(ValueError, match=r'selector\.blocks=3 must not come after the first output'):
        HOSTS['TokenDINOv2'](reducer=dict(type='mmtoken.MixedScale', selector='coarse'), out_indices=(1, 3))
    with pytest.raises(ValueError, match='put it first'):
        HOSTS['TokenDINOv2'](reducer=[dict(type='mmtoken.ToMe', r=1), dict(type='mmtoken.MixedScale')])
    net = segmentor(fine=0.5, restore='logits')
    net.decode_head = MODELS.build(dict(type='mmseg.PSPHead', in_channels=32, in_index=0, channels=16, num_classes=3))
    net.decode_head.forward = lambda feats: feats[0][:, :3, ::2]
    with pytest.raises(ValueError, match='a whole number for each patch'):
        net._forward(images(1))
