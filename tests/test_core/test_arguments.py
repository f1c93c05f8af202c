"""One notation for ratios, grids and layers; every refusal names the key."""

import math
import re

import pytest

from mmtoken.core.arguments import (
    check_blocks,
    check_choice,
    check_flag,
    check_grid,
    check_int,
    check_layer,
    check_list,
    check_number,
    check_range,
    resolve_grid,
)
from mmtoken.methods.tome.matching import merges_per_block

#: Values of types that no number, block or list has.
OTHERS = ['1', '', math.nan, math.inf, None, True, {}, object()]


@pytest.mark.parametrize('value', ['False', 'True', '', 0, 1, 1.0, math.nan, [], None])
def test_things_that_are_no_switch(value):
    with pytest.raises(ValueError, match=f'^a.b={re.escape(repr(value))} is no switch; set it to True or False.$'):
        check_flag('a.b', value)


def test_switches():
    assert check_flag('a', True) is True
    assert check_flag('a', False) is False


@pytest.mark.parametrize(
    ('limits', 'text'),
    [((), ''), ((0,), ' of at least 0'), ((None, 3), ' of at most 3'), ((0, 3), r' in \[0, 3\]')],
)
def test_integers(limits, text):
    low, high = (*limits, None, None)[:2]
    outside = ([] if low is None else [low - 1]) + ([] if high is None else [high + 1, 10**9])
    for value in [*OTHERS, [1], 1.0, 2.5, *outside]:
        with pytest.raises(ValueError, match=f'^a={re.escape(repr(value))} must be an integer{text}.$'):
            check_int('a', value, *limits)
    for value in (0, 3, *([] if limits else [-7, 10**9])):
        assert check_int('a', value, *limits) == value


@pytest.mark.parametrize(
    ('options', 'text', 'good', 'bad'),
    [
        (dict(), '', [-1e9, 0, 2.5], []),
        (dict(low=0), ' of at least 0', [0, 1e9], [-1e-9]),
        (dict(low=0, above=True), ' above 0', [1e-9], [0, 0.0, -1]),
        (dict(high=1), ' of at most 1', [1, -5], [1.01]),
        (dict(high=1, below=True), ' below 1', [0.99, -5], [1, 1.0]),
        (dict(low=0, high=1), r' in \[0, 1\]', [0, 0.5, 1], [-0.1, 2]),
        (dict(low=0, high=1, above=True), r' in \(0, 1\]', [1e-9, 1], [0]),
        (dict(low=0, high=1, below=True), r' in \[0, 1\)', [0, 0.99], [1, 1.0]),
        (dict(low=0, high=1, above=True, below=True), r' in \(0, 1\)', [0.5], [0, 1]),
    ],
    ids=str,
)
def test_numbers(options, text, good, bad):
    for value in [*OTHERS, [1], *bad]:
        with pytest.raises(ValueError, match=f'^a={re.escape(repr(value))} must be a number{text}.$'):
            check_number('a', value, **options)
    for value in good:
        assert check_number('a', value, **options) == value


def test_choices():
    names = ('feature', 'late')
    assert check_choice('a', 'late', names) == 'late'
    for value, hint in (('lat', "; did you mean 'late'?"), ('x', '.'), (1, '.'), (None, '.'), ([], '.'), ({}, '.')):
        with pytest.raises(ValueError, match='is unknown') as error:
            check_choice('a', value, names)
        assert str(error.value) == f"a={value!r} is unknown; choose one of 'feature', 'late'{hint}"


@pytest.mark.parametrize('value', [*OTHERS, [], (), {1, 2}, 'ab', range(2)])
def test_things_that_are_no_list(value):
    with pytest.raises(ValueError, match=f'^a={re.escape(repr(value))} must be a list with at least one entry.$'):
        check_list('a', value)


def test_lists():
    assert check_list('a', (1, 'b')) == [1, 'b']
    assert check_list('a', [None], 1) == [None]
    with pytest.raises(ValueError, match=r'a=\[1\] must be a list with 2 entries'):
        check_list('a', [1], 2)


@pytest.mark.parametrize('value', [*OTHERS, [], 3, [1, 1], [1.0], [True], [None], [-1], 'ab', [[1]]])
def test_things_that_are_no_blocks(value):
    with pytest.raises(ValueError, match=f'^a={re.escape(repr(value))} must be a list of different blocks'):
        check_blocks('a', value, 12)


def test_blocks():
    assert check_blocks('a', (3, 0), 4) == [3, 0]
    assert check_blocks('a', range(2)) == [0, 1]
    assert check_blocks('a', [99]) == [99]
    with pytest.raises(ValueError, match=r'a=\[3, 4\] goes beyond the blocks 0 to 3'):
        check_blocks('a', [3, 4], 4)


@pytest.mark.parametrize('layer', [-1, 12, 1.0, '3', None, True, math.nan, [], 10**9])
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


def test_a_range_is_two_ascending_numbers():
    assert check_range('scale', [0.8, 1.8], 0) == (0.8, 1.8) and check_range('scale', (1, 1)) == (1, 1)
    for value in (*OTHERS, 0.5, (1,), (1, 2, 3)):
        with pytest.raises(ValueError, match=f'^scale={re.escape(repr(value))} must be two numbers'):
            check_range('scale', value)
    for value, message in (((2, 1), 'smaller one first'), ((-1, 1), '=-1 '), ((0.5, 9), '=9 '), ((0, 1), '=0 ')):
        with pytest.raises(ValueError, match=message):
            check_range('scale', value, 0, 8, above=True)
