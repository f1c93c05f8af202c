"""Contrastive denoising: labelled people with noise as extra queries (DINO, arXiv 2203.03605, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from torch import Tensor, nn

from .people import People


@dataclass
class NoisyQueries:
    """Queries beside those of the model: G groups, each with M slots of people and M slots of their negatives.

    Args:
        content (Tensor): ``(B, G·2M, C)``.
        anchors (Tensor): ``(B, G·2M, 4)``, logits.
        mask (Tensor): Added to the scores between these and Q queries of the model, these first,
            ``(B, 1, G·2M+Q, G·2M+Q)``.
        real (Tensor): Slots that hold somebody ``(B, G·2M)``, bool.
        image (Tensor): Picture of each positive ``(G·P,)``, int64.
        query (Tensor): Its slot ``(G·P,)``.
        person (Tensor): Who it is, among all people of the batch ``(G·P,)``.
    """

    content: Tensor
    anchors: Tensor
    mask: Tensor
    real: Tensor
    image: Tensor
    query: Tensor
    person: Tensor


class Denoising(nn.Module):
    """Makes queries of labelled people whose boxes, poses and shapes are noisy.

    Corners of boxes move by up to ``box_noise`` of half a side, pose and shape parameters by up to ``body_noise``;
    those of negatives move by one to two times as much, and nobody is there.

    Args:
        dims (int): Channels of a query. Defaults to 768.
        groups (int): G. Defaults to 10.
        box_noise (float): Defaults to 0.4.
        body_noise (float): Radians, and units of the shape. Defaults to 0.2.
        parameters (int): Pose and shape parameters. Defaults to 82.
    """

    def __init__(
        self, dims: int = 768, groups: int = 10, box_noise: float = 0.4, body_noise: float = 0.2, parameters: int = 82
    ):
        super().__init__()
        self.groups, self.box_noise, self.body_noise = groups, box_noise, body_noise
        self.embed = nn.Linear(parameters, dims)

    def forward(self, people: People, queries: int) -> NoisyQueries | None:
        """Draws the queries of a batch.

        Args:
            people (People): Labels.
            queries (int): Queries Q of the model.

        Returns:
            NoisyQueries | None: None if there is nobody, or no group.
        """
        most, groups, device = max(people.counts, default=0), self.groups, people.boxes.device
        if not most or not groups:
            return None
        first = people.image.new_tensor([0, *people.counts[:-1]]).cumsum(0)
        place = torch.arange(len(people), device=device) - first[people.image]
        # (G, 2, P): slot of each person's positive and negative in each group
        slot = torch.arange(groups * 2, device=device).view(groups, 2, 1) * most + place
        sign = torch.arange(2, device=device).view(1, 2, 1, 1)  # negatives move by 1 to 2 times the noise
        corners = bbox_cxcywh_to_xyxy(people.boxes)
        half = (people.boxes[:, 2:] / 2).repeat(1, 2)
        boxes = (corners + self.noise(corners, sign) * self.box_noise * half).clamp(0, 1)
        body = torch.cat([people.pose.flatten(1), people.betas], dim=1)
        body = body + self.noise(body, sign) * self.body_noise
        content = self.embed(body.to(self.embed.weight.dtype)) * people.has_body[:, None]

        batch, total = len(people.counts), groups * 2 * most
        where = (people.image.expand_as(slot), slot)
        real = torch.zeros(batch, total, dtype=torch.bool, device=device)
        real[where] = True
        all_content = content.new_zeros(batch, total, content.shape[-1]).index_put(where, content)
        anchors = boxes.new_zeros(batch, total, 4).index_put(where, bbox_xyxy_to_cxcywh(boxes).logit(1e-3))
        return NoisyQueries(
            content=all_content,
            anchors=anchors,
            mask=self.mask(real, queries, most),
            real=real,
            image=where[0][:, 0].flatten(),
            query=slot[:, 0].flatten(),
            person=torch.arange(len(people), device=device).repeat(groups),
        )

    def noise(self, like: Tensor, sign: Tensor) -> Tensor:
        """Draws ``±U(0, 1)`` for positives and ``±U(1, 2)`` for negatives, ``(G, 2, *like.shape)``."""
        size = (self.groups, 2, *like.shape)
        drawn = torch.rand(size, device=like.device) + sign
        return drawn * (torch.randint(0, 2, size, device=like.device) * 2 - 1)

    def mask(self, real: Tensor, queries: int, most: int) -> Tensor:
        """Lets queries see those of their own group and the model's; these do not see the noisy ones."""
        total = real.shape[1]
        group = torch.arange(total, device=real.device) // (2 * most)
        group = torch.cat([group, group.new_full((queries,), self.groups)])
        seen = (group[:, None] == group) | (group == self.groups)
        keys = torch.cat([real, real.new_ones(len(real), queries)], dim=1)
        seen = seen & keys[:, None, :] | torch.eye(len(group), dtype=torch.bool, device=real.device)
        return torch.zeros(seen.shape, device=real.device).masked_fill(~seen, float('-inf'))[:, None]
