"""Whether the sum of a map over some pixels tells what their removal costs."""

from typing import Literal

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional.fills import FillName
from explainers.functional.regions import cell_numbers
from explainers.metrics.base import PerImageMetric, exact
from explainers.metrics.removal import Response, falls
from explainers.metrics.similarity import pearson, spearman
from explainers.options import check_choices


def random_squares(
    count: int, size: tuple[int, int], largest: int, generator: torch.Generator
) -> Tensor:
    """Squares (count, H, W) bool of a random side from 1 to `largest`, inside the image."""
    height, width = size
    drawn = torch.rand(count, 3, generator=generator)
    sides = 1 + (drawn[:, 0] * largest).long().clamp(max=largest - 1)
    tops = (drawn[:, 1] * (height - sides + 1)).long()
    lefts = (drawn[:, 2] * (width - sides + 1)).long()
    rows, columns = torch.arange(height), torch.arange(width)
    down = (rows >= tops[:, None]) & (rows < (tops + sides)[:, None])
    across = (columns >= lefts[:, None]) & (columns < (lefts + sides)[:, None])
    return down[:, :, None] & across[:, None, :]


def random_cells(
    count: int, size: tuple[int, int], grid: int, share: float, generator: torch.Generator
) -> Tensor:
    """Sets (count, H, W) bool of equally many random cells of a grid, at least one."""
    some = max(1, round(share * grid**2))
    chosen = torch.rand(count, grid**2, generator=generator).argsort(dim=1)[:, :some]
    picked = torch.zeros(count, grid**2, dtype=torch.bool).scatter(1, chosen, True)
    return picked[:, cell_numbers(*size, grid)]


def subset_sums(maps: Tensor, subsets: Tensor) -> Tensor:
    """Sums (B, N) float64 of maps (B, H, W) over subsets (N, H, W) bool of the pixels."""
    places = subsets.flatten(1).double()
    return torch.stack([places @ values for values in exact(maps).flatten(1)])


def infidelity(sums: Tensor, costs: Tensor) -> Tensor:
    """Mean squared difference (B,) between sums (B, N), times the best factor, and costs (B, N).

    The factor of each image minimizes the difference, as maps have no common scale.

    Example:
        >>> infidelity(torch.tensor([[2.0, 4.0]]), torch.tensor([[3.0, 1.0]]))
        tensor([2.5000])
    """
    squares = (sums * sums).mean(dim=1)
    factor = (sums * costs).mean(dim=1) / squares.where(squares > 0, 1.0)
    return ((factor[:, None] * sums - costs) ** 2).mean(dim=1)


