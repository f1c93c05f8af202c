"""People: what the losses compare, for all people of a batch one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from torch import Tensor

from mmtoken.hmr.body import SkinnedBody
from mmtoken.hmr.geometry import axis_angle_to_matrix


@dataclass
class People:
    """Labels of P people in B pictures, those of the first picture first.

    Args:
        counts (list[int]): People of each picture.
        image (Tensor): Picture of each ``(P,)``, int64.
        boxes (Tensor): Centre x and y, width and height ``(P, 4)``, in parts of the side S.
        pose (Tensor): Axis-angle of the joints ``(P, 24, 3)``, the first in the camera's frame.
        betas (Tensor): Shape ``(P, 10)``.
        joints (Tensor): Joints in the camera's frame ``(P, J, 3)``, metres.
        keypoints (Tensor): Joints in the picture ``(P, J, 2)``, in parts of S.
        visible (Tensor): Which of these count ``(P, J)``, bool.
        has_3d (Tensor): Whose joints and translation are true and not fitted ``(P,)``, bool.
        has_body (Tensor): Who has pose and betas, true or fitted ``(P,)``, bool.
        complete (Tensor): Pictures in which everybody is labelled ``(B,)``, bool.
        zoom (Tensor): Focal length of the label's camera over that of the prediction's ``(P,)``.
    """

    counts: list[int]
    image: Tensor
    boxes: Tensor
    pose: Tensor
    betas: Tensor
    joints: Tensor
    keypoints: Tensor
    visible: Tensor
    has_3d: Tensor
    has_body: Tensor
    complete: Tensor
    zoom: Tensor

    def __len__(self) -> int:
        return len(self.image)

    @property
    def rotations(self) -> Tensor:
        """Rotation matrices of the joints ``(P, 24, 3, 3)``."""
        return axis_angle_to_matrix(self.pose)

    @classmethod
    def of(cls, samples: Sequence, body: SkinnedBody, side: int, cameras: Tensor) -> People:
        """Reads the ground truth of data samples.

        ``gt_instances`` is as ``mmtoken.PackPeople`` makes it: ``bboxes (N, 4)`` and ``keypoints (N, J, 2)`` in pixels,
        ``smpl_pose (N, 24, 3)``, ``smpl_betas (N, 10)`` and ``transl (N, 3)``; optionally ``keypoints_3d (N, J, 3)``,
        ``keypoints_visible (N, J)``, ``smpl_valid (N,)`` and ``valid_3d (N,)``. What is not finite counts as not there.
        ``all_people=False`` in the metainfo says that a picture shows people without labels.

        Args:
            samples (Sequence[DetDataSample]): One for each picture.
            body (SkinnedBody): Body model, which makes the joints of the labelled poses.
            side (int): Side S in pixels.
            cameras (Tensor): Cameras of the predictions ``(B, 3, 3)``; on their device all is put.

        Raises:
            ValueError: If a field is missing, or keypoints are not those of the body model.
        """
        instances = [sample.gt_instances for sample in samples]
        counts = [len(one) for one in instances]
        device = cameras.device
        image = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))

        def cat(name: str, default=None) -> Tensor:
            for one in instances:
                if name not in one and default is None:
                    raise ValueError(
                        f'The data samples lack gt_instances.{name}, from which the human mesh model learns; pack it '
                        'in the pipeline.'
                    )
            values = [one[name] if name in one else default(len(one)) for one in instances]
            return torch.cat([torch.as_tensor(getattr(value, 'tensor', value)) for value in values]).to(device)

        pose, betas, transl = (cat(name).float() for name in ('smpl_pose', 'smpl_betas', 'transl'))
        pose = pose.unflatten(1, (-1, 3)) if pose.dim() == 2 else pose
        everybody = partial(torch.ones, dtype=torch.bool)
        has_body = cat('smpl_valid', everybody).bool()
        has_body = has_body & pose.isfinite().all(-1).all(-1) & betas.isfinite().all(-1)
        pose, betas = pose.nan_to_num(0, 0, 0), betas.nan_to_num(0, 0, 0)
        if all('keypoints_3d' in one for one in instances):
            joints = cat('keypoints_3d').float()
        else:
            with torch.no_grad():
                joints = body.joints(pose, betas, transl)
        has_3d = cat('valid_3d', everybody).bool() & joints.isfinite().all(-1).all(-1)
        joints = joints.nan_to_num(0, 0, 0)
        keypoints = cat('keypoints').float()
        wanted = len(body.joint_names)
        if keypoints.shape[1] != wanted or joints.shape[1] != wanted:
            raise ValueError(
                f'gt_instances.keypoints has {keypoints.shape[1]} points, keypoints_3d {joints.shape[1]}, and '
                f'model.body_model {wanted} joints; let the dataset use the same body model.'
            )
        visible = cat('keypoints_visible', lambda n: torch.ones(n, keypoints.shape[1])) > 0
        visible = visible & keypoints.isfinite().all(-1)
        own = [sample.metainfo.get('cam_intrinsics') for sample in samples]
        focal = [float(used[0, 0] if k is None else torch.as_tensor(k)[0, 0]) for k, used in zip(own, cameras.cpu())]
        zoom = torch.tensor(focal, device=device) / cameras[:, 0, 0]
        complete = [bool(sample.metainfo.get('all_people', True)) for sample in samples]
        return cls(
            counts=counts,
            image=image,
            boxes=bbox_xyxy_to_cxcywh(cat('bboxes').float()) / side,
            pose=pose,
            betas=betas,
            joints=joints,
            keypoints=keypoints.nan_to_num(0, 0, 0) / side,
            visible=visible,
            has_3d=has_3d,
            has_body=has_body,
            complete=torch.tensor(complete, device=device),
            zoom=zoom[image],
        )
