"""The free body's file, and the arithmetic of the tool that makes it."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import mmtoken
from mmtoken.hmr.body import JOINT_NAMES, PARENTS

FILE = Path(mmtoken.__file__).parent / 'hmr/body/free_body.npz'
TOOL = Path(mmtoken.__file__).parents[1] / 'tools/misc/bake_body.py'


@pytest.fixture(scope='module')
def data():
    with np.load(FILE) as found:
        return dict(found)


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(TOOL))


def test_file_is_in_the_format_of_smpl(data):
    assert FILE.stat().st_size < 2e6
    assert data['shapedirs'].shape == (len(data['v_template']), 3, 10) and data['landmarks'].shape == (21,)
    np.testing.assert_allclose(data['weights'].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(data['J_regressor'].sum(1), 1, atol=1e-4)
    assert data['weights'].min() > -1e-6 and (data['weights'].max(0) > 0.2).all()  # each joint moves something
    assert data['kintree_table'][0].tolist() == list(PARENTS)


def test_mesh_is_closed_and_as_wide_on_both_sides(data):
    edges = np.sort(data['f'][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    assert np.mean(counts == 2) > 0.99
    points = data['v_template']
    np.testing.assert_allclose(points[:, 0].max(), -points[:, 0].min(), atol=0.01)


def test_it_stands_in_a_t(data):
    place = dict(zip(JOINT_NAMES, data['J_regressor'] @ data['v_template']))
    assert np.linalg.norm(place['pelvis']) < 0.01
    for side, sign in (('left', 1), ('right', -1)):
        arm = np.array([place[f'{side}_{name}'] for name in ('shoulder', 'elbow', 'wrist')])
        assert (np.diff(arm[:, 0]) * sign > 0.2).all() and np.ptp(arm[:, 1:], axis=0).max() < 0.03
        leg = np.array([place[f'{side}_{name}'] for name in ('hip', 'knee', 'ankle')])
        assert (np.diff(leg[:, 1]) < -0.3).all() and np.ptp(leg[:, [0, 2]], axis=0).max() < 0.06
    points = dict(zip(JOINT_NAMES[24:], data['v_template'][data['landmarks']]))
    assert points['nose'][2] > points['left_ear'][2] and points['left_eye'][0] > points['right_eye'][0]
    assert points['left_big_toe'][2] > points['left_heel'][2] + 0.15
    assert points['left_small_toe'][0] > points['left_big_toe'][0]
    assert points['left_thumb'][2] > points['left_pinky'][2] and points['left_middle'][0] > place['left_hand'][0]


def test_shapes_are_of_one_standard_deviation(data):
    """Tall and short people: the first shape changes the height most, by some centimetres."""
    heights = [np.ptp(data['v_template'] + sign * data['shapedirs'][..., 0], axis=0)[1] for sign in (-1, 1)]
    assert 0.05 < abs(heights[1] - heights[0]) < 0.4
    assert (np.diff(np.linalg.norm(data['shapedirs'].reshape(-1, 10), axis=0)) < 0).all()


def test_tool_turns_directions(tool):
    a = np.random.default_rng(0).normal(size=(20, 3))
    turns = tool['turn_onto'](a, (0, 2, 0))
    unit = a / np.linalg.norm(a, axis=1, keepdims=True)
    np.testing.assert_allclose(np.einsum('nij,nj->ni', turns, unit), np.tile([0, 1, 0], (20, 1)), atol=1e-12)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)


def test_tool_poses_and_fits(tool, data):
    """Limbs point where they should, and the regressor that made the joints is found again."""
    weights, regressor = data['weights'].astype(float), data['J_regressor'].astype(float)
    betas = np.random.default_rng(0).normal(size=(60, 10))
    vertices = data['v_template'] + np.einsum('vcb,nb->nvc', data['shapedirs'], betas)
    joints = regressor @ vertices
    vertices, joints = tool['t_pose'](vertices, joints, weights)
    assert np.abs(joints[:, 0]).max() == 0
    for joint, tip, direction in tool['LIMBS']:
        bone = joints[:, tip] - joints[:, joint]
        along = bone @ direction / np.linalg.norm(direction)
        np.testing.assert_allclose(along, np.linalg.norm(bone, axis=1), rtol=1e-9)
    again = tool['fit_regressor'](vertices, joints, near=120, ridge=1e-7)
    assert np.linalg.norm(again @ vertices - joints, axis=-1).mean() < 1e-3
    np.testing.assert_allclose(again.sum(1), 1)
