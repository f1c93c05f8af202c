"""Distillation of an accelerated segmentor from its dense twin (DoViT, arXiv 2308.01944)."""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn


class Teacher:
    """Holds the dense model that a student learns from, beside its labels.

    It is no module, so that its weights go into no checkpoint, optimiser or copy of the student. They are read at the
    first training step.

    Args:
        build (Callable): Builds the dense model.
        checkpoint (str): Weights of the dense model.
        tau (float): Temperature of the class probabilities. Defaults to 1.
        logit_weight (float): Weight of the divergence of each pixel's class probabilities. Defaults to 1.
        feature_weight (float): Weight of the squared error of the last feature map. Defaults to 0.5.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        checkpoint: str,
        tau: float = 1.0,
        logit_weight: float = 1.0,
        feature_weight: float = 0.5,
    ):
        if tau <= 0 or logit_weight < 0 or feature_weight < 0:
            raise ValueError(
                f'teacher: tau={tau} must be positive, and logit_weight={logit_weight} and feature_weight='
                f'{feature_weight} not negative.'
            )
        self.build, self.checkpoint = build, checkpoint
        self.tau, self.logit_weight, self.feature_weight = tau, logit_weight, feature_weight
        self.model: nn.Module | None = None

    def losses(self, images: Tensor, feats: tuple, logits: Tensor) -> dict[str, Tensor]:
        """Returns the losses of a student's distance from the teacher.

        ``τ² · KL(softmax(t/τ) ‖ softmax(s/τ))``, mean over the pixels of the logit maps, and the mean squared error of
        the last feature map.

        Args:
            images (Tensor): Normalised images ``(B, 3, H, W)``.
            feats (tuple[Tensor]): The student's feature maps.
            logits (Tensor): The student's logits ``(B, K, h, w)``.

        Returns:
            dict[str, Tensor]: ``loss_logits`` and ``loss_features``, weighted.

        Raises:
            ValueError: If the student gives no map of logits, or the checkpoint is missing or of another model.
        """
        if not isinstance(logits, Tensor):
            raise ValueError('teacher: the decode head gives no map of logits to learn from the teacher; leave it out.')
        if self.model is None:
            self.model = self.load().to(images.device)
        with torch.no_grad():
            goal_feats = self.model.extract_feat(images)
            goal = self.model.decode_head.forward(goal_feats)
        goal = F.log_softmax(goal.float() / self.tau, dim=1)
        ours = F.log_softmax(logits.float() / self.tau, dim=1)
        divergence = F.kl_div(ours, goal, reduction='none', log_target=True).sum(1).mean() * self.tau**2
        error = F.mse_loss(last_map(feats).float(), last_map(goal_feats).float())
        return dict(loss_logits=self.logit_weight * divergence, loss_features=self.feature_weight * error)

    def load(self) -> nn.Module:
        """Builds the dense model with its weights, in test mode."""
        if '://' not in self.checkpoint and not os.path.isfile(self.checkpoint):
            raise ValueError(f'teacher.checkpoint={self.checkpoint} is not there; give the weights of the dense model.')
        state = CheckpointLoader.load_checkpoint(self.checkpoint, map_location='cpu')
        model = self.build()
        missing = model.load_state_dict(state.get('state_dict', state), strict=False).missing_keys
        if missing:
            raise ValueError(f'teacher.checkpoint={self.checkpoint} is of another model: it lacks {missing[0]}.')
        model.requires_grad_(False)
        model.eval()
        return model

    def __getstate__(self) -> dict:
        return {**self.__dict__, 'model': None}


def last_map(feats: tuple) -> Tensor:
    """Returns the last feature map ``(B, C, h, w)``, without the class token that may come with it."""
    return feats[-1] if isinstance(feats[-1], Tensor) else feats[-1][0]
