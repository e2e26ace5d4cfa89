"""Whether the parts of an image that a map calls important are so, each on its own."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional.fills import FillName
from explainers.functional.regions import cell_numbers
from explainers.metrics.base import PerImageMetric
from explainers.metrics.removal import Response, falls
from explainers.metrics.similarity import spearman
from explainers.options import check_choices


class SingleDeletion(PerImageMetric):
    """Rank correlation, in [-1, 1], of the map in each cell of a grid with what its removal costs.

    Each cell alone is replaced by a fill. The cost is the fall of the log-odds of the explained
    class. Unlike insertion and deletion curves, no image is ever mostly removed, and the order of
    pixels within a cell does not matter. If all cells have the same map or the same cost, the value
    is missing.

    IDSDS (Hesse, Schaub-Meyer and Roth, NeurIPS 2024) is `grid: 4`, `response: logit` and the fill
    "mean" with a classifier that has been trained on images without one cell, which makes such
    images familiar and classifiers comparable: configs/classifiers/idsds.yaml.

    Source: the single deletion of FunnyBirds (Hesse, Schaub-Meyer and Roth, ICCV 2023), which
    removes the parts of a bird. Here the cells of a grid take their place, for any image.

    Differences from the released code:
        - The mean of the map in a cell counts, not its sum, which is the same order for cells of
          equal size. If the grid does not divide the image, IDSDS leaves out its last pixels.

    Range: [-1, 1].

    Cost: grid squared + 1 forward passes, once for all maps of the same images in a row.

    Blind to: the order of pixels within a cell; and cells that only matter together, such as two
    objects of which one is enough.

    Args:
        grid: Number of cells in each direction.
        fill: Name of the fill, see `fills.fill`.
        response: Score of the class whose fall is the cost: its "log_odds", "logit" or
            "probability".
        name: Name of the column.
        batch_size: Number of images in each forward pass.

    Raises:
        ValueError: If `grid` or `batch_size` is below 1, or there is no such fill.
    """

    needs = ("images", "maps", "targets", "logits", "explanandum")
    per_class = True
    speed_only = ("batch_size",)

    def __init__(
        self,
        grid: int = 7,
        fill: FillName = "mean",
        response: Response = "log_odds",
        name: str = "SingleDeletion",
        batch_size: int = 16,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__()
        if min(grid, batch_size) < 1:
            raise ValueError(f"expected grid and batch_size >= 1, got {grid} and {batch_size}")
        self.grid, self.fill, self.response, self.batch_size = grid, fill, response, batch_size
        self.names = (name,)
        self._known: tuple[tuple[Any, ...], Tensor] | None = None

    def score(
        self,
        images: Tensor,
        maps: Tensor,
        targets: Tensor,
        logits: Tensor,
        explanandum: Explanandum,
    ) -> dict[str, Tensor]:
        """Correlations (B,) for maps (B, H, W) of one class each, targets (B, K) one-hot."""
        cells = cell_numbers(images.shape[-2], images.shape[-1], self.grid).to(images.device)
        count = self.grid**2
        shares = F.one_hot(cells.flatten(), count).to(maps.dtype)
        means = maps.flatten(1) @ shares / shares.sum(dim=0).clamp(min=1)
        removed = cells == torch.arange(count, device=cells.device)[:, None, None]
        # The costs do not depend on the map: the next method's are the same, unless the classifier,
        # its weights or its precision have changed, which its logits tell.
        autocast = torch.is_autocast_enabled(images.device.type)
        asked = (explanandum, explanandum.channels_last, autocast, images, targets, logits)
        if self._known is None or not _equal(self._known[0], asked):
            given = (self.fill, self.response, self.batch_size)
            self._known = asked, falls(explanandum, images, targets, removed, *given)
        costs = self._known[1]
        return {self.names[0]: spearman(means[:, None], costs[:, None])}


def _equal(known: tuple[Any, ...], asked: tuple[Any, ...]) -> bool:
    return all(
        one.device == other.device and torch.equal(one, other)
        if isinstance(one, Tensor)
        else one is other
        for one, other in zip(known, asked, strict=True)
    )
