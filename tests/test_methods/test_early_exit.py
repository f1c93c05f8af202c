"""DToP and DoViT against a slow reference, and around models: batches, sliding windows, training, bad arguments."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils._python_dispatch import TorchDispatchMode

from mmtoken.core import HostInfo, Layout, Packing
from mmtoken.engine.errors import UserError
from mmtoken.methods.dovit import DoViT
from mmtoken.methods.dtop import DToP
from mmtoken.methods.early_exit import Attention, Map, Pointwise, kind_of
from mmtoken.models.distill import Teacher
from mmtoken.registry import MODELS
from mmtoken.testing import DEPTH, PATCH, SIDE, randomize

K = 4
EXITS = (0, 2)
LINEAR = dict(type='mmseg.FCNHead', num_convs=0, channels=32, concat_input=False, num_classes=K, dropout_ratio=0)
FCN = dict(LINEAR, num_convs=1, kernel_size=1, channels=16, norm_cfg=dict(type='BN'))
CONCAT = dict(FCN, concat_input=True)
FCN3 = dict(FCN, kernel_size=3)
GROUPED = dict(FCN, norm_cfg=dict(type='GN', num_groups=4))
SETR = dict(
    type='mmseg.SETRUPHead',
    channels=16,
    num_convs=1,
    up_scale=2,
    kernel_size=1,
    num_classes=K,
    dropout_ratio=0,
    norm_cfg=dict(type='BN'),
)
ATM = dict(type='mmtoken.ATMSingleHead', channels=16, num_layers=2, num_heads=2, num_classes=K)
SEGMENTER = dict(
    type='mmseg.SegmenterMaskTransformerHead',
    channels=16,
    embed_dims=16,
    num_heads=2,
    num_layers=1,
    num_classes=K,
    dropout_ratio=0,
)
HEADS = dict(linear=LINEAR, fcn=FCN, concat=CONCAT, setr=SETR, atm=ATM)
SIZES = [(32, 32), (20, 36)]


def model(reducer, decode=LINEAR, host='TokenDINOv2', kind='TokenEncoderDecoder', seed=0, test_cfg=None, **kwargs):
    """A segmentor with random weights that matter."""
    backbone = dict(
        TokenDINOv2=dict(
            arch=dict(embed_dims=32, num_layers=DEPTH, num_heads=2),
            img_size=PATCH * SIDE,
            patch_size=PATCH,
            num_registers=2,
            layer_scale=1.0,
        ),
        TokenVisionTransformer=dict(
            embed_dims=32, num_layers=DEPTH, num_heads=2, patch_size=PATCH, img_size=PATCH * SIDE
        ),
    )[host]
    backbone = dict(type=f'mmtoken.{host}', **backbone, **kwargs.pop('backbone', {}))
    if reducer is not None:
        backbone['reducer'] = reducer
    torch.manual_seed(seed)
    built = MODELS.build(
        ConfigDict(
            type=f'mmtoken.{kind}' if kind.startswith('Token') else f'mmseg.{kind}',
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
            backbone=backbone,
            decode_head={'in_channels': 32, 'align_corners': False, **decode},
            test_cfg=test_cfg or dict(mode='whole'),
            **kwargs,
        )
    )
    randomize(built)
    for module in built.modules():
        module.training = False  # upstream's eval() returns None
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.GroupNorm)):
            torch.nn.init.uniform_(module.weight, 1, 2)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
    return built


def exits(method='DToP', head=LINEAR, **kwargs):
    return dict(type=f'mmtoken.{method}', **{**dict(heads=head, exits=EXITS, threshold=0.7), **kwargs})


def images(batch=3, size=SIZES[0], seed=1):
    pictures = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    return pictures * torch.linspace(0.3, 2, batch).view(-1, 1, 1, 1)


def metas(batch, size):
    return [dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])] * batch


@torch.no_grad()
def predict(net, inputs):
    return net.encode_decode(inputs, metas(len(inputs), tuple(inputs.shape[2:])))


def samples(inputs, classes=K, seed=3):
    labels = torch.randint(classes, (len(inputs), 1, *inputs.shape[2:]), generator=torch.Generator().manual_seed(seed))
    labels[:, :, :3] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def left_at(net, inputs):
    """The exit at which each token left ``(B, n)``; the number of exits if it never did."""
    with torch.no_grad():
        state = net.backbone.forward_tokens(inputs)[1]
    return state.aux[net.backbone.reducer].left.view(len(inputs), -1)


# ---------------------------------------------------------------------- a slow reference: one image, plain loops
def say(head, tokens):
    """What a head says of tokens ``(n, C)`` alone: logits and probabilities ``(n, K)``, and ATM's class logits."""
    kind = kind_of(head)
    if kind is Attention:
        logits, classes = head.decoder(tokens[None])
        return logits[0], classes.softmax(-1)[0, :, 0] * logits[0].sigmoid(), classes
    if hasattr(head, 'up_convs'):
        rows = head.norm(tokens)
        out = torch.cat([head.conv_seg(head.up_convs[0][0](row[None, :, None, None])) for row in rows])
    else:
        out = torch.cat([head.forward((row[None, :, None, None],)) for row in tokens])
    logits = out[:, :, 0, 0]
    return logits, logits.softmax(-1), None


