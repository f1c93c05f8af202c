"""Memo: what is made of a parameter at test time is made once."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class Memo:
    """Keeps tensors that are made of a parameter until the parameter changes.

    Resized tables of positions are the use: the bicubic kernel takes milliseconds on a GPU, which is more than the
    blocks of a small backbone take. Nothing is kept while gradients reach the parameter, while a graph is being traced,
    or in inference mode, whose tensors are of no use outside of it. A pass with gradients forgets what was kept before:
    torch's fused optimizers and mmengine's moving averages change a parameter without giving it another version.

    Args:
        size (int): Tensors to keep, one for each size of picture; the oldest goes first. Defaults to 8.
    """

    def __init__(self, size: int = 8):
        self.size = size
        self._source: tuple | None = None
        self._kept: dict[Hashable, Tensor] = {}

    def __call__(self, key: Hashable, source: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Returns ``make()``, or what it gave before for the same key and the same values of ``source``."""
        if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or source.is_inference():
            return make()
        if torch.is_grad_enabled() and source.requires_grad:
            self._kept = {}
            return make()
        state = (source._version, source.data_ptr(), source.device, source.dtype)
        if state != self._source:
            self._source, self._kept = state, {}
        if key not in self._kept:
            if len(self._kept) >= self.size:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = make()
        return self._kept[key]

    def __getstate__(self) -> dict:
        return dict(size=self.size, _source=None, _kept={})