class Infidelity(PerImageMetric):
    """Mean squared difference between what a map says of random squares and what they cost.

    A map says of a square the sum of its values in it, times a factor that is best for the image.
    The cost is the fall of the score when the square is replaced by a fill.

    Source: Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019,
    definition 2.1 with square removal, and the released code. `captum.metrics.infidelity` with
    `normalize=True` computes the same from the same squares.

    Differences from the released code:
        - `draws` random squares, the same for every image, not all squares.
        - The largest side is the same share of the image, not 10 pixels.

    Range: [0, inf), in squared units of the score; images and classifiers differ in scale.

    Cost: `draws` + 1 forward passes.

    Blind to: the sign of the map, as the best factor may be negative; and the values of a map in
    proportion to each other where all squares cost nothing.

    Args:
        draws: Number of squares.
        largest: Largest side of a square, as a share of the shorter side of the image.
        fill: Name of the fill, see `fills.fill`.
        response: Score of the class: its "logit", "probability" or "log_odds".
        seed: Seed of the squares.
        batch_size: Number of images in each forward pass.

    Raises:
        ValueError: If `draws` or `batch_size` is below 1, or `largest` is not in (0, 1].
    """

    names = ("Infidelity",)
    needs = ("images", "maps", "targets", "explanandum")
    per_class = True
    higher_is_better = False
    speed_only = ("batch_size",)

    def __init__(
        self,
        draws: int = 200,
        largest: float = 10 / 28,
        fill: FillName = "mean",
        response: Response = "logit",
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__()
        if min(draws, batch_size) < 1 or not 0 < largest <= 1:
            raise ValueError(
                "expected draws and batch_size >= 1 and largest in (0, 1], got "
                f"{draws}, {batch_size} and {largest}"
            )
        self.draws, self.largest, self.fill, self.response = draws, largest, fill, response
        self.seed, self.batch_size = seed, batch_size

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Infidelity (B,) of maps (B, H, W) of one class each, targets (B, K) one-hot."""
        size = (images.shape[-2], images.shape[-1])
        generator = torch.Generator().manual_seed(self.seed)
        largest = max(1, round(self.largest * min(size)))
        squares = random_squares(self.draws, size, largest, generator)
        costs = falls(
            explanandum, images, targets, squares, self.fill, self.response, self.batch_size
        )
        return {"Infidelity": infidelity(subset_sums(maps, squares), costs)}


class MuFidelity(PerImageMetric):
    """Correlation, in [-1, 1], between the sum of a map over random cells and what they cost.

    The cost is the fall of the score when a fifth of the cells of a grid are replaced by a fill,
    others in each draw. If the map or the costs do not vary, the value is missing.

    Source: Bhatt, Weller and Moura, "Evaluating and Aggregating Feature-based Model Explanations",
    IJCAI 2020, definition 3, which removes single pixels. The grid, its size and the number of
    draws are xplique's.

    Differences from the released code:
        - Each draw removes equally many cells, as in the paper; xplique draws each cell on its own.
        - Pearson's correlation, as in the paper; xplique takes `correlation: spearman`.
        - An image without a correlation is missing; in xplique it counts as 0.

    Range: [-1, 1].

    Cost: `draws` + 1 forward passes.

    Blind to: the order of pixels within a cell. Images without a fifth of their cells are unlike
    those of the training, so that costs also measure how much such holes disturb the classifier.

    Args:
        grid: Number of cells in each direction.
        share: Share of the cells that are removed together.
        draws: Number of sets of cells.
        correlation: "pearson", or "spearman" for that of the ranks.
        fill: Name of the fill, see `fills.fill`.
        response: Score of the class: its "logit", "probability" or "log_odds".
        seed: Seed of the sets.
        batch_size: Number of images in each forward pass.

    Raises:
        ValueError: If `grid` or `draws` is below 2, `batch_size` is below 1, or `share` is not in
            (0, 1).
    """

    names = ("MuFidelity",)
    needs = ("images", "maps", "targets", "explanandum")
    per_class = True
    speed_only = ("batch_size",)

    def __init__(
        self,
        grid: int = 9,
        share: float = 0.2,
        draws: int = 200,
        correlation: Literal["pearson", "spearman"] = "pearson",
        fill: FillName = "mean",
        response: Response = "logit",
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__()
        if min(grid, draws) < 2 or batch_size < 1 or not 0 < share < 1:
            raise ValueError(
                "expected grid and draws >= 2, batch_size >= 1 and share in (0, 1), got "
                f"{grid}, {draws}, {batch_size} and {share}"
            )
        self.grid, self.share, self.draws, self.correlation = grid, share, draws, correlation
        self.fill, self.response, self.seed, self.batch_size = fill, response, seed, batch_size

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Correlations (B,) for maps (B, H, W) of one class each, targets (B, K) one-hot."""
        size = (images.shape[-2], images.shape[-1])
        generator = torch.Generator().manual_seed(self.seed)
        sets = random_cells(self.draws, size, self.grid, self.share, generator)
        costs = falls(explanandum, images, targets, sets, self.fill, self.response, self.batch_size)
        sums = subset_sums(maps, sets)
        if self.correlation == "spearman":
            return {"MuFidelity": spearman(sums[:, None], costs[:, None])}
        return {"MuFidelity": torch.from_numpy(pearson(sums.numpy(), costs.numpy()))}