@torch.no_grad()
def reference(net, image):
    """Decides token by token; gives final features ``(N, C)`` before the norm, predictions, and who left where."""
    host, reducer = net.backbone, net.backbone.reducer
    full = host.stem(image[None])
    grid, prefix = full.grid, full.num_prefix
    head_tokens, features = full.x[0, :prefix], full.x[0, prefix:].clone()
    active = list(range(len(features)))
    left, final, masks = [len(reducer.exits)] * len(features), {}, {}
    for i, block in enumerate(host.blocks):
        x, _ = host.attend(block, torch.cat([head_tokens, features[active]])[None], Layout(grid, prefix))
        x = host.mlp(block, x)[0]
        head_tokens, features[active] = x[:prefix], x[prefix:]
        if i not in reducer.exits:
            continue
        m = reducer.exits.index(i)
        head = reducer.heads[m]
        if isinstance(reducer, DoViT) and kind_of(head) is Map:
            logits = head.forward((host.out_norm(features, i).t().unflatten(1, grid)[None],))
            pooled = F.adaptive_avg_pool2d(logits.softmax(1), grid)[0].flatten(1).t()
            scores = [pooled[n] for n in active]
        elif isinstance(reducer, DoViT) and kind_of(head) is Attention:
            everyone = say(head, host.out_norm(features, i))[1]
            scores = [everyone[n] for n in active]
        else:
            logits, scores, _ = say(head, host.out_norm(features[active], i))
        done = {}
        for place, n in enumerate(active):
            best = float(scores[place].max())
            if best > reducer.points[m].threshold:
                done[n] = (best, int(scores[place].argmax()), place)
            elif isinstance(reducer, DoViT) and best < reducer.low:
                done[n] = (best, -1, place)
        if isinstance(reducer, DToP):
            for label in range(K):
                sure = sorted((-best, n) for n, (best, own, _) in done.items() if own == label)
                for _, n in sure[: reducer.keep_per_class]:
                    del done[n]
            for n, (_, _, place) in done.items():
                final[n], masks[n] = (scores if kind_of(head) is Attention else logits)[place], logits[place]
        active = [n for n in active if n not in done]
        for n in done:
            left[n] = m
        gone = [n for n in range(len(features)) if left[n] < len(reducer.exits)]
        if isinstance(reducer, DoViT) and reducer.aggregate is not None and gone:
            if len(gone) / len(features) > reducer.aggregate:
                head_tokens = head_tokens.clone()
                head_tokens[0] = (head_tokens[0] + features[gone].mean(0)) / 2
    return features, left, final, masks, active


