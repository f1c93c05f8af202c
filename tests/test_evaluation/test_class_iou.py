"""ClassIoUMetric: mmseg's means, and the values of each class."""

import pytest
import torch

import mmtoken  # noqa: F401
from mmtoken.registry import METRICS

CLASSES = ('background', 'vessel')


def evaluate(pairs, **kwargs):
    metric = METRICS.build(dict(type='mmtoken.ClassIoUMetric', **kwargs))
    metric.dataset_meta = dict(classes=CLASSES)
    for predicted, label in pairs:
        sample = dict(
            pred_sem_seg=dict(data=torch.tensor(predicted)[None]),
            gt_sem_seg=dict(data=torch.tensor(label)[None]),
            img_path='1.png',
        )
        metric.process({}, [sample])
    return metric.evaluate(len(pairs))


PAIRS = [
    ([[0, 1, 1, 0], [1, 0, 1, 0]], [[0, 1, 0, 0], [1, 255, 255, 1]]),
    ([[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 255]]),
]


def test_values_of_each_class_are_those_of_the_formula():
    found = evaluate(PAIRS, iou_metrics=['mIoU', 'mDice'])
    areas = {}
    for k, name in enumerate(CLASSES):
        cells = [(p, t) for ps, ts in PAIRS for pr, tr in zip(ps, ts) for p, t in zip(pr, tr) if t != 255]
        both, predicted, true = (
            sum(p == t == k for p, t in cells),
            sum(p == k for p, _ in cells),
            sum(t == k for _, t in cells),
        )
        areas[name] = both, predicted, true
        assert found[f'Dice.{name}'] == pytest.approx(200 * both / (predicted + true), abs=0.005)
        assert found[f'IoU.{name}'] == pytest.approx(100 * both / (predicted + true - both), abs=0.005)
        assert found[f'Acc.{name}'] == pytest.approx(100 * both / true, abs=0.005)
    assert areas['vessel'] == (3, 5, 4)  # over all pictures, not the mean of pictures


def test_means_are_those_of_mmseg():
    from mmseg.registry import METRICS as MMSEG_METRICS

    kwargs = dict(iou_metrics=['mIoU', 'mFscore'])
    found = evaluate(PAIRS, **kwargs)
    metric = MMSEG_METRICS.build(dict(type='IoUMetric', **kwargs))
    metric.dataset_meta = dict(classes=CLASSES)
    for predicted, label in PAIRS:
        metric.results.append(metric.intersect_and_union(torch.tensor(predicted), torch.tensor(label), 2, 255))
    means = metric.compute_metrics(metric.results)
    assert {key: found[key] for key in means} == means
    assert set(found) - set(means) == {
        f'{v}.{c}' for v in ('IoU', 'Acc', 'Fscore', 'Precision', 'Recall') for c in CLASSES
    }


def test_writes_predictions_without_scores(tmp_path):
    assert evaluate(PAIRS[:1], format_only=True, output_dir=str(tmp_path)) == {}
    assert (tmp_path / '1.png').is_file()
