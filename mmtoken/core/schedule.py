"""Keep ratios, grids and layer lists in one notation, checked in one place."""

from collections.abc import Sequence

Grid = float | Sequence[int]


def check_layer(key: str, layer: int, depth: int) -> None:
    """Checks that a block index exists.

    Raises:
        ValueError: Naming ``key`` and the allowed range.
    """
    if not isinstance(layer, int) or not 0 <= layer < depth:
        raise ValueError(f'{key}={layer!r} is not a block of this model; it has blocks 0 to {depth - 1}.')


def check_grid(key: str, grid: Grid) -> Grid:
    """Checks the notation of a grid: ``(h, w)`` in tokens, or the part kept of each side, in (0, 1].

    Returns:
        float | tuple[int, int]: The grid, normalised.

    Raises:
        ValueError: Naming ``key`` and what would be right.
    """
    if isinstance(grid, (int, float)) and not isinstance(grid, bool):
        if not 0 < grid <= 1:
            raise ValueError(
                f'{key}={grid} is outside (0, 1]; give the part of each side to keep, such as 0.5, '
                'or the token grid as (height, width).'
            )
        return float(grid)
    if (
        not isinstance(grid, Sequence)
        or isinstance(grid, str)
        or len(grid) != 2
        or not all(isinstance(g, int) and g > 0 for g in grid)
    ):
        raise ValueError(f'{key}={grid!r} is not a grid; give (height, width) in tokens or a ratio in (0, 1].')
    return tuple(grid)


def resolve_grid(key: str, grid: Grid, raster: tuple[int, int]) -> tuple[int, int]:
    """Turns a checked grid into ``(h, w)`` for tokens that lie on ``raster``.

    Raises:
        ValueError: If it is larger than ``raster`` in height or width, or the tokens lie on no raster.
    """
    if raster is None:
        raise ValueError(f'{key}={grid} needs tokens on a raster, and a reducer before it left none; put merging last.')
    if isinstance(grid, float):
        return tuple(max(1, round(side * grid)) for side in raster)
    if grid[0] > raster[0] or grid[1] > raster[1]:
        raise ValueError(
            f"{key}={grid} is larger than the image's {raster[0]}x{raster[1]} tokens; "
            'give a smaller grid, or a ratio that follows the image.'
        )
    return grid


def merges_per_block(r: int | Sequence[int] | None, keep: float | None, depth: int) -> list[int | float]:
    """One number of merges for each block, from any of ToMe's notations.

    Args:
        r (int | Sequence[int], optional): Tokens merged in every block, or in each.
        keep (float, optional): Part of the tokens left after the last block, in (0, 1]; the same part is merged in
            every block.
        depth (int): Number of blocks.

    Returns:
        list: For each block the tokens to merge (int), or the part of them to merge (float).

    Raises:
        ValueError: Naming ``r`` or ``keep`` and what would be right.
    """
    if (r is None) == (keep is None):
        raise ValueError(f'Give either r or keep, not r={r!r} and keep={keep!r}.')
    if keep is not None:
        if not isinstance(keep, (int, float)) or not 0 < keep <= 1:
            raise ValueError(f'keep={keep!r} is outside (0, 1]; give the part of the tokens to keep to the end.')
        return [1 - float(keep) ** (1 / depth)] * depth
    steps = list(r) if isinstance(r, (list, tuple)) else [r] * depth
    if any(not isinstance(s, int) or s < 0 for s in steps):
        raise ValueError(f'r={r!r} must be made of integers >= 0; a part of the tokens is keep.')
    if len(steps) != depth:
        raise ValueError(
            f'r has {len(steps)} entries; this model merges in {depth} blocks: give one for each, or one number.'
        )
    return steps
