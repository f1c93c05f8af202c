"""Tiles of centres and tokens against plain loops."""

import pytest
import torch

from mmtoken.methods.expedit.tiles import Tiles, tile_shape

CASES = [  # raster, grid
    ((6, 6), (3, 3)),
    ((9, 12), (6, 8)),  # cells of one token and of two
    ((13, 7), (11, 5)),
    ((12, 4), (9, 1)),
    ((5, 5), (5, 5)),
    ((1, 3), (1, 1)),
]


def pairs(raster, grid, window):
    """Each token with each of its candidates, by their numbers and that of the candidate in the window."""
    for y in range(raster[0]):
        for x in range(raster[1]):
            for k in range(window * window):
                i = y * grid[0] // raster[0] + k // window - window // 2
                j = x * grid[1] // raster[1] + k % window - window // 2
                if 0 <= i < grid[0] and 0 <= j < grid[1]:
                    yield y * raster[1] + x, i * grid[1] + j, k


@pytest.mark.parametrize('window', [1, 3, 5, 9])
@pytest.mark.parametrize('raster, grid', CASES)
def test_tiles_hold_each_pair_of_a_token_and_its_candidate_once(raster, grid, window):
    tiles = Tiles(raster, grid, window, torch.device('cpu'))
    assert tiles.shape == tile_shape(raster, grid, window)
    tokens, centres = torch.arange(raster[0] * raster[1]) + 1.0, torch.arange(grid[0] * grid[1]) + 1.0
    in_tiles, places = tiles.tokens(tokens[None, :, None]), tiles.centres(centres[None, :, None])
    assert torch.equal(tiles.grid(places)[0, :, 0], centres)
    number = 1000 * in_tiles.transpose(-1, -2) + places  # tells both of a pair
    expected = torch.full((len(tokens), window * window), -1.0)
    for token, centre, k in pairs(raster, grid, window):
        expected[token, k] = 1000 * tokens[token] + centres[centre]
    found = tiles.by_token(number, -1.0)
    assert torch.equal(found[0], expected)
    back = tiles.by_tile(found)
    assert torch.equal(back, torch.where(back > 0, number, 0.0))
    assert sorted(back[back > 0].tolist()) == sorted(expected[expected > 0].tolist())


def test_tiles_of_a_batch_are_those_of_its_images():
    tiles = Tiles((9, 12), (6, 8), 5, torch.device('cpu'))
    x, centres = torch.randn(3, 108, 4), torch.randn(3, 48, 4)
    scores = tiles.centres(centres) @ tiles.tokens(x).transpose(-1, -2)
    for b in range(3):
        alone = tiles.centres(centres[b : b + 1]) @ tiles.tokens(x[b : b + 1]).transpose(-1, -2)
        assert torch.equal(tiles.by_token(scores, 0)[b], tiles.by_token(alone, 0)[0])


def test_tiles_cost_little_more_than_the_pairs_they_hold():
    """At most three times the products of each token with its 25 candidates, and five copies of the tokens."""
    for grid in [(18, 24), (24, 32), (29, 38), (32, 43)]:
        count, places, slots = tile_shape((36, 48), grid, 5)
        assert count * places * slots < 3 * 36 * 48 * 25 and count * slots < 5 * 36 * 48, grid
