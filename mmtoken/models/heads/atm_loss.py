"""Loss of the ATM heads: the mask of each class, and whether the class is present (arXiv 2210.05844, eq. 6)."""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.registry import MODELS

from .atm import at_least_single


@MODELS.register_module()
class ATMLoss(nn.Module):
    """Cross-entropy over classes, and focal and dice loss over masks. Query c is class c, so nothing is matched.

    Only the classes of an image have masks there. With ``p`` the sigmoid of the mask logits at the labels' size, ``g``
    the mask and sums over the image's pixels that are not ignored::

        focal = mean( -α·g·(1-p)^γ·log p - (1-α)·(1-g)·p^γ·log(1-p) )
        dice  = 1 - (2·Σ p·g + 1) / (Σ p + Σ g + 1)

    Both are summed over masks and divided by their number, which is averaged over processes and at least 1.

    Args:
        cls_weight (float): Weight of the cross-entropy. Defaults to 1.
        mask_weight (float): Weight of the focal loss. Defaults to 20.
        dice_weight (float): Weight of the dice loss. Defaults to 1.
        absent_weight (float): Weight in the cross-entropy of queries whose class is absent. Defaults to 0.1.
        alpha (float): α, weight of the mask's inside, in [0, 1]. Defaults to 0.25.
        gamma (float): γ. Defaults to 2.
        loss_weight (float): Factor of the three. Defaults to 1.

    Raises:
        ValueError: For a bad value; names the argument and the allowed range.
    """

    def __init__(
        self,
        cls_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        absent_weight: float = 0.1,
        alpha: float = 0.25,
        gamma: float = 2.0,
        loss_weight: float = 1.0,
    ):
        super().__init__()
        weights = dict(
            cls_weight=cls_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            absent_weight=absent_weight,
            gamma=gamma,
            loss_weight=loss_weight,
        )
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f'{name}={value} of ATMLoss must not be negative.')
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha={alpha} of ATMLoss is outside [0, 1].')
        self.absent_weight, self.alpha, self.gamma = absent_weight, alpha, gamma
        self.weights = dict(
            loss_cls=loss_weight * cls_weight, loss_mask=loss_weight * mask_weight, loss_dice=loss_weight * dice_weight
        )

    def forward(
        self,
        mask_logits: Tensor,
        class_logits: Tensor,
        labels: Tensor,
        ignore_index: int | None = 255,
        align_corners: bool = False,
    ) -> dict[str, Tensor]:
        """Computes the losses of a batch.

        Args:
            mask_logits (Tensor): ``(B, K, h, w)``, at any size.
            class_logits (Tensor): ``(B, K, 2)``, present and absent; or ``(B, K, K+1)``, the classes and none.
            labels (Tensor): Class of each pixel ``(B, H, W)``, int64.
            ignore_index (int, optional): Label of pixels that do not count. Defaults to 255.
            align_corners (bool): Of the upsampling of mask logits to the labels' size. Defaults to False.

        Returns:
            dict[str, Tensor]: ``loss_cls``, ``loss_mask`` and ``loss_dice``, weighted.
        """
        batch, classes = mask_logits.shape[:2]
        valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
        labels = labels.where(valid, classes)
        present = torch.zeros(batch, classes + 1, dtype=torch.bool, device=labels.device)
        present = present.scatter_(1, labels.flatten(1), True)[:, :classes]
        image, query = present.nonzero(as_tuple=True)  # the M masks of the batch

        logits = F.interpolate(
            at_least_single(mask_logits)[image, query][:, None],
            labels.shape[-2:],
            mode='bilinear',
            align_corners=align_corners,
        )[:, 0].flatten(1)
        target = (labels[image] == query[:, None, None]).flatten(1).to(logits.dtype)
        counts = valid[image].flatten(1).to(logits.dtype)
        masks = self.number(present)
        losses = dict(
            loss_cls=self.classification(at_least_single(class_logits), present),
            loss_mask=self.focal(logits, target, counts).sum() / masks,
            loss_dice=self.dice(logits, target, counts).sum() / masks,
        )
        return {name: self.weights[name] * loss for name, loss in losses.items()}

    def classification(self, logits: Tensor, present: Tensor) -> Tensor:
        """Returns the cross-entropy of class logits, given the classes of each image ``(B, K)``, bool."""
        none = logits.shape[-1] - 1
        own = torch.arange(present.shape[1], device=present.device) if none > 1 else torch.zeros_like(present).long()
        weight = logits.new_ones(none + 1)
        weight[none] = self.absent_weight
        return F.cross_entropy(logits.flatten(0, 1), torch.where(present, own, none).flatten(), weight)

    def focal(self, logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """Returns the focal loss of each mask ``(M,)``; all arguments ``(M, H·W)``."""
        wrong = torch.where(target > 0, -logits, logits).sigmoid()  # 1 - p inside, p outside
        factor = torch.where(target > 0, self.alpha, 1 - self.alpha)
        loss = factor * wrong**self.gamma * F.binary_cross_entropy_with_logits(logits, target, reduction='none')
        return (loss * counts).sum(1) / counts.sum(1)

    @staticmethod
    def dice(logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """Returns the dice loss of each mask ``(M,)``; all arguments ``(M, H·W)``."""
        p = logits.sigmoid() * counts
        return 1 - (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)

    @staticmethod
    def number(present: Tensor) -> Tensor:
        """Returns the number of masks of the batch, averaged over processes, at least 1."""
        number = present.sum().float()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(number)
            number = number / torch.distributed.get_world_size()
        return number.clamp(min=1)
