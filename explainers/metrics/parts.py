"""Parts of objects: their share of a map, and the response of the classifier without them."""

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric, exact, pixel_sum
from explainers.metrics.statistics import Columns, nan_mean

MOST_PARTS = 8  # parts of one object: the classifier is evaluated on every subset of them


def part_shares(maps: Tensor, parts: Tensor, dilation: int = 5) -> Tensor:
    """Share of the map on each part: its sum over the dilated part, divided by the positive sum.

    Dilated parts overlap, so the shares may sum to more than 1. The divisor is the sum of the
    positive values only: a map with a negative sum would otherwise make every part important. If
    no value is positive, all shares are 0.

    Args:
        maps: Maps (B, H, W).
        parts: Masks of the parts, (B, K, P, H, W) bool.
        dilation: Odd side in pixels of the square by which parts are dilated.

    Returns:
        Shares (B, K, P) float64 on the CPU; negative where the sum of the map over a part is, and
        NaN for a map that is not finite.
    """
    values, whole = exact(maps), pixel_sum(exact(maps).clamp_min(0))[:, None]
    each = parts.flatten(1, 2)
    sums = values.new_zeros(each.shape[:2])
    for place in each.any(dim=0).flatten(1).any(dim=1).nonzero().flatten().tolist():
        part = each[:, place, None].float()
        grown = F.max_pool2d(part, dilation, stride=1, padding=dilation // 2)
        sums[:, place] = pixel_sum(values * exact(grown[:, 0]))
    shares = torch.where(whole > 0, sums / whole.where(whole > 0, 1.0), 0.0)
    lost = ~values.flatten(1).isfinite().all(dim=1, keepdim=True)
    return shares.masked_fill(lost, torch.nan).view(parts.shape[:3])


class Deletions(NamedTuple):
    """Logits of an image without some of its parts, in float64 on the CPU.

    Attributes:
        own: Indices of the P' parts of the target that are visible, (P',) int64.
        subsets: Logits (2^P', K) for every subset of the own parts. The i-th own part is kept if
            bit i of the row number is 1 and deleted otherwise; the last row is the unchanged image.
        elsewhere: Class and part of the Q visible parts of other classes, (Q, 2) int64.
        others: Logits (Q, K) with each of these parts deleted alone.
        objects: Logits (K,) with all parts of another class deleted, for each such class.
    """

    own: Tensor
    subsets: Tensor
    elsewhere: Tensor
    others: Tensor
    objects: dict[int, Tensor]


def delete_parts(
    explanandum: Explanandum,
    image: Tensor,
    parts: Tensor,
    target: int,
    clean: Tensor,
    batch_size: int = 16,
) -> Deletions:
    """Logits of the image with parts deleted, that is, replaced by the mean color.

    Args:
        explanandum: The classifier.
        image: Image (3, H, W) in [0, 1].
        parts: Masks of the parts, (K, P, H, W) bool.
        target: Class whose parts are deleted in every combination.
        clean: Logits (K,) of the unchanged image.
        batch_size: Number of images in each forward pass.

    Raises:
        ValueError: If more than 8 parts of the target are visible.
    """
    there = parts.flatten(2).any(dim=2).cpu()
    own = there[target].nonzero().flatten()
    if len(own) > MOST_PARTS:
        raise ValueError(f"expected at most {MOST_PARTS} parts an object, got {len(own)}")
    there[target] = False
    elsewhere = there.nonzero()
    classes = [int(c) for c in torch.unique(elsewhere[:, 0])]
    none = torch.zeros_like(parts[target, 0])
    regions = [
        torch.stack([none, *(parts[target, p] for i, p in enumerate(own) if not code >> i & 1)])
        for code in range(2 ** len(own) - 1)
    ]
    regions += [parts[c, p][None] for c, p in elsewhere.tolist()]
    regions += [parts[c] for c in classes]
    logits = [clean.double().cpu()[None, :][:0]]
    for start in range(0, len(regions), batch_size):
        deleted = torch.stack([r.any(dim=0) for r in regions[start : start + batch_size]])
        shown = torch.where(deleted[:, None], explanandum.mean, image)
        logits.append(exact(explanandum(shown)))
    count = 2 ** len(own) - 1
    subsets, others, objects = torch.split(torch.cat(logits), [count, len(elsewhere), len(classes)])
    return Deletions(
        own,
        torch.cat([subsets, exact(clean)[None]]),
        elsewhere,
        others,
        dict(zip(classes, objects, strict=True)),
    )


def sufficiency(codes: list[int], decided: list[bool]) -> list[float]:
    """Largest fraction of a minimal sufficient set of parts that a given set of parts contains.

    Args:
        codes: Given sets of parts, as integers whose bit i stands for part i.
        decided: Whether each possible set of parts, indexed by its code, is sufficient.

    Returns:
        Fraction in [0, 1] for each of `codes`; NaN if no set is sufficient.

    Example:
        >>> sufficiency([0b01, 0b10], decided=[False, False, False, True])  # only both suffice
        [0.5, 0.5]
    """
    enough = [code for code in range(1, len(decided)) if decided[code]]
    least = [a for a in enough if not any(b != a and a & b == b for b in enough)]
    shares = [[(c & a).bit_count() / a.bit_count() for a in least] for c in codes]
    return [max(share, default=float("nan")) for share in shares]


def decision_checks(important: Tensor, decided: list[bool]) -> Tensor:
    """Mean of the sufficiency, preservation and deletion checks at each threshold.

    Sufficiency is the value of `sufficiency`. The preservation check is 1 if the classifier still
    predicts the target when the unimportant parts are deleted. The deletion check is 1 if it no
    longer does so when the important parts are deleted.

    Args:
        important: Whether each part counts as important at each threshold, (T, P) bool.
        decided: Whether the classifier predicts the target from each of the 2^P sets of parts,
            indexed by their codes as in `sufficiency`.

    Returns:
        Means (T,) float64 in [0, 1]; NaN if the target is not predicted on the unchanged image.
    """
    codes = [sum(1 << i for i, on in enumerate(row) if on) for row in important.tolist()]
    everything = len(decided) - 1
    if not decided[everything]:
        return torch.full((len(codes),), torch.nan, dtype=torch.float64)
    preserved = [float(decided[code]) for code in codes]
    fallen = [float(not decided[everything ^ code]) for code in codes]
    table = [sufficiency(codes, decided), preserved, fallen]
    return torch.tensor(table, dtype=torch.float64).mean(dim=0)


def distraction(important: Tensor, drops: Tensor, logit: float) -> Tensor:
    """Fraction of the irrelevant parts that do not count as important, at each threshold.

    A part is irrelevant if deleting it raises the target's logit or changes it by less than 5 %.

    Args:
        important: Whether each part counts as important at each threshold, (T, N) bool.
        drops: Decrease of the target's logit when each part is deleted, (N,).
        logit: Logit of the target on the unchanged image.

    Returns:
        Fractions (T,) float64 in [0, 1]; NaN if no part is irrelevant.
    """
    irrelevant = (drops.abs() < 0.05 * abs(logit)) | (drops < 0)
    return 1 - (important & irrelevant).sum(dim=1).double() / irrelevant.sum()


class PartScores(PerImageMetric):
    """Base class of the FunnyBirds scores: completeness, correctness, contrastivity, their mean.

    The columns are correctness, contrastivity and, at each threshold above which the share of a
    part counts as important, the two values whose mean is completeness. One threshold is used for
    the whole data set, the one with the largest completeness. A score for which no image has a
    value is missing, and the mean of the three is then missing too.

    Args:
        thresholds: Shares above which a part counts as important; None stands for 20 values from
            0.01 to 0.5.
        dilation: Odd side in pixels of the square by which parts are dilated.

    Raises:
        ValueError: If there is no threshold or `dilation` is not odd.
    """

    prefix: ClassVar[str]  # of the names
    per_class = True

    def __init__(self, thresholds: list[float] | None = None, dilation: int = 5) -> None:
        super().__init__()
        grid = np.linspace(0.01, 0.5, 20).tolist() if thresholds is None else list(thresholds)
        if not grid or dilation < 1 or dilation % 2 == 0:
            raise ValueError(f"expected a threshold and an odd dilation, got {grid} and {dilation}")
        self.thresholds, self.dilation = grid, dilation
        self.checks = tuple(f"{self.prefix}Checks/{t:.3f}" for t in grid)
        self.calm = tuple(f"{self.prefix}Distractibility/{t:.3f}" for t in grid)
        self.names = (*self.reports[1:3], *self.checks, *self.calm)

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the four scores."""
        names = ("Completeness", "Correctness", "Contrastivity", "Overall")
        return tuple(f"{self.prefix}{name}" for name in names)

    @property
    def limits(self) -> Tensor:
        """The thresholds (T, 1) in float64."""
        return exact(torch.tensor(self.thresholds, dtype=torch.float64)[:, None])

    def aggregate(self, values: Columns) -> dict[str, float]:
        """The four scores, with completeness at the threshold at which it is largest."""
        checks, calm = (
            np.array([nan_mean(values[name]) for name in names])
            for names in (self.checks, self.calm)
        )
        complete = (checks + calm) / 2
        best = float("nan") if np.isnan(complete).all() else float(np.nanmax(complete))
        figures = [best, *(nan_mean(values[name]) for name in self.reports[1:3])]
        return dict(zip(self.reports, [*figures, float(np.mean(figures))], strict=True))
