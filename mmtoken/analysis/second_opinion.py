"""A second count of a model's MACs, by fvcore, which traces it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .tasks import task_of, tensors

#: Of fvcore's operators those that our convention counts; it adds norms, resizes and pooling.
_PRODUCTS = ('addmm', 'bmm', 'conv', 'einsum', 'linear', 'matmul', 'mm')


@dataclass
class SecondOpinion:
    """What fvcore counts.

    Args:
        macs (int, optional): Matrix products and convolutions; None if it cannot trace the model.
        why (str): The error of the trace, in a word.
        unknown (dict[str, int]): Operators that it has no formula for, with the number of their calls.
    """

    macs: int | None
    why: str = ''
    unknown: dict[str, int] | None = None

    def line(self, ours: int) -> str:
        """Returns a line about the count beside ours."""
        if self.macs is None:
            return f'fvcore: cannot trace this model ({self.why})'
        missing = 1 - self.macs / ours
        attention = {name: n for name, n in self.unknown.items() if 'attention' in name}
        because = ', '.join(f'{name} ({n} calls)' for name, n in attention.items())
        return f'fvcore: {self.macs / 1e9:.3f} GMACs, {missing:.1%} missing' + f': {because}' * bool(because)


class _Path(nn.Module):
    """What a model does in a test, giving tensors only, as a trace needs it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = tuple(tensors(task_of(self.model).run(self.model, whole=True)(images)))
        if not found:
            raise TypeError('the output holds no tensor')
        return found


def second_opinion(model: nn.Module, images: Tensor) -> SecondOpinion:
    """Counts a model by ``fvcore.nn.FlopCountAnalysis``, which has one multiply-add as one too.

    Args:
        model (nn.Module): In evaluation mode, on a device that computes.
        images (Tensor): Normalised images ``(B, C, H, W)``.
    """
    if task_of(model).name == 'detect':  # a loop over boxes makes a graph so deep that the tracer kills the process
        return SecondOpinion(None, 'a detector loops over boxes')
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(_Path(model), images).unsupported_ops_warnings(False)
    analysis = analysis.tracer_warnings('none').uncalled_modules_warnings(False)
    try:
        with torch.no_grad():
            counted = analysis.by_operator()
            unknown = dict(analysis.unsupported_ops())
    except Exception as error:  # whatever a trace may stumble over
        return SecondOpinion(None, type(error).__name__)
    return SecondOpinion(int(sum(counted[name] for name in _PRODUCTS)), unknown=unknown)
