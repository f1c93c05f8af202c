"""Matching and losses on cases whose answers are known."""

import math

import pytest
import torch

from mmtoken.hmr.geometry import axis_angle_to_matrix
from mmtoken.hmr.model.heads import Predictions
from mmtoken.hmr.model.losses import MeshLoss, focal_loss
from mmtoken.hmr.model.matching import HungarianMatcher, Pairs
from mmtoken.hmr.model.people import People

J = 45


@pytest.fixture
def people():
    torch.manual_seed(0)
    joints = torch.randn(3, J, 3) * 0.3 + torch.tensor([0, 0, 4.0])
    return People(
        counts=[2, 1],
        image=torch.tensor([0, 0, 1]),
        boxes=torch.tensor([[0.3, 0.3, 0.2, 0.4], [0.7, 0.5, 0.2, 0.2], [0.5, 0.5, 0.5, 0.5]]),
        pose=torch.randn(3, 24, 3) * 0.3,
        betas=torch.randn(3, 10),
        joints=joints,
        keypoints=torch.rand(3, J, 2),
        visible=torch.ones(3, J, dtype=torch.bool),
        has_3d=torch.ones(3, dtype=torch.bool),
        has_body=torch.ones(3, dtype=torch.bool),
        complete=torch.ones(2, dtype=torch.bool),
        zoom=torch.ones(3),
    )


#: Query of each of the three people in each of two layers.
QUERIES = torch.tensor([[2, 0, 1], [1, 3, 0]])


@pytest.fixture
def perfect(people):
    """Predictions of two layers and four queries that are right, with their pairs, joints and keypoints."""
    found = Predictions(
        logits=torch.full((2, 2, 4), -4.0),
        boxes=torch.rand(2, 2, 4, 4) * 0.1 + 0.1,
        rotations=torch.eye(3).expand(2, 2, 4, 24, 3, 3).clone(),
        betas=torch.zeros(2, 2, 4, 10),
        camera=torch.zeros(2, 2, 4, 3),
    )
    layer, person = torch.arange(2).repeat_interleave(3), torch.arange(3).repeat(2)
    pairs = Pairs(layer, people.image[person], QUERIES.flatten(), person)
    found.logits[pairs.index] = 4.0
    found.boxes[pairs.index] = people.boxes[person]
    found.rotations[pairs.index] = axis_angle_to_matrix(people.pose)[person]
    found.betas[pairs.index] = people.betas[person]
    return found, pairs, people.joints[person].clone(), people.keypoints[person].clone()


def names(*prefixes):
    terms = ('box', 'giou', 'pose', 'shape', 'joints_3d', 'joints_2d', 'depth')
    return [f'{prefix}loss_{term}' for prefix in prefixes for term in terms]


def test_matching_finds_the_people_anew_in_each_layer(perfect, people):
    found = perfect[0]
    points = torch.rand(2, 2, 4, J, 2)
    points[perfect[1].index] = people.keypoints[perfect[1].person]
    for _ in range(2):
        pairs = HungarianMatcher()(found.logits, found.boxes, points, people)
        order = torch.argsort(pairs.layer * 10 + pairs.person)
        assert pairs.query[order].tolist() == QUERIES.flatten().tolist()
        assert pairs.image[order].tolist() == [0, 0, 1] * 2
        found.boxes = torch.rand_like(found.boxes)  # joints alone are enough


@pytest.mark.parametrize('changes, cost', [(dict(keypoints=20.0), 20 * 0.1), (dict(keypoints=0.0, box=1.0), 0.4)])
def test_cost(people, changes, cost):
    matcher = HungarianMatcher(**{**dict(confidence=0.0, box=0.0, giou=0.0), **changes})
    boxes = (people.boxes[:1] + 0.1)[None]
    points = people.keypoints[:1][None] + 0.1
    points[:, :, 30:] += 9  # hands do not count
    points[:, :, 3] += 9
    people.visible[0, 3] = False
    labels = (people.boxes[:1], people.keypoints[:1, :22], people.visible[:1, :22])
    assert matcher.cost(torch.zeros(1, 1), boxes, points, *labels).item() == pytest.approx(cost, rel=1e-4)


def test_more_people_than_queries(people):
    people.counts, people.image = [3, 0], torch.zeros(3, dtype=torch.int64)
    pairs = HungarianMatcher()(torch.zeros(1, 2, 2), torch.rand(1, 2, 2, 4), torch.rand(1, 2, 2, J, 2), people)
    assert len(pairs.person) == 2 and len(set(pairs.person.tolist())) == 2


def test_right_predictions_cost_nothing(perfect, people):
    losses = MeshLoss()(*perfect, people)
    assert set(losses) == {*names('', 'd0.'), 'loss_confidence', 'd0.loss_confidence'}
    for name in names('', 'd0.'):
        assert float(losses[name]) == pytest.approx(0, abs=1e-5), name


def test_values(perfect, people):
    found, pairs, joints, keypoints = perfect
    last = pairs.layer == 1
    found.boxes[pairs.index] += torch.tensor([0.0, 0.0, 0.1, 0.0]) * last[:, None]
    found.betas[pairs.index] += 1.0 * last[:, None]
    half_turn = axis_angle_to_matrix(torch.tensor([math.pi, 0, 0]))
    found.rotations[1, 1, 0, 5] = found.rotations[1, 1, 0, 5] @ half_turn  # of the third person alone
    keypoints = keypoints + 0.02 * last[:, None, None]
    moved = joints.clone()
    moved[:, 1:] += 0.045 * last[:, None, None]
    losses = MeshLoss()(found, pairs, moved, keypoints, people)
    turned = axis_angle_to_matrix(people.pose[2, 5])
    expected = dict(
        loss_box=2 * 0.1,
        loss_shape=3 * (2.56 + 1.28 + 0.64 + 0.64 + 6 * 0.32) / 10,
        loss_joints_3d=8 * 0.045 * 44 / 45,
        loss_joints_2d=40 * 0.02,
        loss_pose=5 * float((turned @ half_turn - turned).abs().mean()) / 24 / 3,
    )
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-4), name
        assert float(losses[f'd0.{name}']) == pytest.approx(0, abs=1e-5), 'the other layer was right'
    narrow, wide = people.boxes[:, 2], people.boxes[:, 2] + 0.1
    assert float(losses['loss_giou']) == pytest.approx(2 * float((1 - narrow / wide).mean()), rel=1e-4)


