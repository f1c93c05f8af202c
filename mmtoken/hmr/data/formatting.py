"""From arrays to what a model takes."""

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData

from mmtoken.registry import TRANSFORMS

from .people import FIELDS

#: Names in ``gt_instances`` that differ from those in ``results`` by more than ``gt_``.
NAMES = dict(gt_pose='smpl_pose', gt_betas='smpl_betas')


@TRANSFORMS.register_module()
class PackPeople(BaseTransform):
    """Packs a picture and its people, as mmdet's ``PackDetInputs`` packs boxes.

    Gives ``inputs (3, H, W)``, uint8 or as the picture is, and ``data_samples``, a ``DetDataSample``:
    ``gt_instances`` with ``bboxes``, ``labels`` (all 0), ``smpl_pose``, ``smpl_betas``, ``transl``, ``keypoints``,
    ``keypoints_visible``, ``keypoints_3d``, ``smpl_valid`` and ``valid_3d`` (shapes: see
    :data:`mmtoken.hmr.data.people.FIELDS`); ``gt_scale_map`` where :class:`MakeScaleMap` ran; ``cam_intrinsics`` and
    others in the metainfo.

    Args:
        meta_keys (tuple[str, …]): Keys of ``results`` that go into the metainfo where they exist.
    """

    def __init__(
        self,
        meta_keys: tuple[str, ...] = (
            *('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'cam_intrinsics'),
            *('all_people', 'dataset', 'gender'),
        ),
    ):
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Packs; a picture without people gets ``gt_instances`` of length 0.

        Raises:
            ValueError: If there is no picture yet.
        """
        if 'img' not in results:
            raise ValueError(
                "PackPeople: there is no picture; put dict(type='mmtoken.LoadPeople') first in the pipeline."
            )
        image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        sample = DetDataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        if 'gt_bboxes' in results:
            people = InstanceData()
            for key in FIELDS:
                people.set_field(torch.from_numpy(results[key]), NAMES.get(key, key.removeprefix('gt_')))
            people.labels = torch.zeros(len(people.bboxes), dtype=torch.int64)
            sample.gt_instances = people
        if 'gt_scale_map' in results:
            sample.gt_scale_map = PixelData(data=torch.from_numpy(results['gt_scale_map']))
        return dict(inputs=torch.from_numpy(image), data_samples=sample)
