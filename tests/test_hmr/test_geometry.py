"""Rotations against scipy's, the camera against its formulas, alignment against transforms that are known."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from mmtoken.hmr.geometry import (
    axis_angle_to_matrix,
    camera_to_translation,
    fov_intrinsics,
    matrix_to_axis_angle,
    matrix_to_rotation_6d,
    points_to_boxes,
    procrustes,
    project,
    rotation_6d_to_matrix,
)


def vectors():
    """All directions; angles at and near 0 and π too."""
    axes = torch.nn.functional.normalize(torch.randn(60, 3, dtype=torch.float64), dim=1)
    axes = torch.cat([axes, torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    angles = [0.0, 1e-9, 1e-5, 9.9e-4, 1.1e-3, 0.1, 1.0, 3.0, math.pi - 1e-5, math.pi - 1e-9]
    return torch.cat([axes * angle for angle in angles])


def test_matrices_are_those_of_scipy():
    v = vectors()
    torch.testing.assert_close(axis_angle_to_matrix(v), torch.from_numpy(Rotation.from_rotvec(v.numpy()).as_matrix()))


def test_axis_angle_there_and_back():
    v = vectors()
    torch.testing.assert_close(matrix_to_axis_angle(axis_angle_to_matrix(v)), v, atol=1e-7, rtol=1e-7)


def test_half_turns_come_back_as_half_turns():
    half = torch.eye(3) * math.pi
    torch.testing.assert_close(
        axis_angle_to_matrix(matrix_to_axis_angle(axis_angle_to_matrix(half))), axis_angle_to_matrix(half)
    )


def test_6d_there_and_back_and_made_orthonormal():
    matrix = axis_angle_to_matrix(vectors())
    columns = matrix_to_rotation_6d(matrix)
    torch.testing.assert_close(columns[:, ::2], matrix[:, :, 0])  # interleaved
    torch.testing.assert_close(rotation_6d_to_matrix(columns), matrix)
    skewed = columns.clone()
    skewed[:, 1::2] = 3 * columns[:, 1::2] - 0.7 * columns[:, ::2]
    torch.testing.assert_close(rotation_6d_to_matrix(2 * skewed + 0), matrix)


@pytest.mark.parametrize('angle', [0.0, 1e-4, 1e-2, 1.0, 3.1])
def test_gradients_of_rotations(angle):
    v = (torch.tensor([[0.6, -0.48, 0.64]], dtype=torch.float64) * angle).requires_grad_()
    assert torch.autograd.gradcheck(axis_angle_to_matrix, v)
    assert torch.autograd.gradcheck(lambda x: matrix_to_axis_angle(axis_angle_to_matrix(x)), v)


def test_camera_sees_its_field_of_view():
    camera = fov_intrinsics((728, 1288))
    assert camera[0, 0].item() == pytest.approx(1115.44, abs=0.01)
    edge = torch.tensor([[math.tan(math.radians(30)), 0.0, 1.0], [0.0, 0.0, 5.0]])
    torch.testing.assert_close(project(edge, camera), torch.tensor([[1288.0, 364.0], [644.0, 364.0]]))
    with pytest.raises(ValueError, match='fov=180'):
        fov_intrinsics((10, 10), 180)


def test_project_takes_a_camera_for_each_batch():
    points = torch.rand(2, 4, 3) + 1
    cameras = torch.stack([fov_intrinsics((100, 100)), fov_intrinsics((50, 80), 90)])
    both = project(points, cameras)
    torch.testing.assert_close(both[1], project(points[1], cameras[1]))
    assert project(torch.tensor([[0.0, 0.0, -1.0]]), cameras[0]).isfinite().all()


def test_camera_head():
    t = camera_to_translation(torch.tensor([0.5, -1.0, 0.0]), 1115.4, 1288)
    torch.testing.assert_close(t, torch.tensor([0.5, -1.0, 1.7320]), atol=1e-4, rtol=1e-4)


def test_boxes():
    points = torch.tensor([[[10.0, 20.0], [30.0, -40.0]]])
    assert points_to_boxes(points).tolist() == [[10, -40, 30, 20]]
    assert points_to_boxes(points, enlarge=2.0).tolist() == [[0, -70, 40, 50]]
    assert points_to_boxes(points, (15, 25)).tolist() == [[10, 0, 25, 15]]


def test_procrustes_undoes_a_similarity_but_no_mirroring():
    points = torch.randn(5, 24, 3, dtype=torch.float64)
    turn = axis_angle_to_matrix(torch.randn(5, 3, dtype=torch.float64))
    moved = 1.7 * points @ turn + torch.randn(5, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(procrustes(points, moved), moved)
    mirrored = points * points.new_tensor([-1, 1, 1])
    assert (procrustes(points, mirrored) - mirrored).norm(dim=-1).mean() > 0.1


def test_procrustes_is_the_best():
    points, target = torch.randn(24, 3, dtype=torch.float64), torch.randn(24, 3, dtype=torch.float64)
    best = procrustes(points, target)
    error = (best - target).square().sum()
    for _ in range(20):
        turn = axis_angle_to_matrix(0.01 * torch.randn(3, dtype=torch.float64))
        other = (best - best.mean(0)) @ turn * (1 + 0.01 * torch.randn(1)) + best.mean(0)
        assert (other - target).square().sum() > error
    assert procrustes(torch.zeros(4, 3), target[:4].float()).isfinite().all()
