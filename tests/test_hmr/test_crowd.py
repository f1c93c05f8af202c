"""Drawn crowds: what the labels say is what the picture shows."""

import time

import cv2
import numpy as np
import pytest
import torch

from mmtoken.hmr.data import SyntheticCrowd
from mmtoken.hmr.data.scale_map import draw_scale_map, scales_of
from mmtoken.hmr.data.synthetic.poses import sample_poses
from mmtoken.hmr.geometry import axis_angle_to_matrix
from mmtoken.hmr.render.raster import covered
from mmtoken.registry import DATASETS

SMALL = dict(length=40, size=(196, 252), people=(1, 6))
PIPELINE = [dict(type='mmtoken.MakeScaleMap', cell=28), dict(type='mmtoken.PackPeople')]


@pytest.fixture(scope='module')
def crowd():
    return DATASETS.build(dict(type='mmtoken.SyntheticCrowd', **SMALL))


def test_pictures_depend_on_seed_and_number_alone(crowd):
    again = SyntheticCrowd(**SMALL)
    for i in (7, 3):
        assert np.array_equal(crowd[i]['img'], again[i]['img'])
    assert not np.array_equal(crowd[3]['img'], crowd[4]['img'])
    other = SyntheticCrowd(**SMALL, seed=1)
    assert not np.array_equal(crowd[3]['img'], other[3]['img'])


def test_labels_are_those_of_the_body_through_the_camera(crowd, body):
    people = 0
    for i in range(10):
        r = crowd[i]
        out = body(*(torch.from_numpy(r[f'gt_{name}']) for name in ('pose', 'betas', 'transl')))
        np.testing.assert_allclose(out.joints, r['gt_keypoints_3d'], atol=1e-4)
        image = r['gt_keypoints_3d'] @ r['cam_intrinsics'].T
        np.testing.assert_allclose(image[..., :2] / image[..., 2:], r['gt_keypoints'], rtol=1e-3, atol=1e-2)
        inside = ((r['gt_keypoints'] >= 0) & (r['gt_keypoints'] < [252, 196])).all(-1)
        assert not (r['gt_keypoints_visible'] & ~inside).any()
        people += len(r['gt_pose'])
    assert people > 15


def test_people_stand_where_the_depth_says(crowd, body):
    """In the middle of each visible joint the depth is that of a surface little before it."""
    checked = 0
    for i in range(10):
        r = crowd[i]
        for keypoints, joints, visible in zip(r['gt_keypoints'], r['gt_keypoints_3d'], r['gt_keypoints_visible']):
            trunk = np.array([0, 3, 6, 9])  # a limb may be thinner than a pixel
            trunk = trunk[visible[trunk]]
            if not len(trunk):
                continue
            x, y = keypoints[trunk].astype(int).T
            ahead = joints[trunk, 2] - r['depth'][y, x]
            assert (ahead < 0.3).all() and np.mean(ahead > -0.05) > 0.7
            checked += len(trunk)
    assert checked > 20


def test_feet_are_on_one_plane(crowd, body):
    """The lowest point of everybody lies on the ground, so with three people or more a plane fits them all."""
    for i in range(15):
        r = crowd[i]
        if len(r['gt_pose']) < 4:
            continue
        out = body(*(torch.from_numpy(r[f'gt_{name}']) for name in ('pose', 'betas', 'transl')))
        # The ground's normal has no x; try the pitches and take the one where the lowest points agree best.
        pitches = np.linspace(-0.3, 0.9, 600)
        downs = np.stack([np.zeros(600), np.cos(pitches), np.sin(pitches)])
        lowest = (out.vertices.numpy() @ downs).max(1)
        assert np.ptp(lowest, axis=0).min() < 0.02
        return
    pytest.fail('no picture with four people')


def test_scales_are_spread_and_in_range():
    crowd = SyntheticCrowd(length=30, size=(252, 252), people=(6, 6), scales=(0.1, 0.8), things=(0, 0))
    scales = np.concatenate([scales_of(crowd[i]['gt_bboxes'], 252) for i in range(30)])
    assert len(scales) > 100 and 0.3 < np.mean(scales < 0.3) < 0.8
    assert np.mean((scales > 0.05) & (scales < 1)) > 0.95


