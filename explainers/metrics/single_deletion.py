"""Whether the parts of an image that a map calls important are so, each on its own."""

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional.fills import FillName
from explainers.functional.losses import log_odds
from explainers.metrics.base import PerImageMetric
from explainers.metrics.similarity import spearman
from explainers.options import check_choices


class SingleDeletion(PerImageMetric):
    """Rank correlation, in [-1, 1], of the map in each cell of a grid with what its removal costs.

    Each cell alone is replaced by a fill. The cost is the fall of the log-odds of the explained
    class. Unlike insertion and deletion curves, no image is ever mostly removed, and the order of
    pixels within a cell does not matter. If all cells have the same map or the same cost, the value
    is missing.

    Source: the single deletion of FunnyBirds (Hesse, Schaub-Meyer and Roth, ICCV 2023), which
    removes the parts of a bird. Here the cells of a grid take their place, for any image.

    Cost: grid squared + 1 forward passes.

    Args:
        grid: Number of cells in each direction.
        fill: Name of the fill, see `fills.fill`.
        batch_size: Number of images in each forward pass.

    Raises:
        ValueError: If `grid` or `batch_size` is below 1, or there is no such fill.
    """

    needs = ("images", "maps", "targets", "explanandum")
    names = ("SingleDeletion",)
    per_class = True
    speed_only = ("batch_size",)

    def __init__(self, grid: int = 7, fill: FillName = "mean", batch_size: int = 16) -> None:
        check_choices(type(self), locals())
        super().__init__()
        if min(grid, batch_size) < 1:
            raise ValueError(f"expected grid and batch_size >= 1, got {grid} and {batch_size}")
        self.grid, self.fill, self.batch_size = grid, fill, batch_size

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Correlations (B,) for maps (B, H, W) of one class each, targets (B, K) one-hot."""
        cells = cell_numbers(images.shape[-2], images.shape[-1], self.grid).to(images.device)
        count = self.grid**2
        shares = F.one_hot(cells.flatten(), count).to(maps.dtype)
        means = maps.flatten(1) @ shares / shares.sum(dim=0).clamp(min=1)
        classes = targets.int().argmax(dim=1)
        filled = explanandum.fill(self.fill, 0)(images).expand_as(images)
        falls = []
        for image, fill, label in zip(images, filled, classes, strict=True):
            odds = []
            numbers = torch.arange(-1, count, device=images.device)  # -1 removes nothing
            for some in torch.split(numbers, self.batch_size):
                removed = (cells == some[:, None, None])[:, None]
                logits = explanandum(torch.where(removed, fill, image))
                odds.append(log_odds(logits, label.expand(len(some)), explanandum.multi_label))
            values = torch.cat(odds)
            falls.append(values[0] - values[1:])
        costs = torch.stack(falls)
        return {"SingleDeletion": spearman(means[:, None], costs[:, None])}


def cell_numbers(height: int, width: int, grid: int) -> Tensor:
    """The cell of each pixel, (height, width) in 0 to grid^2 - 1, row by row.

    Example:
        >>> cell_numbers(2, 5, 2)
        tensor([[0, 0, 0, 1, 1],
                [2, 2, 2, 3, 3]])
    """
    rows, columns = (torch.arange(side) * grid // side for side in (height, width))
    return rows[:, None] * grid + columns