def finished(net, image):
    """The completed output of DToP for one image ``(K, H, W)``, by loops over the reference."""
    features, _left, final, masks, active = reference(net, image)
    host, reducer, head = net.backbone, net.backbone.reducer, net.decode_head
    grid = tuple(s // PATCH for s in image.shape[1:])
    given = host.out_norm(features, DEPTH - 1)
    if kind_of(head) is Attention:
        logits, scores, classes = say(head, given[active])
        out = torch.zeros(len(features), K)
        present = classes.softmax(-1)[0, :, 0]
        for n in range(len(features)):
            if n in final:
                out[n] = final[n] if reducer.store == 'prob' else present * masks[n].sigmoid()
            else:
                out[n] = scores[active.index(n)]
        return out.t().unflatten(1, grid)
    logits = head.forward((given.t().unflatten(1, grid)[None],))[0]
    if logits.shape[1:] == grid:
        flat = logits.flatten(1).clone()
        for n, value in final.items():
            flat[:, n] = value
        return flat.unflatten(1, grid)
    coarse = F.adaptive_avg_pool2d(logits, grid).flatten(1)
    for n, value in final.items():
        coarse[:, n] = value
    fine = F.interpolate(coarse.unflatten(1, grid)[None], logits.shape[1:], mode='bilinear', align_corners=False)[0]
    scale = logits.shape[1] // grid[0]
    for n in final:
        y, x = n // grid[1] * scale, n % grid[1] * scale
        logits[:, y : y + scale, x : x + scale] = fine[:, y : y + scale, x : x + scale]
    return logits


THRESHOLDS = dict(linear=0.6, fcn=0.6, concat=0.6, setr=0.6, atm=0.3, fcn3=0.6)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('host', ['TokenDINOv2', 'TokenVisionTransformer'])
@pytest.mark.parametrize('name', HEADS)
def test_dtop_does_what_the_loops_do(name, host, size):
    decode = ATM if name == 'atm' else SETR if name == 'setr' else LINEAR
    net = model(exits('DToP', HEADS[name], threshold=THRESHOLDS[name], keep_per_class=2), decode, host)
    inputs = images(3, size)
    expected = torch.stack([finished(net, image) for image in inputs])
    left = left_at(net, inputs)
    assert left.tolist() == [reference(net, image)[1] for image in inputs]
    assert (left == 0).sum() > 0 and (left == len(EXITS)).sum() > 0
    with torch.no_grad():
        feats = net.extract_feat(inputs)
        got = net._forward(inputs)
    assert torch.allclose(got, expected, atol=2e-5)
    want = torch.stack([net.backbone.out_norm(reference(net, image)[0], DEPTH - 1) for image in inputs])
    assert torch.allclose(feats[-1].flatten(2).transpose(1, 2), want, atol=2e-5)


@pytest.mark.parametrize('name', [*HEADS, 'fcn3'])
@pytest.mark.parametrize('extra', [dict(), dict(low=0.4), dict(aggregate=0.2)], ids=['plain', 'low', 'aggregate'])
def test_dovit_does_what_the_loops_do(name, extra):
    head = dict(HEADS, fcn3=FCN3)[name]
    if name == 'atm' and 'low' in extra:
        extra = dict(low=0.1)
    net = model(exits('DoViT', head, threshold=THRESHOLDS[name], **extra), SEGMENTER)
    inputs = images(3, SIZES[1])
    runs = [reference(net, image) for image in inputs]
    left = left_at(net, inputs)
    assert left.tolist() == [run[1] for run in runs]
    assert (left == 0).any() and (left > 0).any()
    with torch.no_grad():
        feats = net.extract_feat(inputs)
    want = torch.stack([net.backbone.out_norm(run[0], DEPTH - 1) for run in runs])
    assert torch.allclose(feats[-1].flatten(2).transpose(1, 2), want, atol=2e-5)


@pytest.mark.parametrize('store', ['prob', 'logits'])
def test_what_is_stored_of_attention_to_mask(store):
    net = model(exits('DToP', ATM, threshold=0.3, keep_per_class=2, store=store), ATM)
    inputs = images()
    got = net._forward(inputs)
    assert torch.allclose(got, torch.stack([finished(net, image) for image in inputs]), atol=1e-5)
    other = copy.deepcopy(net)
    other.backbone.reducer.store = dict(prob='logits', logits='prob')[store]
    assert not torch.allclose(got, other._forward(inputs), atol=1e-3)


def test_context_tokens_stand_for_those_of_their_class():
    """Tokens that are equal may be replaced by one of them that weighs as much: the features are the dense model's."""
    halves = torch.zeros(1, 3, *SIZES[0])
    halves[..., :12] = 1.5  # of two colours, in unequal parts
    for proportional in (True, False):
        net = model(
            exits('DToP', LINEAR, exits=(0,), threshold=0.0, keep_per_class=1, proportional=proportional),
            backbone=dict(out_indices=(0, 3)),
        )
        reducer = net.backbone.reducer
        with torch.no_grad():
            net.backbone.pos_embed.zero_()
            reducer.points = [replace(point, threshold=1) for point in reducer.points]
            first, dense = (x.flatten(2).transpose(1, 2) for x in net.backbone(halves))
            head = reducer.heads[0].conv_seg  # tells the colours apart
            head.weight.zero_()
            head.bias.zero_()
            head.weight[0, :, 0, 0] = first[0, 0] - first[0, -1]
            head.weight[1] = -head.weight[0]
            reducer.points = [replace(point, threshold=0) for point in reducer.points]
            state = net.backbone.forward_tokens(halves)[1]
            feats = net.backbone(halves)[1].flatten(2).transpose(1, 2)
        still = state.aux[reducer].left.view(1, -1) == 1
        assert still.sum() == 2
        assert torch.allclose(feats[still], dense[still], atol=1e-5) == proportional
        if proportional:
            assert state.sizes.tolist() == [24, 40]


# ---------------------------------------------------------------------- exactness
METHODS = [
    ('DToP', LINEAR, LINEAR),
    ('DToP', FCN, SETR),
    ('DToP', LINEAR, SEGMENTER),
    ('DToP', ATM, ATM),
    ('DoViT', LINEAR, SEGMENTER),
    ('DoViT', GROUPED, SEGMENTER),
    ('DoViT', FCN3, SETR),
]
IDS = ['DToP-linear', 'DToP-SETR', 'DToP-Segmenter', 'DToP-ATM', 'DoViT-Segmenter', 'DoViT-GN', 'DoViT-SETR']
LOW = {'DToP-ATM': 0.3, 'DoViT-SETR': 0.8, 'DoViT-GN': 0.75}
CASES = [pytest.param(*case, LOW.get(name, 0.6), id=name) for case, name in zip(METHODS, IDS)]


@pytest.mark.parametrize('method, head, decode, threshold', CASES)
def test_nothing_leaves_and_nothing_changes(method, head, decode, threshold):
    """Neither at 1, where heads do not run, nor at a threshold that no token passes."""
    inputs = images(2, SIZES[1])
    dense = predict(model(None, decode), inputs)
    for never in (1.0, 0.9999999):
        net = model(exits(method, head, threshold=never), decode)
        net.load_state_dict(model(None, decode).state_dict(), strict=False)
        assert torch.equal(predict(net, inputs), dense)
        assert (left_at(net, inputs) == len(EXITS)).all()


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('method, head, decode, threshold', CASES)
def test_a_batch_is_its_images(method, head, decode, threshold, size):
    extra = dict(keep_per_class=1) if method == 'DToP' else dict(aggregate=0.05)
    net = model(exits(method, head, threshold=threshold, **extra), decode)
    inputs = images(4, size)
    counts = (left_at(net, inputs) == len(EXITS)).sum(1)
    assert len(set(counts.tolist())) > 1, 'the images must differ in their token counts'
    together = predict(net, inputs)
    alone = torch.cat([predict(net, image[None]) for image in inputs])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, predict(model(None, decode), inputs), atol=1e-3)


