"""Base class of the metrics that are computed from perturbation curves."""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric
from explainers.metrics.curve_options import RESPONSE, ResponseOptions
from explainers.metrics.monte_carlo import drawn, half_width
from explainers.metrics.ties import gaussian_ranks
from explainers.options import complete
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve, Responses

Value = Literal["probability", "logit", "hit", "unchanged"]


class CurveMetric(PerImageMetric):
    """Base class of metrics of the perturbation curves of one class, given as a one-hot target.

    `Score` selects the class and provides its map.

    Range: [0, 1] for the area under a probability or a hit rate, [-1, 1] for a difference of two.
    Percentages and other scales multiply it.

    Cost: one forward pass for each point of a curve.

    Source: Samek et al., "Evaluating the visualization of what a deep neural network has learned",
    TNNLS 2017, for the idea; the arguments set the protocol of a paper.

    Blind to: what the pixels would show instead. Most images of a curve are unlike those of the
    training, so the fill, and the shape of the holes, decide too. Only the order of the pixels
    counts. Orders exist that are better than any explanation and explain nothing.

    Args:
        draws: Number of points of each curve to evaluate, drawn at random; None evaluates all.
        batch_size: Number of perturbed images in each forward pass.
        channels_last: Whether these batches are in the channels-last memory layout. None takes
            `Explanandum.channels_last`.
        response: What the curves follow, and the order of equal pixels, see `ResponseOptions`.

    Raises:
        ValueError: If `draws` is below 1.
    """

    needs = ("images", "maps", "targets", "explanandum")
    per_class = True
    speed_only = ("batch_size", "channels_last")

    def __init__(
        self,
        draws: int | None = None,
        batch_size: int = 16,
        channels_last: bool | None = None,
        response: ResponseOptions | None = None,
    ) -> None:
        super().__init__()
        if draws is not None and draws < 1:
            raise ValueError(f"draws must be at least 1 or None, got {draws}")
        self.draws, self.batch_size, self.channels_last = draws, batch_size, channels_last
        self.response = complete(response, RESPONSE)

    @abstractmethod
    def setting(self, size: tuple[int, int]) -> Curve:
        """One of the metric's curves for images of size (H, W); all have equally many points."""

    def note(self, size: tuple[int, int]) -> str:
        """Error bound of areas that are estimated from drawn points, for images of size (H, W)."""
        if self.draws is None:
            return ""
        points = len(self.setting(size).replaced(size[0] * size[1])) - 1
        width = half_width(self.draws, points)
        return (
            f"{', '.join(self.names)}: areas from {self.draws} of {points} points, each within "
            f"{width:.3f} of the whole area of its image and map with 95 % confidence "
            "(Ra-NEM, Theorem A.1), closer on average over images"
        )

    def run(
        self,
        settings: list[Curve],
        images: Tensor,
        maps: Tensor,
        targets: Tensor,
        explanandum: Explanandum,
        seed: int = 0,
    ) -> list[Responses]:
        """Responses along each curve, or only at its drawn points; see `curves.run`."""
        count, options = len(settings), self.response
        if self.draws is not None:
            generator = torch.Generator().manual_seed(seed)
            settings = [drawn(c, maps[0].numel(), self.draws, generator) for c in settings]
            settings.append(Curve(counts=(0,)))  # the clean image, needed by "unchanged"
        found = curves.run(
            explanandum,
            images,
            gaussian_ranks(maps) if options["ties"] == "gaussian" else maps,
            targets,
            settings,
            batch_size=self.batch_size,
            channels_last=self.channels_last,
            seed=seed,
            layer=options["layer"] if options["kind"] == "similarity" else None,
        )
        if self.draws is None:
            return found
        unknown = found[count].probability.isnan()
        return [
            curve._replace(probability=curve.probability.masked_fill(unknown, torch.nan))
            for curve in found[:count]
        ]

    def area(self, points: Tensor) -> Tensor:
        """Areas (B,) under curves (B, n + 1), or the mean of their drawn points."""
        return curves.auc(points, "trapezoid" if self.draws is None else "mean")

    def kept_area(self, name: str, setting: Curve, points: Tensor, pixels: int) -> Tensor:
        """Areas (B,) under the curves of a column, which are kept; see `area` and `keep`."""
        self.keep(name, setting, points, pixels)
        return self.area(points)

    def keep(self, name: str, setting: Curve, points: Tensor, pixels: int) -> None:
        """Keeps the curves (B, n + 1) of a column for images of `pixels` pixels.

        They are in `curves` until the next batch. Nothing is kept if points were drawn.
        """
        if self.draws is None:
            filled = torch.tensor(setting.replaced(pixels), dtype=torch.float64)
            changed = filled if setting.start == "image" else pixels - filled
            self.curves[name] = changed / pixels, points


def curve_values(found: Responses, value: Value, targets: Tensor) -> Tensor:
    """Heights of the points of a curve, (B, n + 1) float64; `value` is explained at `CurveAUC`.

    NaN where the output of the classifier is not finite.
    """
    if value == "probability":
        return found.probability
    if value == "logit":
        heights = found.logit
    elif value == "hit":
        heights = (found.top == targets.int().argmax(dim=1, keepdim=True).cpu()).double()
    else:
        heights = (found.top == found.clean.unsqueeze(1)).double()
    return heights.masked_fill(found.probability.isnan(), torch.nan)
