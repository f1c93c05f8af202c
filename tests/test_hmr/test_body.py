"""Skinning against what the formula says: at rest, turned, bent, and its gradients."""

import math
import time

import pytest
import torch

from mmtoken.hmr.body import FLIP_JOINTS, JOINT_NAMES, PARENTS, FreeBody, SkinnedBody
from mmtoken.hmr.geometry import axis_angle_to_matrix


def people(number, body, dtype=torch.float32):
    pose = 0.4 * torch.randn(number, 24, 3, dtype=dtype)
    return pose, torch.randn(number, body.num_betas, dtype=dtype), torch.randn(number, 3, dtype=dtype)


def test_at_rest_it_is_the_template(body):
    out = body(torch.zeros(1, 24, 3), torch.zeros(1, 10))
    torch.testing.assert_close(out.vertices[0], body.template)
    betas = torch.randn(3, 10)
    out = body(torch.zeros(3, 24, 3), betas)
    shaped = body.template + torch.einsum('nb,bvc->nvc', betas, body.shapes.unflatten(1, (-1, 3)))
    torch.testing.assert_close(out.vertices, shaped, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.joints[:, :24], body.regressor @ out.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.joints[:, 24:], out.vertices[:, body.landmarks])


def test_the_global_orientation_turns_it_about_the_pelvis_and_transl_moves_it(body):
    pose, betas, transl = people(2, body)
    pose[:, 0] = 0
    straight = body(pose, betas)
    turn = torch.randn(2, 3)
    pose[:, 0] = turn
    turned = body(pose, betas, transl)
    pelvis = straight.joints[:, :1]
    for a, b in zip(straight, turned):
        goal = (a - pelvis) @ axis_angle_to_matrix(turn).transpose(1, 2) + pelvis + transl[:, None]
        torch.testing.assert_close(b, goal, atol=1e-5, rtol=0)


def test_an_elbow_moves_the_lower_arm_and_nothing_else(body):
    pose = torch.zeros(1, 24, 3)
    rest = body(pose, torch.zeros(1, 10))
    elbow = JOINT_NAMES.index('left_elbow')
    pose[0, elbow, 1] = -math.pi / 2  # forwards: the arm points along x, so the hand goes to z
    bent = body(pose, torch.zeros(1, 10))
    moved = (bent.joints - rest.joints)[0, :24].norm(dim=1) > 1e-5
    assert {JOINT_NAMES[i] for i in moved.nonzero()[:, 0]} == {'left_wrist', 'left_hand'}
    wrist = JOINT_NAMES.index('left_wrist')
    before, after = (out.joints[0, wrist] - out.joints[0, elbow] for out in (rest, bent))
    torch.testing.assert_close(after, torch.stack([before[2] * -1, before[1], before[0]]), atol=1e-6, rtol=0)
    owned = body.weights[:, [elbow, wrist, 22]].sum(1)
    still = (bent.vertices - rest.vertices)[0].norm(dim=1) < 1e-6
    assert torch.equal(still, owned == 0) and 0 < still.sum() < len(still)


def test_it_is_the_formula(body):
    """Against a plain transcription: 4×4 matrices down the skeleton, blended for each vertex."""
    pose, betas, transl = people(1, body)
    shaped = body.template + (betas @ body.shapes).view(-1, 3)
    joints = body.regressor @ shaped
    world = []
    for j, parent in enumerate(PARENTS):
        local = torch.eye(4)
        local[:3, :3] = axis_angle_to_matrix(pose[0, j])
        local[:3, 3] = joints[j] - (joints[parent] if j else 0)
        world.append(world[parent] @ local if j else local)
    skin = []
    for vertex in range(0, len(shaped), 97):
        blend = torch.zeros(4, 4)
        for j in range(24):
            back = torch.eye(4)
            back[:3, 3] = -joints[j]
            blend += body.weights[vertex, j] * (world[j] @ back)
        skin.append((blend @ torch.cat([shaped[vertex], torch.ones(1)]))[:3])
    out = body(pose, betas, transl)
    torch.testing.assert_close(out.vertices[0, ::97], torch.stack(skin) + transl, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.joints[0, :24], torch.stack([w[:3, 3] for w in world]) + transl, atol=1e-5, rtol=0)