@pytest.mark.parametrize('method, head, decode, threshold', CASES)
def test_sliding_windows_flips_and_scales(method, head, decode, threshold):
    slide = dict(mode='slide', crop_size=(24, 32), stride=(16, 16))
    net = model(exits(method, head, threshold=threshold), decode, test_cfg=slide)
    inputs = images(2, (40, 52))
    got = net.slide_inference(inputs, metas(2, (40, 52)))
    total, count = torch.zeros(2, K, 40, 52), torch.zeros(40, 52)
    for y in (0, 16):
        for x in (0, 16, 20):
            total[:, :, y : y + 24, x : x + 32] += predict(net, inputs[:, :, y : y + 24, x : x + 32])
            count[y : y + 24, x : x + 32] += 1
    assert torch.allclose(got, total / count, atol=1e-5)
    for view in (inputs.flip(3), F.interpolate(inputs, scale_factor=1.5)):
        assert predict(net, view).isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('method, head, decode, threshold', CASES)
def test_precision(method, head, decode, threshold, dtype):
    net, inputs = model(exits(method, head, threshold=threshold), decode), images()
    if dtype == torch.float64:
        doubled = predict(copy.deepcopy(net).double(), inputs.double())
        assert doubled.dtype == dtype and torch.allclose(doubled.float(), predict(net, inputs), atol=1e-4)
        return
    with torch.autocast('cpu', dtype=dtype):
        got = predict(net, inputs)
        losses = net.train().loss(inputs, samples(inputs))
    assert got.isfinite().all()
    assert all(value.isfinite().all() for value in losses.values())
    sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


class HostReads(TorchDispatchMode):
    """Counts operators whose result the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket._qualified_op_name.removeprefix('aten::')
        by_mask = name in ('index', 'index_put', 'index_put_') and any(
            t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]
        )
        unknown = name == 'repeat_interleave' and (kwargs or {}).get('output_size') is None
        if by_mask or unknown or name in ('nonzero', '_local_scalar_dense', 'masked_select', 'unique', 'equal'):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('method, head, decode, threshold', CASES)
def test_the_host_waits_once_an_exit(method, head, decode, threshold, monkeypatch):
    net, inputs, looks = model(exits(method, head, threshold=threshold), decode), images(), []
    start = Packing.__init__

    def counted(self, lengths, sizes=None):
        looks.extend([1] if sizes is None else [])
        start(self, lengths, sizes)

    monkeypatch.setattr(Packing, '__init__', counted)
    with torch.no_grad(), HostReads() as reads:
        predict(net, inputs)
    assert not reads.seen
    assert len(looks) == len(EXITS)


def test_tokens_that_all_leave():
    """No context and no prefix: blocks run on nothing, an image with tokens beside one without."""
    host = dict(host='TokenVisionTransformer', backbone=dict(with_cls_token=False))
    for head, decode in ((LINEAR, LINEAR), (ATM, ATM)):
        net = model(exits('DToP', head, threshold=0.0, keep_per_class=0), decode, **host)
        inputs = images(2)
        assert (left_at(net, inputs) == 0).all()
        alone = torch.cat([predict(net, image[None]) for image in inputs])
        assert torch.allclose(predict(net, inputs), alone, atol=1e-6)


def test_exits_behind_a_coarser_grid():
    """Predictions finalised on pooled tokens come back through the pooling."""
    pool = dict(type='mmtoken.AvgPool', layer=0, grid=0.5, mode='nearest')
    net = model([pool, exits('DToP', LINEAR, threshold=0.0, keep_per_class=0)])
    inputs = images(2)
    out = net._forward(inputs)
    assert out.shape == (2, K, SIDE, SIDE)
    assert torch.equal(out, out[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))
    tokens = model(pool).backbone.forward_tokens(inputs)[1]
    assert tokens.patches.shape[1] == SIDE * SIDE // 4


def test_auxiliary_heads_that_stay_are_left_alone():
    """Only what the decode head says is completed; heads given explicitly leave the others where they are."""
    aux = {'in_channels': 32, 'align_corners': False, **LINEAR, 'in_index': 0}
    net = model(
        exits('DToP', LINEAR, threshold=0.3),
        dict(LINEAR, in_index=1),
        auxiliary_head=aux,
        backbone=dict(out_indices=(1, 3)),
    ).train()
    inputs = images()
    losses = net.loss(inputs, samples(inputs))
    assert net.with_auxiliary_head and not net.moved
    own = net.auxiliary_head.loss(net.extract_feat(inputs), samples(inputs), None)
    assert torch.equal(losses['aux.loss_ce'], own['loss_ce'])


@pytest.mark.parametrize('host', ['TokenDINOv2', 'TokenVisionTransformer'])
def test_stochastic_depth_drops_images_not_tokens(host):
    """Also where the batch is packed: of each image a branch is left out as a whole."""
    net = model(
        exits('DoViT', LINEAR, threshold=0.5, exits=(0,)), SEGMENTER, host, backbone=dict(drop_path_rate=0.9)
    ).train()
    seen = []
    for block in net.backbone.blocks[1:]:
        for module in block.modules():
            if 'DropPath' in type(module).__name__:
                module.register_forward_hook(lambda m, args, out: seen.append((args[0].detach(), out.detach())))
    inputs = images(8)
    state = net.backbone.forward_tokens(inputs)[1]
    assert state.packing is not None and seen
    dropped = []
    for before, after in seen:
        assert before.dim() == 2
        for branch in after.split(state.packing.sizes):
            gone = (branch == 0).all(-1)
            assert gone.all() or not gone.any()
            dropped.append(bool(gone.all()))
    assert any(dropped) and not all(dropped)


@pytest.mark.parametrize('train', [False, True])
def test_tokens_are_given_back_when_a_pass_is_over(train):
    """Without waiting for Python's garbage collector."""
    net = model(exits('DToP', LINEAR, threshold=0.5, keep_per_class=0))
    net.train(train)
    gc.collect()
    gc.disable()
    try:
        with torch.set_grad_enabled(train):
            state = net.backbone.forward_tokens(images())[1]
        saved = [weakref.ref(reduction.restore.saved[0]) for reduction in state.trail]
        assert len(saved) == 2
        del state
        assert all(ref() is None for ref in saved)
    finally:
        gc.enable()


