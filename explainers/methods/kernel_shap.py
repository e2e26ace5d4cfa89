"""KernelSHAP: Shapley values of the regions of an image."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content
from explainers.functional.fills import FillChoice
from explainers.functional.losses import log_odds
from explainers.functional.regions import cell_numbers, superpixels
from explainers.perturbation.adaptive import (
    FEWEST,
    check_tolerance,
    checkpoints,
    standard_error,
    warn_spent,
)
from explainers.perturbation.coalitions import coalitions, drawn_weights, shapley
from explainers.perturbation.kept_regions import kept_logits
from explainers.perturbation.viewer import Viewer


class KernelSHAP(Explainer):
    """Gives each pixel the Shapley value of its region for the score of the class.

    The Shapley value of a region is the mean change of the score when the region is added, over all
    orders in which the regions can be added to the empty image. The values of all regions sum to
    the score of the image minus that of the empty image, whatever the number of samples. They
    minimize the weighted squared error of a linear model of the score under this constraint, where
    the weight of a subset of the regions is the Shapley kernel. The solution is computed in closed
    form. If `samples` is at least 2^S for S regions, every subset is shown once and the values are
    exact.

    Source: Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017,
    theorem 2. Subsets in complementary pairs: Covert & Lee, "Improving KernelSHAP: Practical
    Shapley Value Estimation Using Linear Regression", AISTATS 2021.

    Differences from captum:
        - The sum is exact. captum gives the whole and the empty image a weight of 1,000,000.
        - Subsets come in complementary pairs, or all of them if `samples` allows it.
        - Every pixel has the value of its region, in one channel. captum repeats it in all three.

    Cost for each image, whatever the number of classes: at most `samples` forward passes, including
    those of the whole and the empty image, because a subset that is drawn twice is shown once; 2^S
    if the values are exact; fewer with a `tolerance`, unless the values are exact. Inside
    `kept_regions.sharing`, subsets that another row has shown cost nothing: responses share all.

    Args:
        explanandum: The classifier to explain; only its logits are used.
        samples: Maximum number of forward passes.
        regions: Regions of the image: "superpixels" of SLIC, which depend on the image alone, or
            the cells of a square "grid".
        segments: Approximate number of regions. A grid has the nearest square number.
        compactness: Compactness of SLIC. Larger values give squarer superpixels.
        sigma: Width in pixels of the blur that SLIC applies first.
        response: Score of the class: its "probability", its "logit", or its "log_odds",
            ln(p / (1 - p)), which is the logit if the explanandum is multi-label.
        fill: Content that replaces regions, see `fills.fill`. "images" is not allowed.
        batch_size: Number of samples in a forward pass; it does not change the maps.
        seed: Seed of the samples and of the fill "noise".
        tolerance: Standard error of the ranking of the map, see `adaptive.standard_error`, at which
            an image needs no more samples, in (0, 1). It is judged after 64, 128, 256, ... pairs of
            subsets. Of several classes explained at once, the least certain one counts. None takes
            all `samples`.

    Raises:
        ValueError: If a number is out of range or an option is unknown.
    """

    is_signed = True
    speed_only = ("batch_size",)
    quick: ClassVar = {"samples": 200}

    def __init__(
        self,
        explanandum: Explanandum,
        samples: int = 1000,
        regions: Literal["superpixels", "grid"] = "superpixels",
        segments: int = 50,
        compactness: float = 30.0,
        sigma: float = 3.0,
        response: Literal["probability", "logit", "log_odds"] = "probability",
        fill: FillChoice = "mean",
        batch_size: int = 64,
        seed: int = 0,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(explanandum, seed)
        check_tolerance(tolerance, samples)
        if samples < 2 or min(segments, batch_size) < 1 or compactness <= 0 or sigma < 0:
            raise ValueError(
                "expected samples >= 2, segments and batch_size >= 1, compactness > 0 and "
                f"sigma >= 0, got {samples}, {segments}, {batch_size}, {compactness} and {sigma}"
            )
        self.samples, self.regions, self.segments = samples, regions, segments
        self.compactness, self.sigma = compactness, sigma
        self.response, self.fill, self.batch_size = response, fill, batch_size
        self.tolerance = tolerance

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Signed maps (B, H, W), constant within each region."""
        return self.merged_map(images, targets)

    @torch.no_grad()
    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one set of forward passes."""
        total = self.samples * len(images)
        viewer = Viewer(self.explanandum, images, self.batch_size, title="KernelSHAP", total=total)
        with viewer.bar:
            maps = [self._explain(viewer, *each) for each in zip(images, classes, strict=True)]
        return torch.stack(maps)

    def divide(self, image: Tensor) -> Tensor:
        """Region (H, W) int64, counted from 0, of each pixel of an image (3, H, W) in [0, 1]."""
        if self.regions == "grid":
            cells = cell_numbers(image.shape[1], image.shape[2], max(1, round(self.segments**0.5)))
            return cells.to(image.device)
        return superpixels(image, self.segments, self.compactness, self.sigma)

    def _explain(self, viewer: Viewer, image: Tensor, classes: Tensor) -> Tensor:
        """Maps (k, H, W) of an image (3, H, W) and its classes (k,)."""
        generator = self.generator()
        source = self.explanandum.fill(self.fill, generator)
        fill = content.first(content.behind(source, image[None]))
        regions = self.divide(image)
        kept, weights, order = coalitions(int(regions.max()) + 1, self.samples, generator)

        def scored(part: Tensor) -> Tensor:
            logits = kept_logits(viewer, image, fill, regions, part)
            return self._scores(logits, classes).double().cpu()

        if self.tolerance is None or order is None:
            found = shapley(kept.double(), scored(kept), weights)
        else:
            found = self._settled(kept, order, scored, regions.cpu())
        return found.mT.to(image)[:, regions]

    def _settled(
        self, kept: Tensor, order: Tensor, scored: Callable[[Tensor], Tensor], regions: Tensor
    ) -> Tensor:
        """Shapley values (S, k) from the first pairs of subsets that make the ranking certain."""
        pairs, shown = (len(kept) - 2) // 2, torch.arange(len(kept)) < 2
        ends = scored(kept[shown])
        scores = ends.new_zeros(len(kept), ends.shape[1])
        scores[shown] = ends

        def values(draws: Tensor) -> Tensor:
            return shapley(kept.double(), scores, drawn_weights(draws, pairs))

        for stop in checkpoints(len(order), FEWEST // 2):
            draws = order[:stop]
            new = (drawn_weights(draws, pairs) > 0) & ~shown
            if new.any():
                scores[new], shown = scored(kept[new]), shown | new
            if stop == len(order):
                warn_spent(stop)
                break
            halves = [values(draws[part::2]).mT[:, regions] for part in range(2)]
            if standard_error(torch.stack(halves)[:, None]) <= (self.tolerance or 0.0):
                break
        return values(draws)

    def _scores(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Scores (N, k) of classes (k,), from logits (N, K)."""
        if self.response == "log_odds":
            multi_label = self.explanandum.multi_label
            columns = [log_odds(logits, each.expand(len(logits)), multi_label) for each in classes]
            return torch.stack(columns, dim=1)
        if self.response == "probability":
            logits = self.explanandum.to_probabilities(logits)
        return logits[:, classes]
