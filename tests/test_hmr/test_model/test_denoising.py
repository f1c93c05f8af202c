"""Denoising queries: who is who, how noisy, and who sees whom."""

import pytest
import torch

from mmtoken.hmr.model.denoising import Denoising
from mmtoken.hmr.model.people import People


def people_of(*counts):
    number = sum(counts)
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return People(
        counts=list(counts),
        image=image,
        boxes=torch.rand(number, 4) * 0.2 + 0.3,
        pose=torch.randn(number, 24, 3),
        betas=torch.randn(number, 10),
        joints=torch.randn(number, 45, 3),
        keypoints=torch.rand(number, 45, 2),
        visible=torch.ones(number, 45, dtype=torch.bool),
        has_3d=torch.ones(number, dtype=torch.bool),
        has_body=torch.ones(number, dtype=torch.bool),
        complete=torch.ones(len(counts), dtype=torch.bool),
        zoom=torch.ones(number),
    )


@pytest.fixture
def denoising():
    torch.manual_seed(0)
    return Denoising(dims=8, groups=3)


def test_positives_are_near_their_people_and_negatives_further_away(denoising):
    people = people_of(2, 0, 3)
    noisy = denoising(people, queries=4)
    assert noisy.content.shape == (3, 3 * 2 * 3, 8) and noisy.mask.shape == (3, 1, 22, 22)
    assert noisy.real.sum(1).tolist() == [12, 0, 18]
    box = people.boxes[noisy.person]
    for step, near in ((0, True), (3, False)):  # negatives of a group come after its three positives
        found = noisy.anchors[noisy.image, noisy.query + step].sigmoid()
        low = (found[:, :2] - found[:, 2:] / 2) - (box[:, :2] - box[:, 2:] / 2)
        away = low.abs() / (box[:, 2:] / 2)
        assert ((away <= 0.4 + 1e-4) if near else (away >= 0.4 - 1e-4) & (away <= 0.8 + 1e-4)).all()
    assert noisy.person.tolist() == [0, 1, 2, 3, 4] * 3 and noisy.image.tolist() == [0, 0, 2, 2, 2] * 3


def test_content_is_the_noisy_body(denoising):
    denoising.body_noise = denoising.box_noise = 0.0
    people = people_of(2)
    people.has_body[1] = False
    noisy = denoising(people, 1)
    exact = denoising.embed(torch.cat([people.pose.flatten(1), people.betas], 1))
    found = noisy.content[noisy.image, noisy.query]
    torch.testing.assert_close(found[noisy.person == 0], exact[:1].expand(3, -1))
    assert (found[noisy.person == 1] == 0).all(), 'who has no body says nothing of it'


def test_who_sees_whom(denoising):
    noisy = denoising(people_of(2, 1), queries=3)
    seen = noisy.mask[:, 0] == 0  # (2, 15, 15): three groups of four, then the model's
    assert not seen[:, 12:, :12].any() and seen[:, 12:, 12:].all() and seen[:, :12, 12:].all()
    assert seen[0, 0, :4].all() and not seen[0, 0, 4:12].any()
    assert seen[1, 0].tolist() == [True, False, True, False, *[False] * 8, *[True] * 3], 'empty slots are not seen'


def test_nobody_or_no_groups_gives_no_queries(denoising):
    assert denoising(people_of(0, 0), 3) is None
    assert Denoising(8, groups=0)(people_of(2), 3) is None