# ---------------------------------------------------------------------- training
@pytest.mark.parametrize('method, head, decode, threshold', CASES)
def test_training_reaches_every_parameter_and_learns(method, head, decode, threshold):
    net = model(exits(method, head, threshold=threshold), decode).train()
    inputs = images(4)
    targets = samples(inputs)
    for sample in targets:  # something to learn: left is 0, right is 1
        label = sample.gt_sem_seg.data
        label[...] = (torch.arange(label.shape[-1]) >= 16).long()
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    history = []
    for _ in range(12):
        losses = net.loss(inputs, targets)
        names = {name.split('.')[1] for name in losses if name.startswith('reducer.')}
        assert names == {'exit0', 'exit2'} and any(name.startswith('decode.') for name in losses)
        total = sum(value.sum() for name, value in losses.items() if 'loss' in name)
        optimiser.zero_grad()
        total.backward()
        assert all(p.grad is not None for p in net.parameters())
        optimiser.step()
        history.append(float(total))
    assert history[-1] < 0.7 * history[0], history


def test_dtop_supervises_final_predictions_together_with_new_ones():
    """The second exit's loss is that of its head on active tokens and of the first head on pruned ones."""
    net = model(exits('DToP', LINEAR, threshold=0.6, keep_per_class=1)).train()
    inputs = images()
    targets = samples(inputs)
    losses = net.loss(inputs, targets)
    state = net.backbone.forward_tokens(inputs)[1]
    record = state.aux[net.backbone.reducer]
    first, second = (output for _, output in record.stages)
    gone = (record.left == 0).view(3, 1, SIDE, SIDE).expand_as(first)
    assert gone.any() and not gone.all()
    assert torch.equal(second[gone], first[gone]) and not torch.equal(second[~gone], first[~gone])
    labels = torch.stack([sample.gt_sem_seg.data for sample in targets]).squeeze(1)
    up = F.interpolate(second, inputs.shape[2:], mode='bilinear')
    assert torch.allclose(
        losses['reducer.exit2.loss_ce'], F.cross_entropy(up, labels, ignore_index=255, reduction='sum') / labels.numel()
    )


def test_dovit_supervises_every_token_at_every_exit():
    net = model(exits('DoViT', LINEAR, threshold=0.6)).train()
    inputs = images()
    state = net.backbone.forward_tokens(inputs)[1]
    record = state.aux[net.backbone.reducer]
    assert (record.left == 0).any()
    restore = state.trail[0].restore  # what the second head saw of the tokens that left at the first exit
    others = torch.zeros(len(restore.index) - len(restore.saved[0]), 32)
    saved = restore.full(others, net.backbone.num_prefix)
    said = net.backbone.reducer.heads[1].conv_seg.weight.flatten(1) @ net.backbone.out_norm(saved, 2).transpose(1, 2)
    gone = (record.left == 0).view(3, -1)
    second = (record.stages[1][1] - net.backbone.reducer.heads[1].conv_seg.bias.view(1, -1, 1, 1)).flatten(2)
    assert torch.allclose(second.transpose(1, 2)[gone], said.transpose(1, 2)[gone], atol=1e-5)


def test_the_threshold_falls_with_the_training_loop(monkeypatch):
    """The iteration is mmengine's own, so that a resumed run goes on where the threshold was."""
    net = model(exits('DoViT', LINEAR, threshold=(0.6, 0.4), anneal_iters=4))
    reducer = net.backbone.reducer
    limits = lambda: [reducer.limit(point) for point in reducer.points]  # noqa: E731
    assert limits() == [0.6, 0.4]
    net.train()
    hub = MessageHub('loop')
    monkeypatch.setattr(MessageHub, 'get_current_instance', lambda: hub)
    seen = []
    for n in range(6):
        hub.update_info('iter', n)
        hub.update_info('max_iters', 6)
        net.loss(images(2), samples(images(2)))
        seen.append(limits())
        assert reducer.iteration == n and reducer.progress == n / 6
    assert torch.allclose(
        torch.tensor(seen), torch.tensor([[1 - min(1, n / 4) * (1 - t) for t in (0.6, 0.4)] for n in range(6)])
    )
    net.eval()
    assert limits() == [0.6, 0.4]


