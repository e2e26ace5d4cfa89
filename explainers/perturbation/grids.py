"""RISE masks: coarse random grids, upsampled and shifted."""

from collections.abc import Iterator

import torch
from torch import Tensor


def rise(
    count: int,
    size: tuple[int, int],
    grid: tuple[int, int],
    probability: float,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yields batches (n, H, W) of RISE masks in [0, 1]: coarse random grids, upsampled and shifted.

    A grid is upsampled bilinearly to (rows + 1) * ceil(H / rows) by (columns + 1) * ceil(W /
    columns) pixels. A window of H by W pixels is then cut out at a random offset within the first
    cell.

    Source: Petsiuk et al., "RISE", BMVC 2018, section 3.2.

    Args:
        count: Total number of masks.
        size: Height and width of the masks in pixels.
        grid: Number of rows and columns of the coarse grids.
        probability: Probability that a cell is kept. It is also the mean value of every pixel.
        batch_size: Number of masks in a batch. It does not change the masks.
        generator: Random number generator on the CPU, so that every device gets the same masks.
        device: Device of the masks.

    Raises:
        ValueError: If a count or size is below 1, or the probability is not in (0, 1).
    """
    if min(count, *size, *grid, batch_size) < 1:
        raise ValueError(
            "count, size, grid and batch_size must be positive, "
            f"got {count}, {tuple(size)}, {tuple(grid)} and {batch_size}"
        )
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability must be in (0, 1), got {probability}")
    cells = tuple(-(-side // parts) for side, parts in zip(size, grid, strict=True))
    grids = (torch.rand(count, *grid, generator=generator) < probability).float()
    shifts = (torch.rand(count, 2, generator=generator) * torch.tensor(cells)).long()
    rows, columns = (
        interpolation((parts + 1) * cell, parts).to(device)
        for parts, cell in zip(grid, cells, strict=True)
    )
    for start in range(0, count, batch_size):
        coarse = grids[start : start + batch_size].to(device)
        top, left = shifts[start : start + batch_size].to(device).unbind(1)
        tall = windows(rows, top, size[0]) @ coarse  # (n, H, columns)
        yield tall @ windows(columns, left, size[1]).mT


def interpolation(length: int, cells: int) -> Tensor:
    """Matrix (length, cells) that upsamples a row of cells linearly, with pixel centers aligned.

    Beyond the centers of the outer cells, the row is mirrored. RISE's released code does the same
    by scikit-image's `resize(mode="reflect")`.

    Example:
        >>> interpolation(4, 2)
        tensor([[0.7500, 0.2500],
                [0.7500, 0.2500],
                [0.2500, 0.7500],
                [0.2500, 0.7500]])
    """
    last = cells - 1
    centres = ((torch.arange(length) + 0.5) * cells / length - 0.5).abs()
    mirrored = (last - (last - centres).abs()).clamp(min=0)
    return (1 - (mirrored[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def windows(matrix: Tensor, starts: Tensor, length: int) -> Tensor:
    """Windows (n, length, c) of `length` rows of a matrix (L, c), which begin at `starts` (n,)."""
    return matrix[starts[:, None] + torch.arange(length, device=starts.device)]
