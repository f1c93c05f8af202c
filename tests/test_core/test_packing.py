"""The rows of a ragged batch against plain loops."""

import pytest
import torch

from mmtoken.core import Packing

SIZES = [3, 0, 5, 1]


@pytest.fixture
def packing():
    return Packing(torch.tensor(SIZES))


def test_rows_know_their_image_and_place(packing):
    assert (packing.sizes, packing.total, packing.longest, len(packing)) == (SIZES, 9, 5, 4)
    assert packing.image.tolist() == [b for b, size in enumerate(SIZES) for _ in range(size)]
    assert packing.place.tolist() == [i for size in SIZES for i in range(size)]
    assert packing.ends.tolist() == [0, 3, 3, 8, 9]
    assert packing.valid.tolist() == [[i < size for i in range(5)] for size in SIZES]


def test_padding_and_back(packing):
    x = torch.randn(9, 2, 3, requires_grad=True)
    padded = packing.pad(x)
    assert padded.shape == (4, 5, 2, 3)
    for b, image in enumerate(x.split(SIZES)):
        assert torch.equal(padded[b, : SIZES[b]], image) and not padded[b, SIZES[b] :].any()
    assert torch.equal(packing.unpad(padded), x)
    packing.unpad(padded * 2).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2))


def test_rows_without_the_prefix():
    packing = Packing(torch.tensor([3, 2, 5]))
    assert packing.rows_from(2).tolist() == [2, 7, 8, 9]
    assert packing.rows_from(0).tolist() == list(range(10))


def test_a_packing_is_made_once(packing):
    assert Packing.of(packing) is packing
    assert Packing.of(packing.lengths).sizes == SIZES


def test_an_empty_batch():
    packing = Packing(torch.tensor([0, 0]))
    assert packing.pad(torch.randn(0, 4)).shape == (2, 0, 4)
    assert packing.unpad(torch.randn(2, 0, 4)).shape == (0, 4)