def test_depth_is_compared_as_nearness_in_the_camera_of_the_label(perfect, people):
    found, pairs, joints, keypoints = perfect
    shifted = joints + torch.tensor([0, 0, 1.0])
    depth = people.joints[:, 0, 2]
    wanted = 0.5 * float((1 / (depth + 1) - 1 / depth).abs().mean())
    assert float(MeshLoss()(found, pairs, shifted, keypoints, people)['loss_depth']) == pytest.approx(wanted, rel=1e-4)
    people.zoom = depth / (depth + 1)  # the label's camera has a shorter focal length
    assert float(MeshLoss()(found, pairs, shifted, keypoints, people)['loss_depth']) == pytest.approx(0, abs=1e-6)


def test_confidence_is_the_focal_loss(perfect, people):
    p = torch.tensor(4.0).sigmoid()
    right = float(-0.25 * (1 - p) ** 2 * p.log())
    wrong = float(-0.75 * (1 - p) ** 2 * p.log())  # as sure that nobody is there
    value = 4 * (3 * right + 5 * wrong) / 8
    assert float(MeshLoss()(*perfect, people)['loss_confidence']) == pytest.approx(value, rel=1e-4)
    huge = focal_loss(torch.tensor([-200.0, 200.0]), torch.tensor([True, True]))
    assert huge.isfinite().all() and huge[0] == pytest.approx(50) and huge[1] == 0


def test_unlabelled_people_are_no_negatives(perfect, people):
    found = perfect[0]
    found.logits[:, 0, :] = 4.0  # in the first picture all queries are sure
    people.complete[0] = False
    kind, published = MeshLoss(), MeshLoss(ignore_unlabelled=False)
    assert float(kind(*perfect, people)['loss_confidence']) < 0.01
    assert float(published(*perfect, people)['loss_confidence']) > 1


def test_people_without_3d_teach_their_boxes_and_keypoints_only(perfect, people):
    found, pairs, joints, keypoints = perfect
    people.has_3d[0] = False
    first = pairs.person == 0
    found.betas[pairs.index] += 5.0 * first[:, None]
    joints = torch.where(first[:, None, None], torch.full_like(joints, float('nan')), joints)
    keypoints = keypoints + 0.02 * first[:, None, None]
    losses = MeshLoss()(found, pairs, joints, keypoints, people)
    assert all(float(losses[f'loss_{name}']) == pytest.approx(0, abs=1e-5) for name in ('shape', 'joints_3d', 'depth'))
    assert float(losses['loss_joints_2d']) == pytest.approx(40 * 0.02 / 3, rel=1e-4)


def test_only_visible_joints_count(perfect, people):
    found, pairs, joints, keypoints = perfect
    people.visible[:, :9] = False
    keypoints[:, :9] += 1
    assert float(MeshLoss()(found, pairs, joints, keypoints, people)['loss_joints_2d']) == pytest.approx(0, abs=1e-5)
    published = MeshLoss(only_visible=False)(found, pairs, joints, keypoints, people)
    assert float(published['loss_joints_2d']) == pytest.approx(40 * 9 / 45, rel=1e-4)


def test_equal_rotations_are_equal(perfect, people):
    found, pairs, joints, keypoints = perfect
    axis = torch.nn.functional.normalize(people.pose, dim=-1)
    people.pose = people.pose - 2 * math.pi * axis  # the same rotations
    assert float(MeshLoss()(found, pairs, joints, keypoints, people)['loss_pose']) == pytest.approx(0, abs=1e-4)
    published = MeshLoss(pose='axis_angle')(found, pairs, joints, keypoints, people)
    assert float(published['loss_pose']) > 5


def test_denoising_losses_of_all_layers(perfect, people):
    real = torch.ones(2, 4, dtype=torch.bool)
    more = dict(real=real, groups=2, prefix='dn_')
    losses = MeshLoss()(*perfect, people, **more)
    assert set(losses) == {*names('dn_', 'd0.dn_'), 'dn_loss_confidence', 'd0.dn_loss_confidence'}
    assert set(MeshLoss(auxiliary_denoising=False)(*perfect, people, **more)) == {*names('dn_'), 'dn_loss_confidence'}
    perfect[0].boxes[perfect[1].index] += torch.tensor([0.0, 0.0, 0.1, 0.0])
    halves = MeshLoss()(*perfect, people, **more)
    assert float(halves['dn_loss_box']) == pytest.approx(2 * 0.1 / 2, rel=1e-4), 'people count once for each group'


@pytest.mark.parametrize(
    'args, message',
    [
        (dict(weights=dict(poses=1)), "poses.*did you mean 'pose'"),
        (dict(weights=dict(pose=-1)), r'losses\.weights\.pose=-1'),
        (dict(pose='quaternion'), 'losses.pose='),
        (dict(only_visible=1), 'losses.only_visible=1'),
    ],
)
def test_bad_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        MeshLoss(**args)
