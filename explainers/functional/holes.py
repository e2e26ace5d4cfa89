"""Random holes, with which an inpainter is trained."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 224  # image side for which the lengths of patches are published
PATCHES = (29, 53)  # sides of the patches of SP, in pixels
GRID = 28  # side of the block masks of MP and its relatives


def holes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Keep masks (count, H, W) float32, 1 at the pixels that stay and 0 in the holes.

    The kind of each mask is drawn at random, each with the same probability:

    - free-form strokes, which are chains of thick line segments;
    - one to four rectangles with sides of 10 to 50 % of the image's;
    - one to four square patches of side 29 or 53 pixels at a size of 224, as sliding patches have;
    - cells of 20 to 150 random centers, like superpixels, each removed with probability 0.5;
    - blocks of a 28 x 28 grid, of which 1 to 40 % are removed.

    Every mask has a hole. The masks depend on the state of the generator alone.

    Source of the strokes: Yu et al., "Free-Form Image Inpainting with Gated Convolution", ICCV
    2019. The other kinds are those that perturbation methods make.

    Args:
        count: Number of masks.
        size: Height and width.
        generator: Random number generator on the CPU.

    Raises:
        ValueError: If a side is smaller than 1.
    """
    if min(size) < 1:
        raise ValueError(f"size must be a height and width of at least 1, got {tuple(size)}")
    kinds = torch.randint(len(KINDS), (count,), generator=generator).tolist()
    masks = [KINDS[kind](size, generator) for kind in kinds]
    return torch.stack(masks).logical_not().float() if masks else torch.zeros(0, *size)


def strokes(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Hole (H, W) bool of one to four chains of thick segments, with round ends."""
    side = max(size)
    rows, columns = _pixels(size)
    hole = torch.zeros(size, dtype=torch.bool)
    for _ in range(_integer(1, 4, generator)):
        here = _uniform(2, generator) * torch.tensor(size)
        angle = float(_uniform(1, generator)) * 2 * math.pi
        for _ in range(_integer(1, 6, generator)):
            turn, length, width = _uniform(3, generator).tolist()
            angle += (turn - 0.5) * math.pi
            reach = torch.tensor([math.sin(angle), math.cos(angle)]) * (0.05 + 0.3 * length) * side
            along = (rows - here[0]) * reach[0] + (columns - here[1]) * reach[1]
            along = (along / reach.square().sum()).clamp(0, 1)
            apart = torch.hypot(
                rows - here[0] - along * reach[0], columns - here[1] - along * reach[1]
            )
            hole |= apart <= (0.01 + 0.05 * width) * side
            here = here + reach
    return hole if hole.any() else _patch(size, 1, 1, generator)


def rectangles(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Hole (H, W) bool of one to four rectangles with sides of 10 to 50 % of the image's."""
    hole = torch.zeros(size, dtype=torch.bool)
    for _ in range(_integer(1, 4, generator)):
        shares = 0.1 + 0.4 * _uniform(2, generator)
        height, width = (shares * torch.tensor(size)).ceil().int().tolist()
        hole |= _patch(size, height, width, generator)
    return hole


def patches(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Hole (H, W) bool of one to four squares of one side, 29 or 53 pixels at a size of 224."""
    side = PATCHES[_integer(0, 1, generator)] * min(size) / SIDE
    hole = torch.zeros(size, dtype=torch.bool)
    for _ in range(_integer(1, 4, generator)):
        hole |= _patch(size, math.ceil(side), math.ceil(side), generator)
    return hole


def cells(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Hole (H, W) bool of about half of 20 to 150 cells; a pixel's cell is its nearest center's."""
    count = _integer(20, 150, generator)
    centers = torch.rand(count, 2, generator=generator) * torch.tensor(size)
    removed = _uniform(count, generator) < 0.5
    pixels = torch.stack(_pixels(size), dim=-1).flatten(0, 1)
    hole = removed[torch.cdist(pixels, centers).argmin(dim=1)].view(size)
    return hole if hole.any() else _patch(size, 1, 1, generator)


def blocks(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Hole (H, W) bool of 1 to 40 % of the blocks of a 28 x 28 grid, at least of one block."""
    share = 0.01 + 0.39 * float(_uniform(1, generator))
    grid = tuple(min(GRID, length) for length in size)
    order = _uniform(math.prod(grid), generator).argsort()
    removed = (order < max(1, round(share * math.prod(grid)))).view(1, 1, *grid)
    return F.interpolate(removed.float(), size, mode="nearest-exact")[0, 0] > 0


Kind = Callable[[tuple[int, int], torch.Generator], Tensor]
KINDS: tuple[Kind, ...] = (strokes, rectangles, patches, cells, blocks)


def _patch(size: tuple[int, int], height: int, width: int, generator: torch.Generator) -> Tensor:
    """A rectangle inside the image at a random place."""
    height, width = min(height, size[0]), min(width, size[1])
    top = _integer(0, size[0] - height, generator)
    left = _integer(0, size[1] - width, generator)
    hole = torch.zeros(size, dtype=torch.bool)
    hole[top : top + height, left : left + width] = True
    return hole


def _pixels(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns (H, W) of the centers of the pixels."""
    rows, columns = (torch.arange(length) + 0.5 for length in size)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return grid[0], grid[1]


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """A random integer from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator)