def test_checkpoints_that_hold_the_iteration_still_load():
    net = model(exits('DoViT', LINEAR, threshold=(0.6, 0.4), anneal_iters=4))
    state = {**net.state_dict(), 'backbone.reducer.iteration': torch.tensor(6)}
    assert net.load_state_dict(state) and 'backbone.reducer.iteration' not in net.state_dict()


def test_a_teacher_adds_its_losses_and_nothing_else(tmp_path):
    dense = model(None)
    torch.save(dict(state_dict=dense.state_dict()), tmp_path / 'dense.pth')
    teacher = dict(checkpoint=str(tmp_path / 'dense.pth'), tau=2.0, logit_weight=3.0, feature_weight=0.25)
    net = model(exits('DoViT', LINEAR, threshold=1.0), teacher=teacher)
    net.load_state_dict(dense.state_dict(), strict=False)
    inputs = images(2)
    targets = samples(inputs)
    losses = net.loss(inputs, targets)
    assert losses['teacher.loss_logits'] < 1e-6 and losses['teacher.loss_features'] == 0
    assert not any('teacher' in name for name in [*net.state_dict(), *dict(net.named_parameters())])

    student = model(exits('DoViT', LINEAR, threshold=0.6), teacher=teacher, seed=7)
    losses = student.loss(inputs, targets)
    (goal_map,), (own_map,) = dense.extract_feat(inputs), student.extract_feat(inputs)
    t, s = ((m.decode_head.forward((x,)) / 2).softmax(1) for m, x in ((dense, goal_map), (student, own_map)))
    divergence = (t * (t.log() - s.log())).sum(1).mean() * 4
    assert torch.allclose(losses['teacher.loss_logits'], 3 * divergence, atol=1e-5)
    assert torch.allclose(losses['teacher.loss_features'], 0.25 * (goal_map - own_map).square().mean(), rtol=1e-4)
    losses['teacher.loss_logits'].backward()
    assert student.decode_head.conv_seg.weight.grad.abs().sum() > 0
    again = copy.deepcopy(student)  # as an exponential moving average does
    assert again.teacher.model is None and student.teacher.model is not None
    with pytest.raises(UserError, match=r'model\.teacher: checkpoint not found: nowhere\.pth'):
        model(exits('DoViT'), teacher=dict(checkpoint='nowhere.pth')).loss(inputs, targets)
    key = 'decode_head.conv_seg.bias'
    for change, words in [
        ({'backbone.cls_token': None}, r'does not fit .* backbone\.cls_token is missing'),
        ({key: torch.zeros(9)}, f'does not fit .* {key}'),
        ({key: torch.full_like(dense.state_dict()[key], torch.nan)}, f'{key} that are not finite'),
        ({'decode_head.more': torch.zeros(1)}, r'does not fit .* decode_head\.more is unknown'),
    ]:
        state = {name: value for name, value in {**dense.state_dict(), **change}.items() if value is not None}
        torch.save(dict(state_dict=state), tmp_path / 'other.pth')
        other = model(exits('DoViT'), teacher=dict(checkpoint=str(tmp_path / 'other.pth')))
        with pytest.raises(UserError, match=f'model.teacher: checkpoint .*other.pth .*{words}') as error:
            other.teacher.prepare()
        assert '\n' not in str(error.value)
    with pytest.raises(ValueError, match='gives no map of logits'):
        model(exits('DToP', ATM), ATM, teacher=teacher).train().loss(inputs, targets)


@pytest.mark.parametrize('classes, sigmoid', [(1, True), (3, True), (3, False)])
def test_a_sigmoid_head_learns_each_channel_by_itself(classes, sigmoid):
    goal, ours = (torch.randn(2, classes, 4, 5, dtype=torch.double) for _ in range(2))
    head = dict(in_channels=4, channels=4, num_convs=0, concat_input=False, num_classes=max(2, classes))
    loss = dict(type='CrossEntropyLoss', use_sigmoid=sigmoid)
    head = MODELS.build(
        dict(
            head, type='mmseg.FCNHead', out_channels=classes, threshold=0.5 if classes == 1 else None, loss_decode=loss
        )
    )
    feats = (torch.zeros(2, 4, 4, 5),)
    head.forward = lambda _: goal

    class Dense(torch.nn.Module):
        decode_head = head
        extract_feat = staticmethod(lambda images: feats)

    teacher = Teacher(None, 'dense.pth', tau=2.0)
    teacher.model = Dense()
    ours.requires_grad_()
    got = teacher.losses(torch.zeros(1), feats, ours)['loss_logits']
    t, s = ((one / 2).sigmoid() if sigmoid else (one / 2).softmax(1) for one in (goal, ours))
    pairs = [(t, s), (1 - t, 1 - s)] if sigmoid else [(t, s)]
    want = 4 * sum(p * (p / q).log() for p, q in pairs).sum(1).mean()
    assert torch.allclose(got.double(), want, atol=1e-5) and got > 0.1
    assert torch.autograd.grad(got, ours)[0].abs().min() > 0


