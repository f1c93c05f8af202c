"""Which query stands for which labelled person: the cheapest assignment (Kuhn 1955), for each layer and picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor

from mmtoken.core.arguments import check_number

from .people import People


@dataclass
class Pairs:
    """Pairs of a query and a labelled person.

    Args:
        layer (Tensor): Layer of the decoder ``(M,)``, int64.
        image (Tensor): Picture ``(M,)``.
        query (Tensor): Query ``(M,)``.
        person (Tensor): Person among those of the batch ``(M,)``.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    person: Tensor

    @property
    def index(self) -> tuple[Tensor, Tensor, Tensor]:
        """Index into predictions ``(L, B, Q, …)``."""
        return self.layer, self.image, self.query


class HungarianMatcher:
    """Assigns queries to people at the least cost, one to one.

    Cost: focal loss of the confidence, L1 distance and GIoU of the boxes, mean L1 distance of the visible joints in the
    picture, in parts of S (arXiv 2411.19824, supplement).

    Args:
        confidence (float): Weight. Defaults to 1.
        box (float): Weight. Defaults to 1.
        giou (float): Weight. Defaults to 1.
        keypoints (float): Weight. Defaults to 20.
        joints (int): The first so many joints count, without hands and face. Defaults to 22.
    """

    def __init__(
        self, confidence: float = 1.0, box: float = 1.0, giou: float = 1.0, keypoints: float = 20.0, joints: int = 22
    ):
        for key, value in (('confidence', confidence), ('box', box), ('giou', giou), ('keypoints', keypoints)):
            check_number(f'matcher.{key}', value, 0)
        self.weights = (confidence, box, giou, keypoints)
        self.joints = joints

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, keypoints: Tensor, people: People) -> Pairs:
        """Matches each layer by itself. Syncs GPU→CPU once.

        Args:
            logits (Tensor): Confidence ``(L, B, Q)``.
            boxes (Tensor): Centre and size ``(L, B, Q, 4)``, in parts of S.
            keypoints (Tensor): Joints in the picture ``(L, B, Q, J, 2)``, in parts of S.
            people (People): Labels.
        """
        from scipy.optimize import linear_sum_assignment

        layers, device = len(logits), logits.device
        costs = []
        for image, labels in enumerate(self.split(people)):
            here = (logits[:, image], boxes[:, image], keypoints[:, image])
            costs.append(self.cost(*here, *labels) if len(labels[0]) else logits.new_zeros(layers, logits.shape[2], 0))
        table = torch.cat(costs, dim=2).nan_to_num(1e6, 1e6, -1e6).cpu().numpy()  # (L, Q, P)
        rows: list[tuple[int, int, int, int]] = []
        first = 0
        for image, number in enumerate(people.counts):
            for layer in range(layers):
                queries, persons = linear_sum_assignment(table[layer, :, first : first + number])
                rows += [(layer, image, int(q), first + int(p)) for q, p in zip(queries, persons)]
            first += number
        return Pairs(*torch.tensor(rows, dtype=torch.int64, device=device).view(-1, 4).unbind(1))

    def split(self, people: People):
        """Yields boxes, keypoints and their visibility of each picture's people."""
        n = self.joints
        return zip(*(x.split(people.counts) for x in (people.boxes, people.keypoints[:, :n], people.visible[:, :n])))

    def cost(self, logits, boxes, keypoints, gt_boxes, gt_keypoints, visible) -> Tensor:
        """Returns the costs ``(L, Q, N)`` of the N people of one picture."""
        confidence, box, giou, joints = self.weights
        p = logits.float().sigmoid()[..., None]
        focal = -0.25 * (1 - p) ** 2 * (p + 1e-8).log()
        distance = (boxes[..., None, :] - gt_boxes).abs().sum(-1)
        corners, gt_corners = bbox_cxcywh_to_xyxy(boxes), bbox_cxcywh_to_xyxy(gt_boxes)
        overlap = bbox_overlaps(corners, gt_corners.expand(len(corners), -1, -1), mode='giou')
        there = visible.to(boxes.dtype)
        away = keypoints[:, :, None, : self.joints] - gt_keypoints  # (L, Q, N, J, 2)
        away = (away.abs().mean(-1) * there).sum(-1) / there.sum(-1).clamp(min=1)
        return confidence * focal + box * distance - giou * overlap + joints * away
