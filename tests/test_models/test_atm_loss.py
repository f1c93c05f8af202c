"""ATMLoss against its equations, one image, class and pixel at a time."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmtoken.models.heads import ATMLoss

K, SIZE = 4, (6, 10)


def by_the_equations(
    masks, classes, labels, ignore=255, absent=0.1, alpha=0.25, gamma=2.0, align_corners=False, by_class=(1,) * K
):
    """The three losses, unweighted, as plain numbers."""
    cross, weights, focal, dice, number = 0.0, 0.0, 0.0, 0.0, 0
    for mask, logit, label in zip(masks, classes, labels):
        up = F.interpolate(mask[None], label.shape, mode='bilinear', align_corners=align_corners)[0]
        for c in range(K):
            there = bool((label == c).any()) and c != ignore
            target = (0 if there else 1) if logit.shape[-1] == 2 else c if there else K
            weight = by_class[c] * (1.0 if there else absent)
            cross -= weight * float(logit[c].log_softmax(-1)[target])
            weights += weight
            if not there:
                continue
            number += 1
            total, pixels, both, ps, gs = 0.0, 0, 0.0, 0.0, 0.0
            for y in range(label.shape[0]):
                for x in range(label.shape[1]):
                    if label[y, x] == ignore:
                        continue
                    p = 1 / (1 + math.exp(-float(up[c, y, x])))
                    g = float(label[y, x] == c)
                    total -= alpha * g * (1 - p) ** gamma * math.log(p)
                    total -= (1 - alpha) * (1 - g) * p**gamma * math.log(1 - p)
                    pixels += 1
                    both, ps, gs = both + p * g, ps + p, gs + g
            focal += by_class[c] * total / pixels
            dice += by_class[c] * (1 - (2 * both + 1) / (ps + gs + 1))
    return cross / weights, focal / max(number, 1), dice / max(number, 1)


def batch(outputs, dtype=torch.double):
    """An image with ignored pixels, one of a single class, and one that is ignored altogether."""
    labels = torch.randint(0, K - 1, (3, *SIZE))
    labels[0, :2] = 255
    labels[1] = 3
    labels[2] = 255
    return (
        torch.randn(3, K, 3, 5, dtype=dtype).mul(3).requires_grad_(),
        torch.randn(3, K, outputs, dtype=dtype).requires_grad_(),
        labels,
    )


@pytest.mark.parametrize('outputs', [2, K + 1])
@pytest.mark.parametrize('align_corners', [False, True])
def test_losses_are_their_equations(outputs, align_corners):
    masks, classes, labels = batch(outputs)
    got = ATMLoss(cls_weight=0.5)(masks, classes, labels, align_corners=align_corners)
    want = by_the_equations(masks.detach(), classes.detach(), labels, align_corners=align_corners)
    assert list(got) == ['loss_cls', 'loss_mask', 'loss_dice']
    assert [v.item() for v in got.values()] == pytest.approx([0.5 * want[0], 20 * want[1], want[2]])


def test_every_constant_counts():
    masks, classes, labels = batch(2)
    constants = dict(alpha=0.4, gamma=1.5)
    got = ATMLoss(mask_weight=1.0, absent_weight=0.3, loss_weight=0.4, **constants)(masks, classes, labels)
    want = by_the_equations(masks.detach(), classes.detach(), labels, absent=0.3, **constants)
    assert [v.item() for v in got.values()] == pytest.approx([0.4 * v for v in want])


@pytest.mark.parametrize('outputs', [2, K + 1])
def test_classes_may_weigh_differently(outputs, tmp_path):
    masks, classes, labels = batch(outputs)
    by_class = [0.5, 3.0, 0.0, 2.0]
    want = by_the_equations(masks.detach(), classes.detach(), labels, by_class=by_class)
    (tmp_path / 'weights.json').write_text(str(by_class))
    for given in (by_class, str(tmp_path / 'weights.json')):
        got = ATMLoss(class_weight=given)(masks, classes, labels)
        assert [v.item() for v in got.values()] == pytest.approx([want[0], 20 * want[1], want[2]])
    for name, loss in ATMLoss(class_weight=[1] * K)(masks, classes, labels).items():
        assert torch.equal(loss, ATMLoss()(masks, classes, labels)[name])
    with pytest.raises(ValueError, match=f'class_weight has 3 entries, the model {K} classes'):
        ATMLoss(class_weight=[1, 2, 3])(masks, classes, labels)
    assert ATMLoss(class_weight=[0] * K)(masks, classes, labels)['loss_cls'] == 0


@pytest.mark.parametrize('ignore_index', [1, None])
def test_another_label_may_be_the_ignored_one_or_none(ignore_index):
    masks, classes, labels = batch(2)
    labels = torch.where(labels == 255, 1, labels)
    got = ATMLoss()(masks, classes, labels, ignore_index=ignore_index)
    want = by_the_equations(masks.detach(), classes.detach(), labels, ignore=ignore_index)
    assert [v.item() for v in got.values()] == pytest.approx([want[0], 20 * want[1], want[2]])


def test_ignored_pixels_and_absent_classes_move_no_mask():
    masks, classes, labels = batch(2)
    full = masks.detach().new_zeros(3, K, *SIZE).requires_grad_()
    losses = ATMLoss()(full, classes, labels)
    (grad,) = torch.autograd.grad(losses['loss_mask'] + losses['loss_dice'], full)
    assert not grad[0, :, :2].any() and not grad[2].any(), 'ignored pixels'
    assert not grad[1, :3].any() and grad[1, 3].all() and not grad[0, 3].any(), 'absent classes'
    assert grad[0, :3, 2:].all()


def test_a_batch_without_a_single_label_still_reaches_every_parameter():
    masks, classes, labels = batch(2)
    losses = ATMLoss()(masks, classes, torch.full_like(labels, 255))
    assert losses['loss_mask'] == losses['loss_dice'] == 0
    grads = torch.autograd.grad(sum(losses.values()), (masks, classes))
    assert not grads[0].any() and grads[1].any() and grads[1].isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_logits_lose_nothing_but_their_own_bits(dtype):
    masks, classes, labels = batch(2, torch.float32)
    masks, classes = masks.detach().mul(20).to(dtype), classes.detach().to(dtype)
    got = ATMLoss()(masks, classes, labels)
    want = ATMLoss()(masks.double(), classes.double(), labels)
    for name in got:
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name].double(), want[name], atol=1e-4, rtol=1e-4)


def test_the_number_of_masks_is_averaged_over_processes(monkeypatch):
    masks, classes, labels = batch(2)
    alone = ATMLoss()(masks, classes, labels)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: 2)
    # the other process has six masks more than this one's four: 4 + 10
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda number: number.add_(10))
    shared = ATMLoss()(masks, classes, labels)
    assert shared['loss_cls'] == alone['loss_cls']
    for name in ('loss_mask', 'loss_dice'):
        torch.testing.assert_close(shared[name] * 7, alone[name] * 4)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(mask_weight=-1), 'ATMLoss: mask_weight=-1 must be a number of at least 0'),
        (dict(alpha=1.5), r'ATMLoss: alpha=1.5 must be a number in \[0, 1\]'),
        (dict(gamma=float('nan')), 'ATMLoss: gamma=nan'),
        (dict(class_weight=[1, -1, 1, 1]), 'ATMLoss: class_weight=-1.0 must be a number of at least 0'),
    ],
)
def test_errors_say_what_would_be_right(wrong, message):
    with pytest.raises(ValueError, match=message):
        ATMLoss(**wrong)