@pytest.mark.parametrize('method', ['DToP', 'DoViT'])
def test_frozen_exit_heads_decide_as_they_did(method):
    """They have no losses and no gradients, and batch norms do not move: the features are the picture's alone."""
    net = model(exits(method, FCN, threshold=0.6, frozen=True), LINEAR)
    inputs = images()
    before, feats = copy.deepcopy(net.backbone.reducer.state_dict()), net.backbone(inputs)
    net.train()
    losses = net.loss(inputs, samples(inputs))
    assert all(name.startswith('decode.') for name in losses)
    losses['decode.loss_ce'].backward()
    assert all(p.grad is None for p in net.backbone.reducer.parameters())
    assert net.decode_head.conv_seg.weight.grad.abs().sum() > 0
    assert all(torch.equal(before[k], v) for k, v in net.backbone.reducer.state_dict().items())
    net.backbone.eval()
    assert torch.equal(feats[0], net.backbone(inputs)[0])
    if method == 'DToP':
        attention = model(exits('DToP', ATM, threshold=0.3, frozen=True), ATM).train()
        with pytest.raises(ValueError, match='train the exit heads too'):
            attention.loss(inputs, samples(inputs))


# ---------------------------------------------------------------------- auxiliary heads become exits
def setr_pair(method, aux=SETR, seed=0, **kwargs):
    """A stock model with auxiliary heads on blocks 0 and 2, and an accelerated one of the same config."""
    heads = [{'in_channels': 32, 'align_corners': False, **aux, 'in_index': i} for i in (0, 1)]
    config = dict(
        decode=dict(SETR, in_index=2),
        auxiliary_head=heads,
        host='TokenVisionTransformer',
        backbone=dict(out_indices=(0, 2, 3)),
    )
    stock = model(None, kind='EncoderDecoder', seed=seed, **config)
    return stock, model(dict(type=f'mmtoken.{method}', **kwargs), seed=seed + 1, **config)


@pytest.mark.parametrize('method', ['DToP', 'DoViT'])
def test_exits_come_from_the_auxiliary_heads_of_a_stock_checkpoint(method, tmp_path):
    stock, net = setr_pair(method, threshold=0.5)
    assert net.backbone.reducer.exits == (0, 2) and not net.with_auxiliary_head
    report = net.load_state_dict(stock.state_dict())
    assert not report.missing_keys and not report.unexpected_keys
    for i, head in enumerate(net.backbone.reducer.heads):
        own, theirs = head.state_dict(), stock.auxiliary_head[i].state_dict()
        assert own.keys() == theirs.keys() and all(torch.equal(own[k], theirs[k]) for k in own)
    again = setr_pair(method, seed=3, threshold=0.5)[1]
    again.load_state_dict(net.state_dict())
    assert torch.equal(predict(net, images()), predict(again, images()))
    # mmengine has a loader of its own, and wrappers around the model
    torch.save(dict(state_dict=stock.state_dict()), tmp_path / 'stock.pth')
    wrapped = MODELS.build(dict(type='mmseg.SegTTAModel', module=setr_pair(method, seed=4, threshold=0.5)[1]))
    load_checkpoint(wrapped, str(tmp_path / 'stock.pth'), strict=True)
    assert torch.equal(predict(net, images()), predict(wrapped.module, images()))


def test_an_exit_says_what_the_auxiliary_head_says():
    """With one convolution, upsampling after the classifier is the same as between."""
    stock, net = setr_pair('DToP', threshold=0.0, keep_per_class=0)
    net.load_state_dict(stock.state_dict())
    inputs = images(2, SIZES[1])
    with torch.no_grad():
        maps = stock.extract_feat(inputs)
        assert torch.allclose(
            predict(net, inputs),
            F.interpolate(stock.auxiliary_head[0].forward(maps), inputs.shape[2:], mode='bilinear'),
            atol=1e-4,
        )


