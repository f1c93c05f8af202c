"""Decomposed relative positions against one query and one key at a time; windows of the full grid against timm's."""

import pytest
import torch

from mmtoken.core import partition, unpartition
from mmtoken.core.decomposed import decomposed_bias, stretched
from mmtoken.core.ops import grid_coords

HEADS, DIMS = 2, 4


def slow_bias(q, tables, sides, centres):
    """The bias of each pair: of the query to each patch, interpolated in the table, and between those of the key."""
    out = torch.zeros(q.shape[0], HEADS, q.shape[1], q.shape[1])
    tables = [stretched(table, 2 * side - 1) for table, side in zip(tables, sides)]

    def read(table, offset, side):
        place = min(max(offset + side - 1, 0), 2 * side - 2)
        low = min(int(place), max(2 * side - 3, 0))
        return table[0] if side == 1 else table[low] + (place - low) * (table[low + 1] - table[low])

    for b in range(q.shape[0]):
        points = centres[b % len(centres)].tolist()
        for i, one in enumerate(points):
            for j, other in enumerate(points):
                for table, side, y, z in zip(tables, sides, one, other):
                    z = min(max(z, 0), side - 1)
                    for patch in range(side):
                        share = max(0, 1 - abs(z - patch))
                        out[b, :, i, j] += share * (q[b, i] @ read(table, y - patch, side))
    return out


def test_tokens_of_two_by_two_patches_have_the_mean_bias_of_their_patches():
    sides, tables = (6, 4), [torch.randn(11, DIMS), torch.randn(7, DIMS)]
    q = torch.randn(1, HEADS, 6, DIMS)
    fine = q.unflatten(2, (3, 2)).repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2, 3)
    lines = torch.arange(6.0), torch.arange(4.0)
    mean = decomposed_bias(fine, tables, sides, lines).view(1, HEADS, 3, 2, 2, 2, 3, 2, 2, 2).mean((3, 5, 7, 9))
    coarse = decomposed_bias(q, tables, sides, (torch.tensor([0.5, 2.5, 4.5]), torch.tensor([0.5, 2.5])))
    torch.testing.assert_close(coarse, mean.flatten(4).flatten(2, 3))


@pytest.mark.parametrize('sides', [(4, 4), (3, 5), (1, 6)], ids=str)
@pytest.mark.parametrize('raster', [None, (2, 3), 'full'], ids=str)
def test_bias_is_that_of_each_pair(sides, raster):
    tables = [torch.randn(7, DIMS), torch.randn(7, DIMS)]
    if raster is None:
        centres = torch.rand(2, 5, 2) * torch.tensor(sides) * 1.2 - 0.6  # some beyond the border
        given = centres
    else:
        raster = sides if raster == 'full' else (min(raster[0], sides[0]), raster[1])
        centres = grid_coords(sides, raster)
        given = (centres[0, :: raster[1], 0], centres[0, : raster[1], 1])
    q = torch.randn(4, centres.shape[1], HEADS, DIMS)
    expected = slow_bias(q, tables, sides, centres)
    torch.testing.assert_close(decomposed_bias(q.transpose(1, 2), tables, sides, given), expected, rtol=1e-4, atol=1e-4)
    if raster is not None:
        torch.testing.assert_close(
            decomposed_bias(q.transpose(1, 2), tables, sides, centres), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize('size', [4, 7])
def test_tables_are_stretched_as_timm_does(size):
    sam = pytest.importorskip('timm.models.vision_transformer_sam')
    q, tables = torch.randn(2 * HEADS, size * size, DIMS), [torch.randn(7, DIMS) for _ in range(2)]
    expected = sam.get_decomposed_rel_pos_bias(q, *tables, (size, size), (size, size))
    lines = torch.arange(size).float()
    ours = decomposed_bias(q.unflatten(0, (2, HEADS)), tables, (size, size), (lines, lines))
    torch.testing.assert_close(ours.flatten(0, 1), expected)


@pytest.mark.parametrize('grid', [(6, 4), (5, 7), (1, 2)], ids=str)
@pytest.mark.parametrize('batch', [0, 1, 2])
def test_windows_of_the_grid(grid, batch):
    sam = pytest.importorskip('timm.models.vision_transformer_sam')
    x = torch.randn(batch, grid[0] * grid[1], DIMS)
    cut = partition(x, grid, 3)
    if batch:
        assert torch.equal(cut, sam.window_partition(x.unflatten(1, grid), 3)[0].flatten(1, 2))
    assert torch.equal(unpartition(cut, grid, 3), x)
    filled = partition(x, grid, 3, fill=torch.full((batch, 1, 1, DIMS), 7.0))
    assert torch.equal(unpartition(filled, grid, 3), x)
    assert torch.equal((filled == 7).all(-1), partition(torch.ones_like(x), grid, 3).sum(-1) == 0)
