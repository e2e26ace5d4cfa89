"""Greedy order: an order of grid cells that is chosen by the very curves that then score it."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice
from explainers.functional.losses import log_odds
from explainers.functional.regions import cell_numbers

UNSATURATED = 1e-6  # weight of the log-odds, which tell cells apart where probabilities are 0 or 1

Side = tuple[int, Tensor, Content]  # sign of the curve, image, and content of removed cells


class GreedyOrder(Explainer):
    """Order of grid cells that drives deletion and insertion curves far, an upper row for tables.

    At each step, all remaining cells are tried, and the one that moves the probability of the class
    most is taken: down when it is removed, up when it is restored. The first cell gets 1, the last
    one 1 / n of n cells. The map is chosen by the metric and explains nothing beyond it. It shows
    how far a curve can be driven, against which the gains of other methods are read; do not rank
    explanations by it. A greedy order need not be the best one, and it is an order of cells, so
    that finer maps can still be ahead of it.

    Source: the idea of TRACE (Wang & Wang, ICML 2024), which searches such orders in this way and
    by simulated annealing.

    Differences from the paper:
        - No annealing; square cells, and insertion as well as deletion.

    Cost for each image and class: n (n + 1) / 2 - 1 forward passes for n cells, twice that with
    "both" curves. By default these are 2448, with a grid of 14 about 38,600: use few images.

    Args:
        explanandum: The classifier to explain; only its logits are used.
        curve: Curve that is driven. "deletion": the probability falls as cells are removed.
            "insertion": it rises as cells are restored. "both": their difference rises, as
            Faithfulness counts it.
        grid: Number of cells in each direction.
        deletion_fill: Content of removed cells, see `fills.fill`; that of `RISECurves` by default.
        insertion_fill: Content of cells that are not yet restored.
        batch_size: Number of images in a forward pass; it does not change the maps.
        seed: Seed of the fill "noise".

    Raises:
        ValueError: If a number is out of range or an option is unknown.
    """

    speed_only = ("batch_size",)
    quick: ClassVar[Mapping[str, Any]] = {"grid": 4}

    def __init__(
        self,
        explanandum: Explanandum,
        curve: Literal["deletion", "insertion", "both"] = "both",
        grid: int = 7,
        deletion_fill: FillChoice = "mean",
        insertion_fill: FillChoice = "kernel_blur",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if grid < 2 or batch_size < 1:
            raise ValueError(
                f"grid must be at least 2 and batch_size positive, got {grid} and {batch_size}"
            )
        self.curve, self.grid, self.batch_size = curve, grid, batch_size
        self.fills = {"deletion": deletion_fill, "insertion": insertion_fill}

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in (0, 1], larger for cells that are taken earlier."""
        return self.merged_map(images, targets)

    @torch.no_grad()
    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, each with its own search."""
        cells = cell_numbers(images.shape[-2], images.shape[-1], self.grid).to(images.device)
        removal, restoral = (
            content.behind(self.explanandum.fill(self.fills[name], self.generator()), images)
            for name in ("deletion", "insertion")
        )
        maps = images.new_empty(*classes.shape, *images.shape[-2:])
        for row, (image, labels, found) in enumerate(zip(images, classes, maps, strict=True)):
            only = slice(row, row + 1)
            curves: list[Side] = []
            if self.curve != "insertion":
                curves.append((-1, image[None], content.rows(removal, only)))
            if self.curve != "deletion":
                curves.append((1, image[None], content.rows(restoral, only)))
            for label, map_ in zip(labels, found, strict=True):
                map_.copy_(self._search(cells, label, curves)[cells])
        return maps

    def _search(self, cells: Tensor, label: Tensor, curves: list[Side]) -> Tensor:
        """Values (n,) of the cells, from 1 for the first one that is taken to 1 / n."""
        count = self.grid**2
        left = list(range(count))
        taken = torch.zeros_like(cells, dtype=torch.bool)
        values = torch.empty(count, device=cells.device)
        while left:
            best = 0
            if len(left) > 1:
                tried = taken | (cells == cells.new_tensor(left)[:, None, None])
                gains = torch.zeros(len(left), dtype=torch.float64, device=cells.device)
                for sign, image, fill in curves:
                    kept = tried if sign > 0 else ~tried
                    gains += sign * self._levels(kept, label, image, fill)
                best = int(gains.argmax())
            values[left[best]] = len(left) / count
            taken |= cells == left.pop(best)
        return values

    def _levels(self, kept: Tensor, label: Tensor, image: Tensor, fill: Content) -> Tensor:
        """Probabilities (m,) of a class for an image (1, 3, H, W) inside masks (m, H, W).

        A small share of the log-odds is added, which are exact where probabilities saturate.
        """
        found = []
        for masks in torch.split(kept, self.batch_size):
            images = image.expand(len(masks), -1, -1, -1)
            filled = content.pixels(fill, images, masks.to(image))
            logits = self.explanandum(torch.where(masks[:, None], images, filled))
            found.append(log_odds(logits, label.expand(len(logits)), self.explanandum.multi_label))
        odds = torch.cat(found).double()
        return odds.sigmoid() + UNSATURATED * odds