def test_pose_dependent_shapes(smpl_arrays):
    """Of one vertex on one joint: the corrections are linear in the rotations minus the identity."""
    data = dict(smpl_arrays, landmarks=range(21))
    with_them, without = SkinnedBody(data), SkinnedBody({k: v for k, v in data.items() if k != 'posedirs'})
    pose = torch.zeros(1, 24, 3)
    pose[0, 5] = torch.tensor([0.3, -0.2, 0.9])
    vertex = int((with_them.weights[:, 0] == 1).nonzero()[0])  # the pelvis does not turn
    moved = (with_them(pose, torch.zeros(1, 10)).vertices - without(pose, torch.zeros(1, 10)).vertices)[0, vertex]
    bent = (axis_angle_to_matrix(pose[0, 5]) - torch.eye(3)).flatten()
    expected = torch.from_numpy(smpl_arrays['posedirs'])[vertex, :, 36:45] @ bent
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('which', [0, 1, 2])
def test_gradients_are_those_of_finite_differences(which):
    body = FreeBody().double()
    arguments = people(1, body, torch.float64)
    arguments[which].requires_grad_()
    weights = torch.randn(1229, 3, dtype=torch.float64), torch.randn(45, 3, dtype=torch.float64)

    def score(value):
        inputs = list(arguments)
        inputs[which] = value
        return sum((part * weight).sum() for part, weight in zip(body(*inputs), weights))

    assert torch.autograd.gradcheck(score, arguments[which])


def test_a_batch_is_its_people(body):
    pose, betas, transl = people(3, body)
    batch = body(pose, betas, transl)
    for i in range(3):
        single = body(pose[i : i + 1], betas[i : i + 1], transl[i : i + 1])
        torch.testing.assert_close(batch.vertices[i], single.vertices[0], atol=1e-6, rtol=0)
    nobody = body(torch.zeros(0, 24, 3), torch.zeros(0, 10), torch.zeros(0, 3))
    assert nobody.vertices.shape == (0, 1229, 3) and nobody.joints.shape == (0, 45, 3)
    with pytest.raises(ValueError, match=r'pose \(1, 72\)'):
        body(torch.zeros(1, 72), torch.zeros(1, 10))


def test_mirrored_people_are_people(body):
    """Pose mirrored as everyone does: joints change sides, y and z of their axes change sign."""
    pose, betas, _ = people(2, body)
    out = body(pose, betas)
    mirrored = body(pose[:, FLIP_JOINTS[:24]] * pose.new_tensor([1, -1, -1]), betas)
    off = (mirrored.joints * pose.new_tensor([-1, 1, 1]) - out.joints[:, FLIP_JOINTS]).norm(dim=-1)
    assert off[:, :24].max() < 0.03 and FLIP_JOINTS[16] == 17 and FLIP_JOINTS[25] == 26


def test_it_looks_like_somebody(body):
    """In the camera's frame, as ``mean_pose`` stands: head up, left hand right in the picture, hands down."""
    out = body(body.mean_pose[None], body.mean_shape[None], torch.tensor([[0.0, 0.0, 5.0]]))
    place = dict(zip(JOINT_NAMES, out.joints[0]))
    assert place['head'][1] < place['pelvis'][1] < place['left_heel'][1]
    assert place['left_wrist'][0] > place['left_shoulder'][0] > 0 > place['right_shoulder'][0]
    assert place['nose'][2] < place['head'][2] and place['left_big_toe'][2] < place['left_heel'][2]
    assert place['left_wrist'][1] > place['left_elbow'][1]
    height = out.vertices[0, :, 1].max() - out.vertices[0, :, 1].min()
    assert 1.65 < height < 1.85
    a, b, c = out.vertices[0][body.faces].unbind(1)
    volume = (torch.linalg.cross(a, b) * c).sum() / 6  # positive if faces look outwards
    assert 0.05 < volume < 0.1


def test_ten_people_in_ten_milliseconds(body):
    pose, betas, transl = people(10, body)
    times = []
    with torch.no_grad():
        for _ in range(20):
            start = time.perf_counter()
            body(pose, betas, transl)
            times.append(time.perf_counter() - start)
    assert min(times) < 0.01


def test_rotation_matrices_and_joints_alone_give_the_same(body):
    torch.manual_seed(0)
    pose, betas, transl = torch.randn(3, 24, 3), torch.randn(3, 10), torch.randn(3, 3)
    vertices, joints = body(pose, betas, transl)
    rotations = axis_angle_to_matrix(pose)
    torch.testing.assert_close(body(rotations, betas, transl).vertices, vertices)
    for given in (pose, rotations):
        torch.testing.assert_close(body.joints(given, betas, transl), joints)
    torch.testing.assert_close(body.joints(pose, betas), joints - transl[:, None])
