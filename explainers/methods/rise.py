"""RISE: the mean of random masks, weighted by the probability of the class under each mask."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content
from explainers.functional.fills import FillChoice
from explainers.perturbation import grids
from explainers.perturbation.adaptive import Budget, check_tolerance
from explainers.perturbation.viewer import Viewer


class RISE(Explainer):
    """Expected probability of the class, given that a pixel is kept: sum p M / (N probability).

    The sum is over N random masks M, and p is the probability of the class for the image masked by
    M. One seeded set of masks serves all images. Masks and masked images are computed in batches
    and never stored.

    N probability is the sum of the masks at a pixel that is expected. With the sum that they have,
    `divisor` "counted", a map no longer shows how often the masks happened to keep a pixel. Its
    ranking is certain after fewer masks where most of the masked images keep the class.

    Source: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models",
    BMVC 2018, eq. 6. The paper uses 4000 masks for VGG16 and 8000 for ResNet50.

    Cost for each image, whatever the number of classes: `masks` forward passes, or fewer with a
    `tolerance`.

    Args:
        explanandum: The classifier to explain; only its probabilities are used.
        masks: Number of masks, each of which takes a forward pass for each image.
        grid: Number of cells along each side of the coarse grids, or [rows, columns].
        probability: Probability that a cell is kept.
        fill: Content that replaces pixels, see `fills.fill`; "mean" as published, which is zero in
            normalized space. "images" is not allowed, because a map would then depend on the rest
            of its batch.
        divisor: What sum p M is divided by, "expected" (published) or "counted".
        batch_size: Number of masked images in a forward pass; it does not change the maps.
        channels_last: Whether the masked images have the memory layout channels_last. None takes
            `Explanandum.channels_last`. It does not change the maps.
        seed: Seed of the masks.
        tolerance: Standard error of the ranking of the map, see `adaptive.standard_error`, at which
            an image needs no more masks, in (0, 1). It is judged after 128, 256, 512, ... masks.
            Of several classes explained at once, the least certain one counts. None shows all
            `masks`.

    Raises:
        ValueError: If a number is out of range, or the fill or the divisor is unknown.
    """

    speed_only = ("batch_size", "channels_last")
    quick: ClassVar = {"masks": 500}

    def __init__(
        self,
        explanandum: Explanandum,
        masks: int = 4000,
        grid: int | list[int] = 7,
        probability: float = 0.5,
        fill: FillChoice = "mean",
        divisor: Literal["expected", "counted"] = "expected",
        batch_size: int = 64,
        channels_last: bool | None = None,
        seed: int = 0,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(explanandum, seed)
        check_tolerance(tolerance, masks)
        rows, columns = [grid, grid] if isinstance(grid, int) else grid
        if min(masks, rows, columns, batch_size) < 1 or not 0.0 < probability < 1.0:
            raise ValueError(
                "masks, grid and batch_size must be positive and probability in (0, 1), "
                f"got {masks}, {grid}, {batch_size} and {probability}"
            )
        self.masks, self.grid, self.probability = masks, (rows, columns), probability
        self.fill, self.batch_size, self.channels_last = fill, batch_size, channels_last
        self.divisor, self.tolerance = divisor, tolerance

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0, about the probability of the class if the pixel is kept."""
        return self.merged_map(images, targets)

    @torch.no_grad()
    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one set of forward passes."""
        generator, (height, width) = self.generator(), images.shape[-2:]
        fills = content.behind(self.explanandum.fill(self.fill, generator), images)
        batches = grids.rise(
            self.masks,
            (height, width),
            self.grid,
            self.probability,
            self.batch_size,
            generator,
            images.device,
        )
        layout = (self.batch_size, self.channels_last)
        viewer = Viewer(self.explanandum, images, *layout, "RISE", self.masks * len(images))
        shown, hidden = viewer.planes(images), viewer.planes(fills)
        budget = Budget(self.masks, self.tolerance, len(images))
        sums = images.new_zeros(budget.parts, *classes.shape, height * width)
        kept = images.new_zeros(budget.parts, len(images), 1, height * width)
        with viewer.bar:
            for masks in budget.samples(batches):
                wide, parts = masks.repeat_interleave(viewer.repeat, dim=2), budget.slices()
                if self.divisor == "counted":
                    for result, part in zip(kept, parts, strict=True):
                        result[budget.rows] += masks[part].flatten(1).sum(dim=0)
                for row in budget.rows:
                    fill = hidden[row] if isinstance(hidden, Tensor) else hidden
                    found = viewer.masked(shown[row], fill, wide)[:, classes[row]]  # (n, k)
                    for result, part in zip(sums[:, row], parts, strict=True):
                        result += found[part].mT.to(masks) @ masks[part].flatten(1)
                if budget.is_due:
                    halves = self._divided(sums[:, budget.rows], kept[:, budget.rows], 1)
                    budget.settle(halves.view(*halves.shape[:3], height, width))
        expected = budget.counts(kept[0]) * self.probability
        maps = self._divided(sums.sum(dim=0), kept.sum(dim=0), expected)
        return maps.view(*classes.shape, height, width)

    def _divided(self, sums: Tensor, kept: Tensor, expected: Tensor | float) -> Tensor:
        """Sums p M over the sums of M, 0 where no mask keeps a pixel, or over the expected ones."""
        if self.divisor == "counted":
            return sums / kept.clamp(min=torch.finfo(kept.dtype).tiny)
        return sums / expected
