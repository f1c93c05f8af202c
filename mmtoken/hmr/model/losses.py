"""The losses of SAT-HMR (arXiv 2411.19824, section 3.4 and supplement)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmdet.utils import reduce_mean
from torch import Tensor

from mmtoken.core.arguments import check_choice, check_flag, check_number
from mmtoken.hmr.geometry import matrix_to_axis_angle

from .heads import Predictions
from .matching import Pairs
from .people import People

WEIGHTS = dict(confidence=4.0, pose=5.0, shape=3.0, box=2.0, giou=2.0, joints_3d=8.0, joints_2d=40.0, depth=0.5)


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each entry (arXiv 1708.02002, eq. 5); ``target`` is bool."""
    right = torch.where(target, logits, -logits)
    weight = torch.where(target, alpha, 1 - alpha)
    return weight * (-right).sigmoid() ** gamma * -F.logsigmoid(right)


class MeshLoss:
    """Losses of matched queries, summed over layers by name: ``loss_…`` of the last one, ``d0.loss_…`` of the first.

    Those of a person are means over its joints or parameters; they are summed over the people that have the label and
    divided by their number, a mean over GPUs. Three switches restore what the code of the paper does.

    Args:
        weights (dict, optional): Weights by name, over those of the paper.
        pose (str): Compare rotations as ``matrix``, or as ``axis_angle`` as the paper's code does, in which equal
            rotations may differ by 2π. Defaults to ``matrix``.
        auxiliary_denoising (bool): Also compute the denoising losses of the earlier layers; the paper's code never
            does. Defaults to True.
        ignore_unlabelled (bool): In pictures that show people without labels, let no query learn that nobody is there;
            the paper's code has them learn it. Defaults to True.
        only_visible (bool): Leave out joints that the data call invisible; the paper's code counts all. Defaults to
            True.

    Raises:
        ValueError: For an unknown weight, or a bad value.
    """

    def __init__(
        self,
        weights: dict | None = None,
        pose: str = 'matrix',
        auxiliary_denoising: bool = True,
        ignore_unlabelled: bool = True,
        only_visible: bool = True,
    ):
        for name, value in (weights or {}).items():
            check_choice('losses.weights: entry', name, tuple(WEIGHTS))
            check_number(f'losses.weights.{name}', value, 0)
        self.weights = {**WEIGHTS, **(weights or {})}
        self.pose = check_choice('losses.pose', pose, ('matrix', 'axis_angle'))
        self.auxiliary_denoising = check_flag('losses.auxiliary_denoising', auxiliary_denoising)
        self.ignore_unlabelled = check_flag('losses.ignore_unlabelled', ignore_unlabelled)
        self.only_visible = check_flag('losses.only_visible', only_visible)

    def __call__(
        self,
        predictions: Predictions,
        pairs: Pairs,
        joints: Tensor,
        keypoints: Tensor,
        people: People,
        real: Tensor | None = None,
        groups: int = 1,
        prefix: str = '',
    ) -> dict[str, Tensor]:
        """Returns the weighted losses by name.

        Args:
            predictions (Predictions): Of L layers and Q queries.
            pairs (Pairs): M pairs of queries and people.
            joints (Tensor): Joints of the pairs' queries in the camera's frame ``(M, J, 3)``, metres.
            keypoints (Tensor): These in the picture ``(M, J, 2)``, in parts of S.
            people (People): Labels.
            real (Tensor, optional): Queries that count ``(B, Q)``, bool; all by default.
            groups (int): Denoising groups, in each of which everybody is matched once. Defaults to 1.
            prefix (str): Before the names, such as ``dn_``. Defaults to none.
        """
        layers = len(predictions.logits)
        terms = self.of_people(predictions[pairs.index], joints, keypoints, people, pairs.person)
        values = {'confidence': self.of_confidence(predictions.logits, pairs, people, real) / groups}
        for name, (loss, labelled) in terms.items():
            number = reduce_mean((labelled.sum() * groups).float()).clamp(min=1)
            # where() and no product: what an unlabelled person gives may be infinite
            loss = torch.where(labelled[pairs.person], loss, 0.0)
            values[name] = loss.new_zeros(layers).index_add(0, pairs.layer, loss) / number
        last = layers - 1
        return {
            f'{"" if layer == last else f"d{layer}."}{prefix}loss_{name}': self.weights[name] * value[layer]
            for layer in (range(layers) if not prefix or self.auxiliary_denoising else [last])
            for name, value in values.items()
        }

    def of_confidence(self, logits: Tensor, pairs: Pairs, people: People, real: Tensor | None) -> Tensor:
        """Returns the focal loss of each layer ``(L,)``, mean over the queries that count."""
        target = torch.zeros_like(logits, dtype=torch.bool)
        target[pairs.index] = True
        counts = torch.ones_like(target) if real is None else real.expand_as(target)
        if self.ignore_unlabelled:
            counts = counts & (target | people.complete[:, None])
        loss = torch.where(counts, focal_loss(logits, target), 0.0)
        return loss.sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)

    def of_people(
        self, found: Predictions, joints: Tensor, keypoints: Tensor, people: People, person: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns by name the losses of the pairs ``(M,)``, and which of the P people have such a label ``(P,)``.

        Args:
            found (Predictions): Of the pairs' queries ``(M, …)``.
            joints (Tensor): See :meth:`__call__`.
            keypoints (Tensor): See :meth:`__call__`.
            people (People): Labels.
            person (Tensor): Who is in each pair ``(M,)``.
        """
        corners, goal = bbox_cxcywh_to_xyxy(found.boxes), bbox_cxcywh_to_xyxy(people.boxes)[person]
        if self.pose == 'matrix':
            pose = (found.rotations - people.rotations[person]).abs().mean((1, 2, 3))
        else:
            pose = (matrix_to_axis_angle(found.rotations) - people.pose[person]).abs().mean((1, 2))
        weight = found.betas.new_full(found.betas.shape[1:], 0.32)
        weight[:4] = weight.new_tensor([2.56, 1.28, 0.64, 0.64])
        goal_joints = people.joints[person]
        shape = joints - joints[:, :1] - (goal_joints - goal_joints[:, :1])  # around the pelvis
        visible = people.visible if self.only_visible else torch.ones_like(people.visible)
        there = visible[person].to(keypoints.dtype)
        away = (keypoints - people.keypoints[person]).abs().mean(-1) * there
        everybody, has_3d = torch.ones_like(people.has_3d), people.has_3d
        has_body = has_3d & people.has_body
        depth, goal_depth = joints[:, 0, 2] * people.zoom[person], goal_joints[:, 0, 2]
        nearness = 1 / depth.clamp(min=0.1) - 1 / goal_depth.clamp(min=0.1)
        return dict(
            box=((found.boxes - people.boxes[person]).abs().sum(-1), everybody),
            giou=(1 - bbox_overlaps(corners, goal, mode='giou', is_aligned=True), everybody),
            pose=(pose, has_body),
            shape=(((found.betas - people.betas[person]).abs() * weight).mean(-1), has_body),
            joints_3d=(shape.abs().mean((1, 2)), has_3d),
            joints_2d=(away.sum(-1) / there.sum(-1).clamp(min=1), visible.any(-1)),
            depth=(nearness.abs(), has_3d),
        )
