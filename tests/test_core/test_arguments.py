"""One notation for ratios, grids and layers; every refusal names the key."""

import pytest

from mmtoken.core.arguments import check_grid, check_layer, resolve_grid
from mmtoken.methods.tome.matching import merges_per_block


@pytest.mark.parametrize('layer', [-1, 12, 1.0, '3', None])
def test_layers_that_do_not_exist(layer):
    with pytest.raises(ValueError, match=r'reducer\.layer=.*0 to 11'):
        check_layer('reducer.layer', layer, 12)


def test_layers_that_exist():
    check_layer('reducer.layer', 0, 12)
    check_layer('reducer.layer', 11, 12)


@pytest.mark.parametrize('grid', [0, -0.5, 1.01, 2, float('nan')])
def test_ratios_outside_of_0_1(grid):
    with pytest.raises(ValueError, match=r'reducer\.grid=.*\(0, 1\]'):
        check_grid('reducer.grid', grid)


@pytest.mark.parametrize('grid', ['0.5', (3,), (3, 4, 5), (3, 0), (-1, 4), (0.5, 0.5), None, True, {3, 4}])
def test_things_that_are_no_grid(grid):
    with pytest.raises(ValueError, match=r'reducer\.grid=.*\(height, width\)'):
        check_grid('reducer.grid', grid)


@pytest.mark.parametrize('grid, checked', [(1, 1.0), (0.5, 0.5), ((3, 4), (3, 4)), ([3, 4], (3, 4))])
def test_grids_are_normalised(grid, checked):
    assert check_grid('reducer.grid', grid) == checked and type(check_grid('reducer.grid', grid)) is type(checked)


@pytest.mark.parametrize(
    'grid, raster, expected',
    [
        (1.0, (7, 9), (7, 9)),
        (0.5, (8, 12), (4, 6)),
        (0.75, (36, 48), (27, 36)),
        (0.01, (8, 12), (1, 1)),
        ((3, 9), (7, 9), (3, 9)),
    ],
)
def test_grids_on_a_raster(grid, raster, expected):
    assert resolve_grid('reducer.grid', grid, raster) == expected


@pytest.mark.parametrize('grid', [(8, 9), (7, 10)])
def test_a_grid_larger_than_the_image(grid):
    with pytest.raises(ValueError, match=r'reducer\.grid=.*larger than.*7x9'):
        resolve_grid('reducer.grid', grid, (7, 9))


def test_merges_of_every_notation():
    assert merges_per_block(8, None, 3) == [8, 8, 8]
    assert merges_per_block([4, 0, 2], None, 3) == [4, 0, 2]
    assert merges_per_block(None, 1, 3) == [0, 0, 0]
    parts = merges_per_block(None, 0.3, 4)
    left = 1.0
    for part in parts:
        left *= 1 - part
    assert left == pytest.approx(0.3) and len(set(parts)) == 1


@pytest.mark.parametrize(
    'r, keep, message',
    [
        (None, None, 'either r or keep'),
        (8, 0.5, 'either r or keep'),
        (None, 0, r'keep=0 is outside \(0, 1\]'),
        (None, 1.5, r'keep=1.5 is outside \(0, 1\]'),
        ([4, 4], None, 'r has 2 entries.*3 blocks'),
        ([4, -1, 4], None, r'r=\[4, -1, 4\].*>= 0'),
        ([4, 0.5, 4], None, r'r=.*integers'),
        (-3, None, 'r=-3.*>= 0'),
        (0.5, None, r'r=0\.5.*integers'),
        ('8', None, r"r='8'.*integers"),
    ],
)
def test_merges_that_are_refused(r, keep, message):
    with pytest.raises(ValueError, match=message):
        merges_per_block(r, keep, 3)
