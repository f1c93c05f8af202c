"""Drawings: people where the camera sees them, the nearer before the others, maps in their cells."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData

from mmtoken.hmr.data import SyntheticCrowd
from mmtoken.hmr.data.synthetic.cutting import CutMesh
from mmtoken.hmr.geometry import fov_intrinsics, project
from mmtoken.hmr.render import draw_birds_eye, draw_meshes, draw_scale_map, draw_token_map
from mmtoken.registry import VISUALIZERS

SIZE = (240, 320)
PIPELINE = [dict(type='mmtoken.MakeScaleMap'), dict(type='mmtoken.PackPeople')]


@pytest.fixture
def two(body):
    """One before the other, the second a little to the right."""
    pose = body.mean_pose.expand(2, -1, -1)
    return body(pose, torch.zeros(2, 10), torch.tensor([[0.0, 0.1, 4.0], [0.3, 0.0, 6.0]]))


def test_meshes_are_where_their_joints_are_and_the_nearer_one_is_in_front(two, body):
    image = np.full((*SIZE, 3), 128, np.uint8)
    camera = fov_intrinsics(SIZE)
    colors = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    for order in ([0, 1], [1, 0]):
        drawn = draw_meshes(image, two.vertices.numpy()[order], body.faces.numpy(), camera.numpy(), colors[order], 1.0)
        near, far = project(two.joints[:, [0, 3, 6, 9]], camera).int().numpy()
        assert (drawn[near[:, 1], near[:, 0], 0] > 100).all() and (drawn[near[:, 1], near[:, 0], 2] < 60).all()
        right = far[:, 0] + 3  # past the first one's side
        assert (drawn[far[:, 1], right, 2] > 60).any()
    assert np.array_equal(drawn[:, :60], image[:, :60]) and (drawn != image).any(-1).mean() > 0.02
    assert np.array_equal(draw_meshes(image, two.vertices.numpy()[:0], body.faces.numpy(), camera.numpy()), image)


def test_from_above_people_are_as_far_as_they_are(two):
    drawn = draw_birds_eye(two.vertices.numpy(), 400, colors=np.array([[1.0, 0, 0], [0, 0, 1.0]]), reach=10)
    for color, (x, z) in (((255, 0, 0), (0, 4)), ((0, 0, 255), (0.3, 6))):
        rows, columns = np.nonzero((drawn == color).all(-1))
        assert len(rows) and abs(columns.mean() - (200 + 37.6 * x)) < 6 and abs(rows.mean() - (388 - 37.6 * z)) < 8
    assert draw_birds_eye(two.vertices.numpy()[:0], 200).shape == (200, 200, 3)


def test_maps_stay_in_their_cells():
    image = np.full((50, 70, 3), 100, np.uint8)
    maps = np.zeros((2, 2, 4), np.float32)
    maps[:, 1, 2], maps[:, 0, 0] = (1.0, 0.9), (0.5, 0.1)
    drawn = draw_scale_map(image, maps, 28).astype(int)
    changed = (drawn != 100).any(-1)
    expected = np.zeros((50, 70), bool)
    expected[28:, 56:], expected[:28, :28] = True, True
    assert np.array_equal(changed, expected)
    assert drawn[0, 0, 0] > drawn[0, 0, 2] and drawn[40, 60, 2] > drawn[40, 60, 0]  # small is red, large blue
    levels = np.array([[0, 1, 2, 2], [1, 1, 2, 2]])
    tokens = draw_token_map(np.zeros((56, 112, 3), np.uint8), levels, 28, alpha=0.0).any(-1)
    assert tokens[5:28:14, 5].sum() == 0 and tokens[14, 5] and tokens[5, 14]  # four in the first cell
    assert not tokens[14, 40] and tokens[28, 40] and not tokens[28, 80] and not tokens[40, 84]


@pytest.fixture(scope='module')
def sample():
    data = SyntheticCrowd(length=3, size=SIZE, people=(3, 3), pipeline=PIPELINE)[1]
    data['data_samples'].pred_token_levels = PixelData(data=torch.ones(1, 10, 12, dtype=torch.int64))
    return data['inputs'].numpy().transpose(1, 2, 0)[..., ::-1].copy(), data['data_samples']


def test_visualizer_writes_all_panels_in_rows(sample, tmp_path):
    image, data = sample
    visualizer = VISUALIZERS.build(
        dict(type='mmtoken.HumanMeshVisualizer', name='all', panels=('picture', 'mesh', 'bird', 'scale', 'tokens'))
    )
    people = data.gt_instances
    guess = InstanceData(smpl_pose=people.smpl_pose, smpl_betas=people.smpl_betas, transl=people.transl)
    guess.scores = torch.full((len(people),), 0.1)
    data = data.clone()
    data.pred_instances = guess
    visualizer.add_datasample('x', image, data, out_file=str(tmp_path / 'x.png'))
    drawn = cv2.imread(str(tmp_path / 'x.png'))
    labels = visualizer.draw_row(image, data, 'gt')
    assert labels.shape == (240, 4 * 320 + 240, 3) and np.array_equal(labels[:, :320], image)
    assert drawn.shape == (480, 4 * 320 + 240, 3)
    nobody = visualizer.draw_row(image, data, 'pred')  # all scores are below the threshold
    assert np.array_equal(nobody[:, 320:640], image)
    assert not np.array_equal(visualizer.draw_row(image, data, 'pred', score=0.05)[:, 320:640], image)


def test_visualizer_draws_on_the_original_picture(sample):
    """The network saw it at half the size: the camera is that of the smaller one, the drawing is not."""
    image, data = sample
    visualizer = VISUALIZERS.build(dict(type='mmtoken.HumanMeshVisualizer', name='two', panels=('mesh', 'scale')))
    large = cv2.resize(image, None, fx=2, fy=2)
    small = visualizer.draw_row(image, data, 'gt')
    drawn = cv2.resize(visualizer.draw_row(large, data, 'gt'), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert np.abs(drawn.astype(int) - small).mean() < 4
    with pytest.raises(ValueError, match='has no cam_intrinsics'):
        visualizer.draw_row(image, DetDataSample(gt_instances=data.gt_instances), 'gt')
    with pytest.raises(ValueError, match="panels='bord' is unknown"):
        VISUALIZERS.build(dict(type='mmtoken.HumanMeshVisualizer', name='bord', panels=('bord',)))


def test_cutting_keeps_the_surface(body):
    points, faces = body.template.double().numpy(), body.faces.numpy()
    mesh = CutMesh(points, faces)
    mesh.cut(mesh.points[:, 1] - 0.05)
    mesh.cut(mesh.points[:, 0] - 0.1, mesh.points[:, 1] > 0.06)
    corners = mesh.points[mesh.faces]
    ups = corners[..., 1] - 0.05
    assert not ((ups > 1e-6).any(1) & (ups < -1e-6).any(1)).any() and len(faces) < len(mesh.faces) < 1.3 * len(faces)

    def area(points, faces):
        a, b, c = points[faces].transpose(1, 0, 2)
        return np.cross(b - a, c - a) / 2

    before, after = area(points, faces), area(mesh.points, mesh.faces)
    np.testing.assert_allclose(*(np.linalg.norm(areas, axis=1).sum() for areas in (after, before)), rtol=1e-5)
    np.testing.assert_allclose(after.sum(0), before.sum(0), atol=1e-5)
    source, weights, part, new = mesh.split((corners[..., 1].mean(1) > 0.05).astype(int))
    np.testing.assert_allclose((points[source] * weights[..., None]).sum(1)[new], corners, atol=1e-5)
    assert (part[new] == part[new][:, :1]).all()
