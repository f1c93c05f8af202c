"""The metric on people whose errors are known."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmtoken.hmr.data.people import boxes_of
from mmtoken.hmr.geometry import axis_angle_to_matrix, fov_intrinsics, matrix_to_axis_angle, project
from mmtoken.hmr.metrics import HumanMeshMetric
from mmtoken.hmr.metrics.matching import match_people, overlaps
from mmtoken.registry import METRICS

SIZE = (480, 640)


def people(body, number, far=5.0):
    """A row of people, apart from each other; further away to the right."""
    pose = body.mean_pose.expand(number, -1, -1).clone()
    pose[:, 1:] += 0.1 * torch.randn(number, 23, 3)
    place = torch.arange(number, dtype=torch.float32)
    transl = torch.stack([1.2 * place - 2, torch.zeros(number), far + place], dim=1)
    return dict(smpl_pose=pose, smpl_betas=torch.randn(number, 10), transl=transl)


def labels(body, fields):
    out = body(*fields.values())
    keypoints = project(out.joints, fov_intrinsics(SIZE))
    boxes = torch.from_numpy(boxes_of(keypoints.numpy(), SIZE))
    return InstanceData(**fields, keypoints=keypoints, keypoints_3d=out.joints, bboxes=boxes)


def sample(body, truth, guess, scores=None, **meta):
    data = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, img_path='a/pic.png') | meta)
    data.gt_instances, data.pred_instances = labels(body, truth), labels(body, guess)
    data.pred_instances.scores = torch.ones(len(guess['transl'])) if scores is None else scores
    return data.to_dict()


def evaluate(metric, *samples):
    metric.process(None, list(samples))
    return metric.compute_metrics(metric.results)


def rows(fields, index):
    return {name: value[index].clone() for name, value in fields.items()}


def test_perfect_people_have_no_errors(body):
    truth = people(body, 3)
    values = evaluate(METRICS.build(dict(type='mmtoken.HumanMeshMetric')), sample(body, truth, rows(truth, [2, 0, 1])))
    for name in ('MPJPE', 'PA-MPJPE', 'MVE', 'NMJE', 'NMVE'):
        assert values[name] == pytest.approx(0, abs=1e-2)
    assert all(values[name] == 1 for name in ('F1', 'Precision', 'Recall')) and values['PCK'] == 100
    assert sum(v for k, v in values.items() if k.startswith('People')) == 3


def test_translation_does_not_count_and_rotation_only_before_procrustes(body):
    truth = people(body, 2)
    moved = rows(truth, [0, 1])
    moved['transl'] += 0.1
    values = evaluate(HumanMeshMetric(), sample(body, truth, moved))
    assert values['MPJPE'] == pytest.approx(0, abs=1e-2) and values['F1'] == 1
    turn = axis_angle_to_matrix(torch.tensor([0.0, 0.3, 0.0]))
    turned = rows(truth, [0, 1])
    turned['smpl_pose'][:, 0] = matrix_to_axis_angle(turn @ axis_angle_to_matrix(turned['smpl_pose'][:, 0]))
    values = evaluate(HumanMeshMetric(), sample(body, truth, turned))
    assert values['PA-MPJPE'] == pytest.approx(0, abs=1e-2)
    # By hand: each joint against the middle of the hips, turned.
    joints = body(*truth.values()).joints[:, :24]
    arms = joints - joints[:, [1, 2]].mean(1, keepdim=True)
    assert values['MPJPE'] == pytest.approx(1e3 * (arms @ turn.T - arms).norm(dim=-1).mean().item(), rel=1e-3)
    assert values['MVE'] > 10


def test_detection_and_normalised_errors(body):
    """Four labelled, one missed; of five guesses three are right, one is wrong and one unsure."""
    truth = people(body, 4)
    guess = rows(truth, [0, 1, 2])
    guess['smpl_pose'][:, 4, 0] += 0.5
    stranger = people(body, 2, far=30)
    stranger['transl'][:, 1] = -9
    guess = {name: torch.cat([guess[name], stranger[name]]) for name in guess}
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2])
    values = evaluate(HumanMeshMetric(), sample(body, truth, guess, scores))
    assert (values['Precision'], values['Recall'], values['F1']) == (0.75, 0.75, 0.75)
    assert values['NMJE'] == pytest.approx(values['MPJPE'] / 0.75) and values['NMVE'] == pytest.approx(
        values['MVE'] / 0.75
    )
    assert values['PCK_all'] == pytest.approx(values['PCK'] * 0.75)
    crowd = evaluate(HumanMeshMetric(), sample(body, truth, guess, scores, all_people=False))
    assert (crowd['Precision'], crowd['Recall']) == (1, 0.75)
    many = evaluate(HumanMeshMetric(round_f1=True), sample(body, people(body, 3), rows(people(body, 3), [0, 1])))
    assert many['Recall'] == 0.67 and many['F1'] == 0.8


def test_pck_counts_joints(body):
    truth = people(body, 1)
    guess = rows(truth, [0])
    guess['smpl_pose'][:, 16] = 0  # the left arm sideways: elbow, wrist and hand are off by more than 15 cm
    values = evaluate(HumanMeshMetric(), sample(body, truth, guess))
    assert values['PCK'] == pytest.approx(100 * 21 / 24)
    assert evaluate(HumanMeshMetric(pck_thr=2000), sample(body, truth, guess))['PCK'] == 100


def test_by_scale_and_over_pictures(body):
    """Errors of near and far people come into their own bins; the total is the mean over people, not over pictures."""
    near, far = people(body, 1, far=2.5), people(body, 3, far=25)
    bent = rows(near, [0])
    bent['smpl_pose'][:, 3, 0] += 0.6
    metric = HumanMeshMetric(scale_bins=(0, 0.2, 1))
    values = evaluate(metric, sample(body, near, bent), sample(body, far, rows(far, [0, 1])))
    assert values['MPJPE_0-0.2'] == pytest.approx(0, abs=1e-2) and values['MPJPE_0.2-1'] > 30
    assert (values['People_0-0.2'], values['People_0.2-1']) == (3, 1)
    assert values['Recall_0-0.2'] == pytest.approx(2 / 3) and values['Recall_0.2-1'] == 1
    assert values['MPJPE'] == pytest.approx(values['MPJPE_0.2-1'] / 3, rel=1e-3)
    # Somebody far away is seen who is not there: a mistake among the small ones.
    ghost = rows(far, [0, 1])
    ghost['transl'][1] += torch.tensor([-9.0, 0, 0])
    values = evaluate(HumanMeshMetric(scale_bins=(0, 0.2, 1)), sample(body, near, near), sample(body, far, ghost))
    assert (values['Precision_0-0.2'], values['Precision_0.2-1'], values['Precision']) == (0.5, 1, pytest.approx(2 / 3))
    assert values['F1_0-0.2'] == pytest.approx(1 / (1 + 0.5 * (1 + 2))) and values['F1_0.2-1'] == 1
    assert values['NMVE_0-0.2'] == pytest.approx(values['MVE_0-0.2'] / values['F1_0-0.2'])


def test_pixels_of_a_resized_picture(body):
    """Labels are in pixels of the resized picture, predictions in those of the original one."""
    truth = people(body, 3)
    data = sample(body, truth, truth, scale_factor=(0.5, 0.5), img_shape=(240, 320))
    data['gt_instances']['keypoints'] *= 0.5
    data['gt_instances']['bboxes'] *= 0.5
    assert evaluate(HumanMeshMetric(), data)['F1'] == 1


def test_nobody(body):
    truth, nobody = people(body, 2), people(body, 0)
    values = evaluate(HumanMeshMetric(), sample(body, truth, nobody))
    assert values['Recall'] == 0 and np.isnan(values['MPJPE']) and np.isnan(values['Precision'])
    values = evaluate(HumanMeshMetric(), sample(body, nobody, nobody), sample(body, nobody, truth))
    assert values['Precision'] == 0 and np.isnan(values['Recall'])


def test_people_without_parameters_are_neither_hits_nor_mistakes(body):
    truth = people(body, 3)
    data = sample(body, truth, truth)
    data['gt_instances']['smpl_valid'] = torch.tensor([True, False, True])
    data['gt_instances']['smpl_pose'][1] = float('nan')
    values = evaluate(HumanMeshMetric(), data)
    assert values['F1'] == 1 and values['MPJPE'] == pytest.approx(0, abs=1e-2)
    assert sum(v for k, v in values.items() if k.startswith('People')) == 2


def test_3dpw_protocol(body, tmp_path):
    """Fourteen of seventeen joints out of vertices, against the first; three of them do not count."""
    regressor = np.zeros((17, 1229), np.float32)
    regressor[np.arange(17), np.arange(17) * 70] = 1
    np.save(tmp_path / 'h36m.npy', regressor)
    metric = HumanMeshMetric(protocol='3dpw', joint_regressor=str(tmp_path / 'h36m.npy'))
    truth, guess = people(body, 1), people(body, 1)
    values = evaluate(metric, sample(body, truth, guess))
    a, b = (body(*x.values()).vertices[0] for x in (truth, guess))
    counted = [70 * i for i in range(17) if i not in (0, 7, 9)]
    off = (a[counted] - a[0] - b[counted] + b[0]).norm(dim=1).mean()
    assert values['MPJPE'] == pytest.approx(1e3 * off.item(), rel=1e-4)
    assert values['MVE'] == pytest.approx(1e3 * (a - a[0] - b + b[0]).norm(dim=1).mean().item(), rel=1e-4)


def test_labels_of_a_gender_have_its_body(body, smpl_arrays, tmp_path):
    np.savez(tmp_path / 'SMPL_FEMALE.npz', **smpl_arrays)
    metric = HumanMeshMetric(genders=dict(female=dict(type='SMPL', gender='female', model_path=str(tmp_path))))
    truth = labels(body, people(body, 2))
    fields = {name: truth[name] for name in ('smpl_pose', 'smpl_betas', 'transl', 'bboxes')}
    chosen = np.array([1])
    assert metric.label_mesh(fields, chosen, 'female')[0].shape == (1, 6890, 3)
    assert metric.label_mesh(fields, chosen, ['female', 'male'])[0].shape == (1, 1229, 3)


def test_vertices_that_count(body, tmp_path):
    np.save(tmp_path / 'ids.npy', np.arange(5))
    truth, guess = people(body, 1), people(body, 1)
    values = evaluate(HumanMeshMetric(vertex_ids=str(tmp_path / 'ids.npy')), sample(body, truth, guess))
    out, goal = body(*guess.values()), body(*truth.values())
    off = [x.vertices[0, :5] - x.joints[0, [1, 2]].mean(0) for x in (out, goal)]
    assert values['MVE'] == pytest.approx(1e3 * (off[0] - off[1]).norm(dim=1).mean().item(), rel=1e-3)


def test_submission(body, tmp_path):
    truth = people(body, 2)
    metric = HumanMeshMetric(format_only=True, outfile_prefix=str(tmp_path / 'out'))
    data = sample(body, truth, truth)
    del data['gt_instances']
    assert evaluate(metric, data) == {}
    with zipfile.ZipFile(tmp_path / 'out.zip') as archive:
        assert archive.namelist() == [f'predictions/pic_personId_{i}.pkl' for i in range(2)]
        person = pickle.loads(archive.read('predictions/pic_personId_1.pkl'))
    shapes = {name: value.shape for name, value in person['params'].items()}
    assert shapes == dict(transl=(1, 3), betas=(1, 10), global_orient=(1, 1, 3), body_pose=(1, 23, 3))
    keypoints = labels(body, truth).keypoints[1, :24].numpy()
    np.testing.assert_allclose(person['joints'], keypoints * [3840 / 640, 2160 / 480], rtol=1e-5)
    with pytest.raises(ValueError, match='hold no gt_instances'):
        evaluate(HumanMeshMetric(), data)


def test_greedy_pairs():
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    assert match_people(square[None] + [[[1, 0]], [[0.2, 0]], [[500, 0]]], square[None] + [[[0, 0]], [[3, 0]]]) == [
        (1, 0),
        (0, 1),
    ]
    assert match_people(square[None][:0], square[None]) == []
    boxes = np.array([[0.0, 0, 9, 9]])
    assert overlaps(boxes, boxes + np.array([5, 0, 5, 0]))[0, 0] == pytest.approx(50 / 150)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(protocol='3dpv'), "did you mean '3dpw'"),
        (dict(protocol='3dpw'), 'needs joint_regressor'),
        (dict(scale_bins=(0.5, 0.1)), 'ascending'),
        (dict(format_only=True), 'needs outfile_prefix'),
        (dict(score_thr=2), 'score_thr=2'),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        HumanMeshMetric(**wrong)
