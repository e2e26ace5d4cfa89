"""Any metric on blurred maps: what smoothness alone is worth to it."""

from typing import Any

import numpy as np
from torch import Tensor

from explainers.functional.smoothing import smooth_inside
from explainers.metrics.base import PerImageMetric
from explainers.metrics.statistics import Columns

PREFIX = "Blurred"


class BlurredMaps(PerImageMetric):
    """The figures of another metric for maps that are smoothed first, as columns Blurred<name>.

    Smoothing adds no information on the classifier. If it raises a figure, the figure rewards
    smooth maps; if all methods then come closer, they differed in smoothness.

    Source: Song, Cha and Seo, "On Pitfalls of RemOve-And-Retrain", arXiv 2304.13836: blurrier maps
    score better in ROAR and ROAD.

    Range: that of the other metric.

    Cost: that of the other metric.

    Blind to: what the other metric is blind to.

    Args:
        metric: The other metric, which must be given.
        sigma: Standard deviation of the Gaussian in pixels. It is cut off at 4 sigma, and pixels
            outside the image do not count.

    Raises:
        ValueError: If no metric is given, `sigma` is not positive, or the metric makes further maps
            itself, which would not be smoothed.
    """

    def __init__(self, metric: PerImageMetric | None = None, sigma: float = 5.0) -> None:
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"BlurredMaps needs sigma > 0, got {sigma}")
        if metric is None:
            raise ValueError(
                "BlurredMaps needs a metric, such as metric.class_path "
                "explainers.metrics.faithfulness.RISECurves"
            )
        if "explainer" in metric.needs or "maps" not in metric.needs:
            raise ValueError(
                f"{type(metric).__name__} is not a metric of one given map: its values with and "
                "without blurring cannot be compared"
            )
        own = set(vars(self))
        self.settings = {
            name: value
            for name, value in vars(metric).items()
            if name not in own and name[0] != "_" and name not in metric.speed_only
        } | {"metric": type(metric).__name__}  # for the record of a table
        self.metric, self.sigma = metric, sigma
        self.names = _prefixed(metric.names)
        self.needs, self.optional = metric.needs, metric.optional
        self.per_class, self.repeatable = metric.per_class, metric.repeatable
        self.wants_unit_maps, self.of_sums = metric.wants_unit_maps, metric.of_sums
        self.ideal = metric.ideal

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the figures."""
        return _prefixed(self.metric.reports)

    def direction(self, figure: str) -> bool:
        """Whether a higher value of a figure is better."""
        return self.metric.direction(figure.removeprefix(PREFIX))

    def score(self, maps: Tensor, **inputs: Any) -> dict[str, Tensor]:
        """Values (B,) of the other metric for smoothed maps (B, H, W)."""
        self.metric.curves = {}
        smooth = smooth_inside(maps, 2 * round(4 * self.sigma) + 1, self.sigma)
        values = self.metric.score(maps=smooth, **inputs)
        self.curves = {PREFIX + name: curve for name, curve in self.metric.curves.items()}
        return {PREFIX + name: column for name, column in values.items()}

    def aggregate(self, values: Columns) -> dict[str, float]:
        """Figures of the other metric from the columns (N,)."""
        figures = self.metric.aggregate(_plain(values))
        return {PREFIX + name: figure for name, figure in figures.items()}

    def averaged(self, values: Columns) -> Columns:
        """Values (N,) of those figures that are a mean over images."""
        found = self.metric.averaged(_plain(values))
        return {PREFIX + name: np.asarray(column) for name, column in found.items()}

    def note(self, size: tuple[int, int]) -> str:
        """Note of the other metric, for images of size (H, W)."""
        note = self.metric.note(size)
        return f"on blurred maps: {note}" if note else ""


def _prefixed(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(PREFIX + name for name in names)


def _plain(values: Columns) -> Columns:
    return {name.removeprefix(PREFIX): column for name, column in values.items()}