def test_hidden_joints_are_hidden(crowd, body):
    """Somebody right behind another is mostly invisible; before the other, all visible."""
    from mmtoken.hmr.data.synthetic.crowd import in_sight
    from mmtoken.hmr.render.raster import FAR, rasterize

    pose = body.mean_pose.expand(2, -1, -1)
    out = body(pose, torch.zeros(2, 10), torch.tensor([[0.0, 0, 3.0], [0.0, 0, 4.0]]))
    camera = np.array([[200.0, 0, 126], [0, 200, 126], [0, 0, 1]])
    image, depth = np.zeros((252, 252, 3), np.float32), np.full((252, 252), FAR, np.float32)
    for vertices in out.vertices.numpy():
        rasterize(vertices, body.faces.numpy(), np.ones_like(vertices), camera, image, depth)
    joints = out.joints.numpy()
    keypoints = joints @ camera.T
    visible = in_sight(keypoints[..., :2] / keypoints[..., 2:], joints, depth)
    assert visible[0].all() and visible[1, :24].mean() < 0.5
    moved = joints + np.array([10.0, 0, 0])
    assert not in_sight(moved[..., :2] / moved[..., 2:] * 200 + 126, moved, depth).any()


def test_packed(crowd):
    packed = SyntheticCrowd(**SMALL, pipeline=PIPELINE)
    for i in range(5):
        out, r = packed[i], crowd[i]
        sample, people = out['data_samples'], out['data_samples'].gt_instances
        assert out['inputs'].shape == (3, 196, 252) and out['inputs'].dtype == torch.uint8
        assert people.smpl_pose.shape[1:] == (24, 3) and people.keypoints_visible.dtype == torch.bool
        np.testing.assert_array_equal(people.keypoints_3d, r['gt_keypoints_3d'])
        np.testing.assert_array_equal(sample.cam_intrinsics, r['cam_intrinsics'])
        maps = sample.gt_scale_map.data
        assert maps.shape == (2, 8, 10) and set(maps[0].unique().tolist()) <= {0, 1}
        # Something is drawn in nearly every cell that is marked; a finger may be thinner than a pixel.
        seen = np.pad(covered(r['depth']), ((0, 28), (0, 28))).reshape(8, 28, 10, 28).any((1, 3))
        marked = maps[0].numpy() > 0
        assert marked.any() == bool(len(people)) and (seen[marked].mean() > 0.9 if len(people) else True)
        scales = scales_of(r['gt_bboxes'], 252)
        assert all(np.isclose(scales, value).any() for value in maps[1][maps[0] > 0])


def test_nobody_there():
    empty = SyntheticCrowd(length=2, size=(112, 112), people=(0, 0), pipeline=PIPELINE)
    sample = empty[0]['data_samples']
    assert len(sample.gt_instances) == 0 and sample.gt_instances.smpl_pose.shape == (0, 24, 3)
    assert sample.gt_scale_map.data.sum() == 0


def test_photos_as_backgrounds(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((50, 400, 3), (0, 0, 200), np.uint8))
    crowd = SyntheticCrowd(**dict(SMALL, people=(0, 0), things=(0, 0)), backgrounds=str(tmp_path))
    blue, green, red = crowd[0]['img'].reshape(-1, 3).mean(0)
    assert red > 100 > 20 > max(blue, green)
    (tmp_path / 'a.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='a.png: cannot be read'):
        crowd.renderer.render(np.random.default_rng(0))
    (tmp_path / 'a.png').unlink()
    with pytest.raises(ValueError, match='backgrounds=.*holds no pictures'):
        SyntheticCrowd(backgrounds=str(tmp_path))


@pytest.mark.parametrize(
    'wrong',
    [dict(length=0), dict(people=(3, 1)), dict(scales=(0.5, 0.1)), dict(size=(10, 644)), dict(fov=(60, 200))],
)
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=f'^{next(iter(wrong))}='):
        SyntheticCrowd(**wrong)


def test_later_people_win_and_points_outside_mark_nothing():
    points = [np.array([[5.0, 5], [100, 5]]), np.array([[6.0, 6], [-20, 50], [30, 1e9]])]
    maps = draw_scale_map(points, np.array([0.2, 0.7]), (60, 60), 28)
    assert maps.shape == (2, 4, 4) and maps[0].sum() == 1 and maps[1, 0, 0] == np.float32(0.7)
    clamped = draw_scale_map(points, np.array([0.2, 0.7]), (60, 60), 28, clamp=True)
    assert sorted(map(tuple, np.argwhere(clamped[0]))) == [(0, 0), (0, 2), (1, 0), (2, 1)]


def test_poses_bend_the_right_way():
    poses = torch.from_numpy(sample_poses(np.random.default_rng(0), 200))
    knees = axis_angle_to_matrix(poses[:, [4, 5]])
    assert (knees[..., 2, 1] > -0.05).all()  # shins go back, never forwards
    assert poses.isfinite().all() and poses[:, 1:].norm(dim=-1).max() < 2.9


def test_twelve_pictures_a_second():
    crowd = SyntheticCrowd(length=8)
    crowd[0]
    start = time.process_time()
    for i in range(1, 8):
        crowd[i]
    assert 7 / (time.process_time() - start) > 6  # 17 on an idle core; the limit leaves room for busy machines
