"""Distillation of an accelerated segmentor from its dense twin (DoViT, arXiv 2308.01944)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.core.arguments import check_number
from mmtoken.engine.checkpoints import check_checkpoint
from mmtoken.engine.errors import UserError


class Teacher:
    """Holds the dense model that a student learns from, beside its labels.

    It is no module, so that its weights go into no checkpoint, optimiser or copy of the student. They are read when
    training starts.

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
        if not isinstance(checkpoint, str):
            raise ValueError(
                f'teacher.checkpoint={checkpoint!r} must name the file with the weights of the dense model.'
            )
        check_number('teacher.tau', tau, 0, above=True)
        check_number('teacher.logit_weight', logit_weight, 0)
        check_number('teacher.feature_weight', feature_weight, 0)
        self.build, self.checkpoint = build, checkpoint
        self.tau, self.logit_weight, self.feature_weight = tau, logit_weight, feature_weight
        self.model: nn.Module | None = None

    def losses(self, images: Tensor, feats: tuple, logits: Tensor) -> dict[str, Tensor]:
        """Returns the losses of a student's distance from the teacher.

        ``τ² · KL(softmax(t/τ) ‖ softmax(s/τ))``, mean over the pixels of the logit maps, and the mean squared error of
        the last feature map. Where the head predicts by sigmoid, each channel is a distribution of its own over yes
        and no, and their divergences add up.

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
        self.prepare()
        self.model.to(images.device)
        with torch.no_grad():
            goal_feats = self.model.extract_feat(images)
            goal = self.model.decode_head.forward(goal_feats)
        sigmoid = by_sigmoid(self.model.decode_head)
        goal, ours = (log_probabilities(one.float() / self.tau, sigmoid) for one in (goal, logits))
        divergence = F.kl_div(ours, goal, reduction='none', log_target=True).sum((1, 2)).mean() * self.tau**2
        error = F.mse_loss(last_map(feats).float(), last_map(goal_feats).float())
        return dict(loss_logits=self.logit_weight * divergence, loss_features=self.feature_weight * error)

    def load(self) -> nn.Module:
        """Builds the dense model with its weights, in test mode; keeps nothing.

        Raises:
            UserError: As ``load_from`` is refused: if the file cannot be read, does not fit or holds NaN.
        """
        model = self.build()
        try:
            check_checkpoint(model, self.checkpoint)
        except UserError as error:
            raise UserError(f'model.teacher: {error}; give the weights of the dense model') from error
        model.requires_grad_(False)
        model.eval()
        return model

    def prepare(self) -> None:
        """Loads the dense model before training; raises :class:`UserError` as :meth:`load` does."""
        self.model = self.load() if self.model is None else self.model

    def __getstate__(self) -> dict:
        return {**self.__dict__, 'model': None}


def by_sigmoid(head: nn.Module) -> bool:
    """Whether a decode head predicts each channel by itself: its only one, or by the sigmoids of its loss."""
    losses = head.loss_decode if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
    return head.out_channels == 1 or any(getattr(loss, 'use_sigmoid', False) for loss in losses)


def log_probabilities(logits: Tensor, sigmoid: bool) -> Tensor:
    """Returns the logarithms of the probabilities of logits ``(B, K, h, w)``.

    Returns:
        Tensor: Of the classes ``(B, K, 1, h, w)``; with ``sigmoid`` of yes and no for each channel ``(B, 2, K, h, w)``.
    """
    if not sigmoid:
        return F.log_softmax(logits, dim=1)[:, :, None]
    return F.log_softmax(torch.stack([logits, torch.zeros_like(logits)], dim=1), dim=1)


def last_map(feats: tuple) -> Tensor:
    """Returns the last feature map ``(B, C, h, w)``, without the class token that may come with it."""
    return feats[-1] if isinstance(feats[-1], Tensor) else feats[-1][0]
