"""Made-up labels, so that a training step can be timed without a data set."""

import numpy as np
import torch
from torch import nn

from .tasks import task_of

#: Objects in each picture; COCO has 7.
OBJECTS = 7


def synthetic_samples(model: nn.Module, batch: int, shape: tuple[int, int], device: str = 'cpu') -> list:
    """Labels for a batch of pictures, random and the same at every call.

    Args:
        model (nn.Module): A segmentor or depth estimator of mmseg, a detector of mmdet, or a human mesh model.
        batch (int): Number of pictures.
        shape (tuple[int, int]): ``(H, W)`` of the pictures in pixels.
        device (str): Where the labels lie.

    Returns:
        list[SegDataSample | DetDataSample]: One for each picture.

    Raises:
        ValueError: If the model is none of these.
    """
    makers = dict(segment=_label_map, detect=_objects, depth=_depth_map, mesh=_people)
    task, rng = task_of(model).name, np.random.default_rng(0)
    if task not in makers:
        raise ValueError(
            f'--train knows labels to {", ".join(makers)}, but {type(model).__name__} is there for {task}.'
        )
    return [makers[task](model, rng, shape).to(device) for _ in range(batch)]


def _meta(shape: tuple[int, int]) -> dict:
    return dict(ori_shape=shape, img_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))


def fewest(model: nn.Module, name: str) -> int:
    """The least that a module of the model has of something, such as ``num_classes``; 0 if none says."""
    counts = [getattr(module, name, None) for module in model.modules()]
    return min((count for count in counts if isinstance(count, int)), default=0)


def _label_map(model: nn.Module, rng: np.random.Generator, shape: tuple[int, int]):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=_meta(shape))
    classes = fewest(model.decode_head, 'num_classes')
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(rng.integers(0, classes, (1, *shape))))
    return sample


def _depth_map(model: nn.Module, rng: np.random.Generator, shape: tuple[int, int]):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=_meta(shape))
    sample.gt_depth_map = PixelData(data=torch.from_numpy(rng.uniform(1, 10, (1, *shape))).float())
    return sample


def _objects(model: nn.Module, rng: np.random.Generator, shape: tuple[int, int]):
    """Boxes of a tenth to half of the picture's sides, masks that fill them, and a label map of stuff."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    things = fewest(model, 'num_things_classes') or fewest(model, 'num_classes')
    stuff = fewest(model, 'num_stuff_classes')
    size = np.array(shape[::-1])
    extent = rng.uniform(0.1, 0.5, (OBJECTS, 2)) * size
    corner = rng.uniform(0, 1, (OBJECTS, 2)) * (size - extent)
    boxes = np.concatenate([corner, corner + extent], 1)
    masks = np.zeros((OBJECTS, *shape), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().astype(int)):
        mask[top : bottom + 1, left : right + 1] = 1
    sample = DetDataSample(metainfo=_meta(shape))
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes).float(),
        labels=torch.from_numpy(rng.integers(0, things, OBJECTS)),
        masks=BitmapMasks(masks, *shape),
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(rng.integers(things, things + max(stuff, 1), (1, *shape))))
    return sample


def _people(model: nn.Module, rng: np.random.Generator, shape: tuple[int, int]):
    """People who stand 2 to 12 metres away, seen by the camera that the model supposes."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    from mmtoken.hmr.geometry import fov_intrinsics, points_to_boxes, project

    mean = model.body.mean_pose.cpu()
    pose = mean + torch.from_numpy(rng.normal(0, 0.2, (OBJECTS, *mean.shape))).float()
    betas = torch.from_numpy(rng.normal(0, 1, (OBJECTS, len(model.body.mean_shape)))).float()
    depth = rng.uniform(2, 12, (OBJECTS, 1))
    transl = torch.from_numpy(np.concatenate([rng.uniform(-0.4, 0.4, (OBJECTS, 2)) * depth, depth], 1)).float()
    device = model.body.mean_pose.device
    joints = model.body.joints(pose.to(device), betas.to(device), transl.to(device)).cpu()
    points = project(joints, fov_intrinsics(shape))
    sample = DetDataSample(metainfo=_meta(shape))
    sample.gt_instances = InstanceData(
        bboxes=points_to_boxes(points, shape),
        labels=torch.zeros(OBJECTS, dtype=torch.int64),
        smpl_pose=pose,
        smpl_betas=betas,
        transl=transl,
        keypoints=points,
        keypoints_3d=joints,
    )
    return sample
