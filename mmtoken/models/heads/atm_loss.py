"""Loss of the ATM heads: the mask of each class, and whether the class is present (arXiv 2210.05844, eq. 6)."""

from collections.abc import Sequence

import torch
import torch.distributed
import torch.nn.functional as F
from mmseg.models.losses.utils import get_class_weight
from torch import Tensor, nn

from mmtoken.core.arguments import check_number
from mmtoken.registry import MODELS

from .atm import at_least_single


@MODELS.register_module()
class ATMLoss(nn.Module):
    """Cross-entropy over classes, and focal and dice loss over masks. Query c is class c, so nothing is matched.

    Only the classes of an image have masks there. With ``p`` the sigmoid of the mask logits at the labels' size, ``g``
    the mask and sums over the image's pixels that are not ignored::

        focal = mean( -α·g·(1-p)^γ·log p - (1-α)·(1-g)·p^γ·log(1-p) )
        dice  = 1 - (2·Σ p·g + 1) / (Σ p + Σ g + 1)

    Both are summed over masks and divided by their number, which is averaged over processes and at least 1. With
    ``class_weight``, terms of query c count ``class_weight[c]`` times, in the weighted mean of the cross-entropy too.

    Args:
        cls_weight (float): Weight of the cross-entropy. Defaults to 1.
        mask_weight (float): Weight of the focal loss. Defaults to 20.
        dice_weight (float): Weight of the dice loss. Defaults to 1.
        absent_weight (float): Weight in the cross-entropy of queries whose class is absent. Defaults to 0.1.
        alpha (float): α, weight of the mask's inside, in [0, 1]. Defaults to 0.25.
        gamma (float): γ. Defaults to 2.
        loss_weight (float): Factor of the three. Defaults to 1.
        class_weight (Sequence[float] | str, optional): Weight of each class, or a file that holds them, as in mmseg's
            losses. Defaults to 1 for each.

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
        class_weight: Sequence[float] | str | None = None,
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
            check_number(f'ATMLoss: {name}', value, 0)
        check_number('ATMLoss: alpha', alpha, 0, 1)
        by_class = get_class_weight(class_weight)
        if by_class is not None:
            by_class = [check_number('ATMLoss: class_weight', one, 0) for one in map(float, by_class)]
        self.class_weight = by_class
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
        masks, weight = self.number(present), self.weight_of(classes, logits)
        losses = dict(
            loss_cls=self.classification(at_least_single(class_logits), present, weight),
            loss_mask=(weight[query] * self.focal(logits, target, counts)).sum() / masks,
            loss_dice=(weight[query] * self.dice(logits, target, counts)).sum() / masks,
        )
        return {name: self.weights[name] * loss for name, loss in losses.items()}

    def weight_of(self, classes: int, like: Tensor) -> Tensor:
        """Returns the weight of each class ``(K,)``.

        Raises:
            ValueError: If ``class_weight`` has another number of them.
        """
        if self.class_weight is None:
            return like.new_ones(classes)
        if len(self.class_weight) != classes:
            raise ValueError(
                f'ATMLoss: class_weight has {len(self.class_weight)} entries, the model {classes} classes.'
            )
        return like.new_tensor(self.class_weight)

    def classification(self, logits: Tensor, present: Tensor, weight: Tensor) -> Tensor:
        """Returns the cross-entropy of class logits.

        Args:
            logits (Tensor): ``(B, K, 2)`` or ``(B, K, K+1)``.
            present (Tensor): Classes of each image ``(B, K)``, bool.
            weight (Tensor): Weight of each class ``(K,)``.
        """
        none = logits.shape[-1] - 1
        own = torch.arange(present.shape[1], device=present.device) if none > 1 else torch.zeros_like(present).long()
        target = torch.where(present, own, none)
        losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction='none').view_as(target)
        counts = weight * torch.where(present, 1.0, self.absent_weight)
        return (counts * losses).sum() / counts.sum().clamp(min=1e-12)  # all classes may weigh nothing

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
