"""Errors of human meshes over a dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmtoken.core.arguments import check_choice, check_flag, check_number
from mmtoken.hmr.data.people import boxes_of
from mmtoken.hmr.data.scale_map import scales_of
from mmtoken.registry import BODY_MODELS, METRICS

from .agora import person_record, write_submission
from .errors import Protocol, threedpw
from .matching import match_people

#: Which scales say to what bin the rows of a value belong.
OF_SCALE = dict.fromkeys(('joints', 'aligned', 'vertices', 'paired_scales'), 'paired_scales')
OF_SCALE |= dict(scales='scales', found='scales', mistakes='mistakes')


@METRICS.register_module()
class HumanMeshMetric(BaseMetric):
    """Detection and errors of several people's meshes, as AGORA, BEDLAM and 3DPW measure them, in total and by scale.

    People are paired greedily by their 24 joints in the picture (:func:`.matching.match_people`). Over all pairs of
    the dataset:

    - ``MPJPE``, ``MVE``: mean distance of joints and of vertices in mm, after the roots are laid onto each other
    (AGORA: middle
      of the hips, 24 joints; 3DPW: pelvis of Human3.6M's regressor, 14 joints).
    - ``PA-MPJPE``: mean distance of joints in mm, after the best similarity.
    - ``Precision``, ``Recall``, ``F1``; ``NMJE``, ``NMVE``: MPJPE and MVE over F1.
    - ``PCK``: share of joints within ``pck_thr``, in percent; ``PCK_all`` counts missed people's joints as wrong.
    - ``MPJPE_0.1-0.2``, …: all of these of people of such scales (diagonal of the box over the longest side of the
      picture; that of the label, and of the prediction where it is a mistake), and how many labelled ``People`` there
      are.

    What nobody was paired with, or divides by zero, is nan. Labelled people without SMPL parameters (``smpl_valid``)
    are paired and then left out; in pictures with ``all_people=False`` predictions without a partner are no mistakes.

    Args:
        body_model (dict, optional): Config of the labels' body model, and of predictions without ``vertices``; None is
            ``dict(type='FreeBody')``.
        protocol (str): ``'agora'`` or ``'3dpw'``. Defaults to ``'agora'``.
        joint_regressor (str, optional): ``.npy`` with Human3.6M's regressor ``(17, V)``, which 3DPW needs.
        vertex_ids (str, optional): ``.npy`` with the vertices that count, as AGORA's ``body_verts_smpl.npy``; None
            counts all.
        genders (dict, optional): Configs of the labels' body models by ``gender`` in the metainfo, as 3DPW has it:
            one value, or one a person.
        score_thr (float): Predictions with lower scores are left out. Defaults to 0.5; 3DPW is evaluated at 0.3.
        iou_thr (float): Least overlap of a pair. Defaults to 0.1.
        pck_thr (float): Millimetres. Defaults to 150.
        scale_bins (Sequence[float]): Borders of the scales, ascending. Defaults to (0, 0.1, 0.2, 0.3, 0.5, 0.8, 1).
        round_f1 (bool): Round precision, recall and F1 to two digits before dividing by F1, as AGORA's code does.
            Defaults to False.
        format_only (bool): Only write a submission for AGORA's server. Defaults to False.
        outfile_prefix (str, optional): The submission is ``<outfile_prefix>.zip``; it is written whenever this is set.
        **kwargs: Those of mmengine's ``BaseMetric``: ``collect_device``, ``prefix``.

    Raises:
        ValueError: For a bad argument.
        FileNotFoundError: If a file is missing.
    """

    default_prefix = None

    def __init__(
        self,
        body_model: dict | None = None,
        protocol: str = 'agora',
        joint_regressor: str | None = None,
        vertex_ids: str | None = None,
        genders: dict[str, dict] | None = None,
        score_thr: float = 0.5,
        iou_thr: float = 0.1,
        pck_thr: float = 150.0,
        scale_bins: Sequence[float] = (0, 0.1, 0.2, 0.3, 0.5, 0.8, 1),
        round_f1: bool = False,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice('protocol', protocol, ('agora', '3dpw'))
        self.score_thr, self.iou_thr = (
            check_number('score_thr', score_thr, 0, 1),
            check_number('iou_thr', iou_thr, 0, 1),
        )
        self.pck_thr, self.round_f1 = check_number('pck_thr', pck_thr, 0), check_flag('round_f1', round_f1)
        self.format_only, self.outfile = check_flag('format_only', format_only), outfile_prefix
        self.bins = [float(edge) for edge in scale_bins]
        if self.bins != sorted(set(self.bins)) or len(self.bins) == 1:
            raise ValueError(f'scale_bins={scale_bins!r} must be ascending borders, such as (0, 0.3, 1); () is none.')
        if format_only and outfile_prefix is None:
            raise ValueError('format_only=True needs outfile_prefix, the name of the zip without its ending.')
        if protocol == '3dpw' and joint_regressor is None:
            raise ValueError(
                "protocol='3dpw' needs joint_regressor, the file J_regressor_h36m.npy that SPIN and mmhuman3d name."
            )
        self.protocol = Protocol() if joint_regressor is None else threedpw(np.load(joint_regressor))
        if vertex_ids is not None:
            self.protocol.vertices = torch.from_numpy(np.load(vertex_ids).astype(np.int64))
        self.body = BODY_MODELS.build(body_model or dict(type='FreeBody'))
        self.bodies = {name: BODY_MODELS.build(cfg) for name, cfg in (genders or {}).items()}

    # ------------------------------------------------------------------ one picture
    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps what the pictures of a batch add; needs ``pred_instances`` in pixels of the original picture."""
        for sample in data_samples:
            predicted = {name: _numbers(value) for name, value in sample['pred_instances'].items()}
            sure = predicted['scores'] >= self.score_thr
            predicted = {name: value[sure] for name, value in predicted.items()}
            record: dict = {}
            if self.outfile is not None:
                size = sample['ori_shape'][:2]
                fields = (predicted[key].numpy() for key in ('keypoints', 'transl', 'smpl_pose', 'smpl_betas'))
                record['people'] = [
                    (sample['img_path'], i, person_record(keypoints, transl, pose, betas, size))
                    for i, (keypoints, transl, pose, betas) in enumerate(zip(*fields))
                ]
            if not self.format_only:
                record |= self.compare(predicted, sample)
            self.results.append(record)

    def compare(self, predicted: dict[str, Tensor], sample: dict) -> dict:
        """Compares the people of a picture.

        Returns:
            dict: Of the P pairs ``joints (P, K)``, ``aligned (P,)`` and ``vertices (P,)``, see
                :class:`.errors.Protocol`, and
            ``paired_scales (P,)``; of the M labelled people ``scales (M,)`` and ``found (M,)``, bool; the scales of
            ``mistakes``.
        """
        if 'gt_instances' not in sample:
            raise ValueError(
                'HumanMeshMetric needs labels: the data samples hold no gt_instances (format_only=True does).'
            )
        labelled = {name: _numbers(value) for name, value in sample['gt_instances'].items()}
        factor = np.asarray(sample.get('scale_factor', (1, 1)), np.float64)[:2]
        keypoints = labelled['keypoints'][:, :24].numpy() / factor
        pairs = match_people(predicted['keypoints'][:, :24].numpy(), keypoints, self.iou_thr)
        valid = labelled.get('smpl_valid', torch.ones(len(keypoints), dtype=torch.bool)).numpy().astype(bool)
        scales = scales_of(labelled['bboxes'].numpy(), max(sample['img_shape'][:2]))
        mistakes = np.zeros(0)
        if sample.get('all_people', True):
            alone = np.setdiff1d(np.arange(len(predicted['scores'])), [i for i, _ in pairs])
            size = sample.get('ori_shape', sample['img_shape'])[:2]
            mistakes = scales_of(boxes_of(predicted['keypoints'].numpy()[alone], size), max(size))
        pairs = [(i, j) for i, j in pairs if valid[j]]
        rows, columns = (np.array([pair[k] for pair in pairs], int) for k in (0, 1))
        errors = self.protocol.errors(
            self.mesh(predicted, rows), self.label_mesh(labelled, columns, sample.get('gender'))
        )
        found = np.zeros(len(valid), bool)
        found[columns] = True
        return dict(errors, paired_scales=scales[columns], scales=scales[valid], found=found[valid], mistakes=mistakes)

    def mesh(self, people: dict[str, Tensor], chosen: np.ndarray, body: Any = None) -> tuple[Tensor, Tensor]:
        """Returns vertices and joints of some people, made by the body model unless they are there."""
        if 'vertices' in people and 'keypoints_3d' in people:
            return people['vertices'][chosen], people['keypoints_3d'][chosen]
        with torch.no_grad():
            return (body or self.body)(*(people[key][chosen] for key in ('smpl_pose', 'smpl_betas', 'transl')))

    def label_mesh(self, labelled: dict[str, Tensor], chosen: np.ndarray, gender: Any) -> tuple[Tensor, Tensor]:
        """Returns vertices and joints of labels, each by the body of its gender."""
        if not self.bodies or gender is None or not len(chosen):
            return self.mesh(labelled, chosen)
        names = [gender] * len(labelled['bboxes']) if isinstance(gender, str) else list(gender)
        meshes = [self.mesh(labelled, np.array([i]), self.bodies.get(names[i])) for i in chosen.tolist()]
        vertices, joints = zip(*meshes)
        return torch.cat(vertices), torch.cat(joints)

    # ------------------------------------------------------------------ all of them
    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns the values by name, see the class; none with ``format_only``."""
        if self.outfile is not None:
            write_submission(Path(f'{self.outfile}.zip'), (one for record in results for one in record['people']))
        if self.format_only:
            return {}
        everybody = {key: np.concatenate([record[key] for record in results]) for key in results[0] if key != 'people'}
        values = self.summary(**everybody)
        for low, high in zip(self.bins, self.bins[1:]):
            last = high == self.bins[-1]
            some = {}
            for key, rows in everybody.items():
                scale = everybody[OF_SCALE[key]]
                some[key] = rows[(scale >= low) & ((scale < high) | (last & (scale == high)))]
            here = self.summary(**some) | dict(People=len(some['found']))
            values |= {f'{name}_{low:g}-{high:g}': value for name, value in here.items()}
        return values

    def summary(self, joints, aligned, vertices, paired_scales, scales, found, mistakes) -> dict[str, float]:
        """Returns the values of some people, see :meth:`compare` for what they are computed from."""
        hits, labelled, wrong = int(found.sum()), len(found), len(mistakes)
        precision, recall = _ratio(hits, hits + wrong), _ratio(hits, labelled)
        f1 = _ratio(hits, hits + 0.5 * (wrong + labelled - hits))
        if self.round_f1:
            precision, recall, f1 = (round(x, 2) for x in (precision, recall, f1))
        close = joints <= self.pck_thr
        values = {'MPJPE': _mean(joints), 'PA-MPJPE': _mean(aligned), 'MVE': _mean(vertices)}
        values |= {'NMJE': _ratio(values['MPJPE'], f1), 'NMVE': _ratio(values['MVE'], f1)}
        values |= {'F1': f1, 'Precision': precision, 'Recall': recall}
        return values | {'PCK': 100 * _mean(close), 'PCK_all': 100 * _ratio(close.mean(1).sum(), labelled)}


def _numbers(value: Any) -> Tensor:
    """Returns a field of a data sample as a tensor on the CPU."""
    return torch.as_tensor(getattr(value, 'tensor', value)).cpu()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float('nan')


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else float('nan')
