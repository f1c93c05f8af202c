"""Pictures of token groups."""

import numpy as np
import pytest

from mmtoken.analysis import colorize_groups, overlay_groups


@pytest.mark.parametrize('width', [5, 13, 21, 34])
def test_neighbours_differ_clearly_and_colours_do_not_depend_on_numbers(width):
    index = np.arange(8 * width).reshape(8, width) // 2
    colors = colorize_groups(index)
    assert colors.shape == (8, width, 3) and colors.dtype == np.uint8
    for axis in (0, 1):
        change = np.diff(index, axis=axis) != 0
        distance = np.abs(np.diff(colors.astype(int), axis=axis)).sum(-1)
        assert distance[change].min() > 60
        assert not distance[~change].any()
    np.testing.assert_array_equal(colors, colorize_groups(index * 7 - 100))


def test_groups_in_many_pieces_keep_one_colour():
    colors = colorize_groups(np.array([[0, 1, 0], [2, 0, 2]]))
    assert (colors[0, 0] == colors[0, 2]).all() and (colors[0, 0] == colors[1, 1]).all()
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 3


def test_overlay_draws_borders_and_nothing_else():
    image = np.full((40, 63, 3), 100, np.uint8)
    index = np.array([[0, 0, 1], [2, 2, 1]])
    out = overlay_groups(image, index)
    assert out.shape == (40, 60, 3)
    white = (out == 255).all(-1)
    assert white[20, :40].all() and white[:, 40].all()
    assert white.sum() == 40 + 40 - 0 and (out[~white] == 100).all()
    mixed = overlay_groups(image, index, alpha=1.0)
    assert (mixed[5, 5] == colorize_groups(index)[0, 0]).all()


def test_one_group_has_no_border():
    image = np.zeros((8, 8, 3), np.uint8)
    assert not overlay_groups(image, np.zeros((2, 2), int)).any()