def test_exits_choose_among_the_auxiliary_heads():
    stock, net = setr_pair('DoViT', exits=[2], threshold=0.5)
    assert net.backbone.reducer.sources == [1]
    net.load_state_dict(stock.state_dict(), strict=False)
    own, theirs = net.backbone.reducer.heads[0].state_dict(), stock.auxiliary_head[1].state_dict()
    assert all(torch.equal(own[k], theirs[k]) for k in own)
    with pytest.raises(ValueError, match=r'exits=\[1\]: no head was made for block 1; there are heads for \[0, 2\]'):
        setr_pair('DoViT', exits=[1])


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    'args, message',
    [
        (dict(threshold=1.2), r'threshold=1\.2 must be a number in \[0, 1\]'),
        (dict(threshold=(0.9, -0.1)), r'threshold=.*\[0, 1\]'),
        (dict(threshold=(0.9, 0.8, 0.7)), r'threshold has 3 entries for 2 exits'),
        (dict(exits=(0, 1, 2, 3)), r'exits=\[0, 1, 2, 3\] goes beyond the blocks 0 to 2'),
        (dict(exits=(2, 0)), r'exits=\[2, 0\].*rising'),
        (dict(exits=5), r'exits=5 must be a list'),
        (dict(exits=None), r'exits is missing'),
        (dict(exits=None, heads=[LINEAR, LINEAR]), r'exits is missing'),
        (dict(heads=dict(LINEAR, input_transform='multiple_select')), r'leave input_transform'),
        (dict(heads=dict(ATM, deep_supervision=True)), r'leave input_transform and deep_supervision out'),
        (dict(heads=None), r"heads is missing.*TokenEncoderDecoder'.*auxiliary_head"),
        (dict(heads=[LINEAR]), r'heads has 1 entries for 2 exits'),
        (dict(heads=[LINEAR, dict(LINEAR, num_classes=3)]), r'different numbers of classes: \[3, 4\]'),
        (dict(heads=dict(LINEAR, num_classes=7)), r'predict 7 classes and decode_head 4'),
        (dict(heads=dict(LINEAR, num_classes=2, out_channels=1, threshold=0.3)), r'two or more classes'),
    ],
)
@pytest.mark.parametrize('method', ['DToP', 'DoViT'])
def test_bad_arguments_are_one_line(method, args, message):
    with pytest.raises(ValueError, match=message) as caught:
        model(exits(method, **args))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'args, message',
    [
        (dict(head=FCN3), r'FCNHead reads other tokens.*kernel_size=1'),
        (dict(head=SEGMENTER), r'SegmenterMaskTransformerHead reads other tokens'),
        (dict(head=ATM), r'ATMSingleHead does not go with decode_head FCNHead'),
        (dict(keep_per_class=-1), r'keep_per_class=-1'),
        (dict(store='mask'), r"store='mask' is unknown; choose one of 'prob', 'logits'"),
        (dict(store='logits'), r"store='logits' is about the mask logits of ATMSingleHead"),
        (dict(head=GROUPED), r'FCNHead reads other tokens'),
    ],
)
def test_bad_arguments_of_dtop(args, message):
    with pytest.raises(ValueError, match=message):
        model(exits('DToP', **args))


@pytest.mark.parametrize(
    'args, message',
    [
        (dict(low=0.8), r'low=0\.8 must lie between 0 and threshold=0\.7'),
        (dict(anneal_iters=0), r'anneal_iters=0'),
        (dict(anneal_iters=10, frozen=True), r'anneal_iters=10 anneals while exit heads are trained'),
        (dict(aggregate=1.0), r'aggregate=1\.0'),
    ],
)
def test_bad_arguments_of_dovit(args, message):
    with pytest.raises(ValueError, match=message):
        model(exits('DoViT', **args))


def test_models_that_do_not_go_with_a_method():
    with pytest.raises(ValueError, match=r"DToP has final predictions.*model\.type='mmtoken\.TokenEncoderDecoder'"):
        model(exits('DToP'), kind='EncoderDecoder').extract_feat(images(1))
    stock = model(exits('DoViT'), kind='EncoderDecoder')
    stock.extract_feat(images(1))
    with pytest.raises(ValueError, match=r"losses of its own; set model\.type='mmtoken\.TokenEncoderDecoder'"):
        stock.train().loss(images(1), samples(images(1)))
    with pytest.raises(ValueError, match=r'aggregate=0\.1 needs a class token'):
        model(exits('DoViT', aggregate=0.1), host='TokenVisionTransformer', backbone=dict(with_cls_token=False))
    with pytest.raises(ValueError, match='equally many tokens in each image'):
        model([exits('DoViT', threshold=0.5), exits('DoViT', exits=(1,), threshold=0.5)]).backbone(images())
    with pytest.raises(ValueError, match='two of the methods finish'):
        model([exits('DToP'), exits('DToP')])
    with pytest.raises(ValueError, match=r'in_index point there'):
        model(exits('DToP', ATM), dict(ATM, in_index=0), backbone=dict(out_indices=(1, 3)))
    with pytest.raises(ValueError, match=r'heads is missing.*without a neck'):
        neck = dict(type='mmseg.MultiLevelNeck', in_channels=[32, 32], out_channels=32, scales=[1, 1])
        model(
            dict(type='mmtoken.DoViT'),
            dict(LINEAR, in_index=1),
            backbone=dict(out_indices=(1, 3)),
            neck=neck,
            auxiliary_head={'in_channels': 32, 'align_corners': False, **LINEAR, 'in_index': 0},
        )
    pool = dict(type='mmtoken.AvgPool', layer=0, grid=0.5, restore_at=2)
    for blocks in ((0,), (0, 2)):
        with pytest.raises(ValueError, match='another method reduces or restores tokens after the first exit'):
            predict(model([pool, exits('DToP', exits=blocks, threshold=0.3)]), images())
    with pytest.raises(ValueError, match='reads neighbouring tokens, and a method before'):
        model([dict(type='mmtoken.ToMe', r=3, layers=[0]), exits('DoViT', FCN3)]).backbone(images())


def test_kinds_of_heads():
    host = HostInfo(depth=4, embed_dims=32, num_heads=2, out_indices=(3,))
    for head, kind in (
        (LINEAR, Pointwise),
        (CONCAT, Pointwise),
        (SETR, Pointwise),
        (dict(SETR, kernel_size=3), Map),
        (FCN3, Map),
        (SEGMENTER, Map),
        (ATM, Attention),
    ):
        reducer = DoViT(head, exits=[1])
        reducer.bind(host)
        assert [point.kind for point in reducer.points] == [kind]
