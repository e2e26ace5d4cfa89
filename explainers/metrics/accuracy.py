"""Accuracy of the classifier itself, with an interval and what chance would give."""

from typing import Any

import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from explainers.metrics.base import PerImageMetric
from explainers.metrics.statistics import Columns, Interval, bootstrap_ci


class ClassifierAccuracy(PerImageMetric):
    """Top-1 accuracy of a single-label classifier, or micro-averaged F1 of a multi-label one.

    An image counts as right for a single-label classifier if its most probable class is one of the
    image's labels. A multi-label classifier predicts the classes whose logit is above 0. Images
    without a label, and images whose logits are not finite, have no value.

    Range: [0, 1].

    Cost: no forward passes beyond that of the image.

    Blind to: the maps. It says whether the classifier is worth explaining.

    Source: Wilson, JASA 1927, for the interval.

    Args:
        multi_label: Whether the classifier is multi-label.
    """

    names = ("tp", "fp", "fn", "classes", "top")
    needs = ("labels", "logits")

    def __init__(self, multi_label: bool = False) -> None:
        super().__init__()
        self.multi_label = multi_label

    @property
    def reports(self) -> tuple[str, ...]:
        """Name of the figure."""
        return ("F1",) if self.multi_label else ("top-1",)

    def score(self, labels: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Counts (B,) of each image, its number of classes, and its most probable class."""
        top = logits.argmax(dim=1)
        labels = labels.bool()
        predicted = logits > 0 if self.multi_label else F.one_hot(top, logits.shape[1]).bool()
        counts = {
            "tp": (predicted & labels).sum(dim=1),
            "fp": (predicted & ~labels).sum(dim=1),
            "fn": (~predicted & labels).sum(dim=1),
            "classes": torch.full_like(top, logits.shape[1]),
            "top": top,
        }
        unknown = ~logits.isfinite().all(dim=1) | ~labels.any(dim=1)
        return {
            name: count.double().masked_fill(unknown, torch.nan) for name, count in counts.items()
        }

    def aggregate(self, values: Columns) -> dict[str, float]:
        """The figure, in [0, 1]; NaN if no image has a value."""
        tp, fp, fn = (float(values[name][values[name] >= 0].sum()) for name in ("tp", "fp", "fn"))
        images = int((values["tp"] >= 0).sum())
        name = self.reports[0]
        if not images:
            return {name: float("nan")}
        return {name: 2 * tp / (2 * tp + fp + fn) if self.multi_label else tp / images}

    def judge(self, expected: float | None = None) -> dict[str, Any]:
        """The figure with its 95 % interval, and what is wrong with it.

        The interval of an accuracy is Wilson's, that of F1 is a bootstrap over images. By chance, a
        single-label classifier is right with probability 1 / K; for F1, chance is the F1 of
        predicting every class for every image.

        Args:
            expected: The figure that the classifier is known to have.

        Returns:
            `figure` (its name), `value`, `ci95`, `images`, and `problem`: None, or what a reader
            must know before trusting an explanation of this classifier.
        """
        _, columns = self.per_image()
        known = {name: values[columns["tp"] >= 0] for name, values in columns.items()}
        images = len(known["tp"])
        (name, value), *_ = self.aggregate(known).items()
        if not images:
            return {"figure": name, "value": None, "ci95": None, "images": 0, "problem": None}
        low, high = self._interval(known)
        chance = self._chance(known)
        problem = None
        if low <= chance:
            problem = f"it is not above chance ({100 * chance:.1f} %)"
        elif expected is not None and high < expected:
            problem = f"it is below the {100 * expected:.1f} % that it is known to have"
        elif not self.multi_label and images >= 10 and len(set(known["top"])) == 1 and value < 1:
            problem = f"it predicts class {int(known['top'][0])} for every image"
        return {
            "figure": name,
            "value": value,
            "ci95": [low, high],
            "images": images,
            "problem": problem,
        }

    def _interval(self, known: Columns) -> Interval:
        if self.multi_label:
            return bootstrap_ci(known, self.aggregate)["F1"]
        return wilson(int(known["tp"].sum()), len(known["tp"]))

    def _chance(self, known: Columns) -> float:
        present, classes = known["tp"] + known["fn"], known["classes"]
        if self.multi_label:
            return 2 * float(present.sum()) / float((present + classes).sum())
        return float((present / classes).mean())


def wilson(right: int, images: int) -> Interval:
    """95 % interval of an accuracy, from the number of images that are right of all."""
    interval = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def sentence(judged: dict[str, Any]) -> str:
    """A judgment of `ClassifierAccuracy` in words, such as "top-1 92.5 % [88.0, 95.4]"."""
    low, high = (100 * bound for bound in judged["ci95"])
    return f"{judged['figure']} {100 * judged['value']:.1f} % [{low:.1f}, {high:.1f}]"
