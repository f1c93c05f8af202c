"""Cropr: how many tokens go on after each block."""

from collections.abc import Sequence

from mmtoken.core import HostInfo
from mmtoken.core.arguments import check_blocks, check_int, check_list, check_number


def check_rates(keep: float | Sequence[float] | None, r: int | Sequence[int] | None) -> None:
    """Refuses bad numbers before the model is built.

    Raises:
        ValueError: In one line that names ``keep`` or ``r``.
    """
    if (keep is None) == (r is None):
        raise ValueError(f'Give either keep or r, not keep={keep!r} and r={r!r}.')
    if isinstance(keep, (list, tuple)):
        parts = [check_number('keep', part, 0, 1, above=True) for part in check_list('keep', keep)]
        if any(after > before for before, after in zip(parts, parts[1:])):
            raise ValueError(f'keep={keep!r} must not rise: dropped tokens do not come back.')
    elif keep is not None:
        check_number('keep', keep, 0, 1, above=True)
    if isinstance(r, (list, tuple)):
        for number in check_list('r', r):
            check_int('r', number, 0)
    elif r is not None:
        check_int('r', r, 0)


def blocks_that_prune(layers: Sequence[int] | None, host: HostInfo, fuses: bool) -> list[int]:
    """Returns the blocks after which tokens are dropped, in order.

    Args:
        layers (Sequence[int], optional): Those that the config names; all that spare a later block by default.
        host (HostInfo): Facts about the backbone.
        fuses (bool): Whether all tokens join again before the last block.

    Raises:
        ValueError: If dropping tokens there spares no block.
    """
    starts = [stage.first for stage in host.stages] + [host.depth]  # all tokens are back there in any case
    useless = {start - 1 for start in starts} | ({host.depth - 2} if fuses else set())
    if layers is None:
        layers = [i for i in range(host.depth) if i not in useless]
        if not layers:
            raise ValueError(
                f'reducer.layers: this model of {host.depth} blocks has none to spare'
                + (", all tokens join again before the last one; set restore='scatter'." if fuses else '.')
            )
        return layers
    layers = sorted(check_blocks('reducer.layers', layers, host.depth))
    wasted = [i for i in layers if i in useless]
    if wasted:
        raise ValueError(
            f'reducer.layers={layers}: tokens dropped after block {wasted[0]} spare no block, since all are back in '
            f'the next one or none comes; this model has blocks 0 to {host.depth - 1}, leave {wasted[0]} out.'
        )
    return layers


class Schedule:
    """How many tokens go on after each block that prunes.

    Args:
        keep (float | Sequence[float], optional): Part of the tokens left in the end, or after each of the blocks.
        r (int | Sequence[int], optional): Tokens dropped after each of the blocks, instead of ``keep``.
        layers (Sequence[int]): The blocks.
        multiple (int): Tokens of an image, prefix included, are rounded down to a multiple of this.

    Raises:
        ValueError: If a list has another length than ``layers``.
    """

    def __init__(
        self,
        keep: float | Sequence[float] | None,
        r: int | Sequence[int] | None,
        layers: Sequence[int],
        multiple: int,
    ):
        self.multiple = multiple
        number = len(layers)
        for key, given in (('keep', keep), ('r', r)):
            if isinstance(given, (list, tuple)) and len(given) != number:
                raise ValueError(
                    f'reducer.{key} has {len(given)} entries, and tokens are dropped after {number} blocks '
                    f'({list(layers)}); give one for each, or one number.'
                )
        self.dropped: dict[int, int] = {}  # by block, tokens to drop
        self.left: dict[int, tuple[float, float]] = {}  # by block, part of all tokens left before and after it
        if r is not None:
            self.dropped = dict(zip(layers, [r] * number if isinstance(r, int) else r))
        elif keep is not None:
            parts = keep
            if isinstance(parts, (int, float)):  # the same number after every block, as in the paper
                parts = [1 - (1 - parts) * (j + 1) / number for j in range(number)]
            self.left = dict(zip(layers, zip([1.0, *parts], parts)))

    def number(
        self, n: int, prefix: int, block: int, rate: float = 1.0, last: tuple[int, float] = (0, 0.0)
    ) -> tuple[int, float]:
        """Returns how many of n patch tokens go on after a block: rounded, and exactly.

        Args:
            n (int): Patch tokens.
            prefix (int): Class and register tokens, which always go on; they count for ``multiple``.
            block (int): One of the blocks that prune.
            rate (float): Part of the schedule's rate to prune at, 0 (nothing) to 1. Defaults to 1.
            last (tuple[int, float]): What this returned for the block that pruned before, so that roundings do not add
                up. Defaults to none.

        Raises:
            ValueError: If ``r`` leaves no token.
        """
        exact = last[1] if last[0] == n else float(n)
        if self.dropped:
            exact -= rate * self.dropped[block]
            if exact < 1:
                raise ValueError(
                    f'reducer.r={self.dropped[block]} leaves none of the {n} tokens that this picture has after block '
                    f'{block}; lower r, or set keep, which follows the size of the picture.'
                )
        else:
            before, after = (1 - rate * (1 - part) for part in self.left[block])
            exact *= after / before
        kept = max(round(exact), 1)
        if kept >= n:
            return n, exact
        rounded = (kept + prefix) // self.multiple * self.multiple - prefix
        return (rounded if rounded > 0 else kept), exact
