"""The heads: what each query says of a person after each layer of the decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmtoken.hmr.geometry import axis_angle_to_matrix, matrix_to_rotation_6d, rotation_6d_to_matrix

from .decoder import mlp, start_mlp


@dataclass
class Predictions:
    """What queries say after each of L layers, fp32; ``[…]`` picks some of them.

    Args:
        logits (Tensor): Confidence ``(L, B, Q)``.
        boxes (Tensor): Centre x and y, width and height ``(L, B, Q, 4)``, in parts of the side S.
        rotations (Tensor): Of the joints ``(L, B, Q, 24, 3, 3)``.
        betas (Tensor): Shape ``(L, B, Q, 10)``.
        camera (Tensor): u, v and w of :func:`mmtoken.hmr.geometry.camera_to_translation` ``(L, B, Q, 3)``.
    """

    logits: Tensor
    boxes: Tensor
    rotations: Tensor
    betas: Tensor
    camera: Tensor

    def __getitem__(self, index: Any) -> Predictions:
        return Predictions(*(value[index] for value in vars(self).values()))


class MeshHeads(nn.Module):
    """Pose, shape, camera and confidence of each query.

    Pose (24 rotations as 6 numbers, arXiv 1812.07035) and shape start from a mean person; each layer of the decoder has
    heads of its own that add to what the layers before said.

    Args:
        dims (int): Channels C of a query. Defaults to 768.
        layers (int): Layers L of the decoder. Defaults to 6.
        mean_pose (Tensor): Axis-angle ``(24, 3)``.
        mean_shape (Tensor): ``(10,)``.
    """

    mean_pose: Tensor
    mean_shape: Tensor

    def __init__(self, mean_pose: Tensor, mean_shape: Tensor, dims: int = 768, layers: int = 6):
        super().__init__()
        self.pose = nn.ModuleList(mlp(dims, dims, len(mean_pose) * 6, 6) for _ in range(layers))
        self.shape = nn.ModuleList(mlp(dims, dims, len(mean_shape), 5) for _ in range(layers))
        self.camera = mlp(dims, dims // 2, 3, 3)
        self.confidence = nn.Linear(dims, 1)
        self.register_buffer('mean_pose', matrix_to_rotation_6d(axis_angle_to_matrix(mean_pose)).flatten().clone())
        self.register_buffer('mean_shape', mean_shape.clone())

    def init_weights(self) -> None:
        """Lets everybody start near the mean person, and nobody be sure of anything."""
        for head in [*self.pose, *self.shape, self.camera]:
            start_mlp(head, gain=0.1)
        nn.init.constant_(self.confidence.bias, -math.log(99))

    def forward(self, hidden: Tensor, boxes: Tensor) -> Predictions:
        """Reads the queries.

        Args:
            hidden (Tensor): Queries after each layer ``(L, B, Q, C)``.
            boxes (Tensor): Their boxes ``(L, B, Q, 4)``.
        """
        pose = torch.stack([head(h) for head, h in zip(self.pose, hidden)]).float().cumsum(0) + self.mean_pose
        betas = torch.stack([head(h) for head, h in zip(self.shape, hidden)]).float().cumsum(0) + self.mean_shape
        return Predictions(
            logits=self.confidence(hidden).squeeze(-1).float(),
            boxes=boxes.float(),
            rotations=rotation_6d_to_matrix(pose.unflatten(-1, (-1, 6))),
            betas=betas,
            camera=self.camera(hidden).float(),
        )
