"""Ranks of methods over images: mean ranks with Friedman's test, and agreement of figures.

And the number of images that the signed-rank test needs to tell two methods apart.
"""

import itertools
import math
from collections.abc import Mapping
from functools import cache
from typing import TypedDict

import numpy as np
from scipy import stats

from explainers.metrics.statistics import Array, Columns


class Ranks(TypedDict):
    """Mean ranks of methods, 1 being best, and whether they differ.

    Args:
        images: Number of images, those for which every method has a value.
        left_out: Number of images left out because a method has no value.
        ranks: Mean rank of each method.
        p: P-value of Friedman's test; None for fewer than three methods or two images.
        critical_difference: Difference of two mean ranks from which on Nemenyi's test tells the
            methods apart; None without images.
    """

    images: int
    left_out: int
    ranks: dict[str, float]
    p: float | None
    critical_difference: float | None


def needed_images(differences: Array, power: float = 0.8, level: float = 0.05) -> int | None:
    """Number of images with which the signed-rank test would tell two methods apart.

    The differences are taken as the distribution of further images. With p the probability that the
    sum of two differences is positive, a number n of differences that are not 0 has the power if
    sqrt(n) |p - 1/2| = z_level sqrt(1/3) + z_power s. Here s^2 is four times the variance of the
    probability, given one difference, that its sum with another one is positive. Differences of 0
    do not count for the test, so n is divided by the share of the others.

    Source: Noether, "Sample size determination for some common nonparametric tests", JASA 1987,
    who takes s^2 = 1/3 as for equal methods; s for methods that differ as in Lehmann,
    "Nonparametrics", 1975, ch. 4.

    Args:
        differences: Paired differences (N,) of two methods, NaN where missing.
        power: Probability with which the test shall tell the methods apart.
        level: Level of the two-sided test; divide it by the number of tests to correct for them.

    Returns:
        The number of images; None if the differences favor neither method, or fewer than two
        images differ.

    Raises:
        ValueError: If `power` or `level` is not between 0 and 1.

    Example:
        >>> needed_images(np.array([1.0, -2.0, 4.0]))
        85
    """
    if not (0 < power < 1 and 0 < level < 1):
        raise ValueError(f"power and level must lie between 0 and 1, got {power} and {level}")
    known = differences[~np.isnan(differences)]
    nonzero = known[known != 0]
    if nonzero.size < 2:
        return None
    positive = _positive_sums(nonzero)
    effect = abs(float(positive.mean()) - 0.5)
    if effect < 1e-12:
        return None
    z_level, z_power = (float(stats.norm.ppf(share)) for share in (1 - level / 2, power))
    spread = 2 * float(positive.std())
    n = ((z_level / math.sqrt(3) + z_power * spread) / effect) ** 2
    least = math.floor(math.log2(2 / level)) + 1  # with fewer, all of one sign, p is not below it
    return math.ceil(max(n, least) * float(known.size / nonzero.size) - 1e-9)


def favored(differences: Array) -> float:
    """Probability that the sum of two of the differences (N,) that are not 0 is positive.

    It is above 1/2 where the signed-rank test favors the minuend, and 1/2 for fewer than two
    differences.
    """
    nonzero = differences[differences != 0]
    return float(_positive_sums(nonzero).mean()) if nonzero.size > 1 else 0.5


def _positive_sums(nonzero: Array) -> Array:
    """Share of the other differences (N,) whose sum with each is positive; a sum of 0 is half."""
    ordered = np.sort(nonzero)
    above = nonzero.size - np.searchsorted(ordered, -nonzero, side="right")
    equal = nonzero.size - above - np.searchsorted(ordered, -nonzero, side="left")
    return np.asarray((above + equal / 2 - (nonzero > 0)) / (nonzero.size - 1), dtype=np.float64)


def mean_ranks(columns: Columns, higher_is_better: bool, level: float = 0.05) -> Ranks:
    """Mean ranks of methods over images, Friedman's test, and Nemenyi's critical difference.

    Equal values share their mean rank. Methods without any value are left out, and then images for
    which a method has no value.

    Source: Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006.

    Args:
        columns: Values (N,) by method.
        higher_is_better: Whether the highest value gets rank 1.
        level: Level of Nemenyi's test.
    """
    columns = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    if not columns:
        return {"images": 0, "left_out": 0, "ranks": {}, "p": None, "critical_difference": None}
    table = np.stack(list(columns.values()), axis=1)
    ranks = _ranks(table, higher_is_better)
    ranks = ranks[~np.isnan(ranks[:, 0])]
    images, methods = ranks.shape
    p = None
    if methods > 2 and images > 1:
        varying = (ranks != ranks[:, :1]).any()
        p = _friedman(ranks) if varying else 1.0
    difference = None
    if methods > 1 and images:
        difference = _nemenyi(methods, level) * math.sqrt(methods * (methods + 1) / (6 * images))
    means = ranks.mean(axis=0) if images else np.empty(0)
    return {
        "images": images,
        "left_out": len(table) - images,
        "ranks": dict(zip(columns, means.tolist(), strict=False)),
        "p": p,
        "critical_difference": difference,
    }


def _ranks(table: Array, higher_is_better: bool) -> Array:
    """Ranks (N, M) of the methods within each image, 1 being best; NaN if a value is missing."""
    ranks = stats.rankdata(-table if higher_is_better else table, axis=1, nan_policy="propagate")
    return np.asarray(ranks, dtype=np.float64)


def _friedman(ranks: Array) -> float:
    """P-value of Friedman's test from ranks (N, M) of at least three methods."""
    n, k = ranks.shape
    ties = 12 * (n * k * (k + 1) * (2 * k + 1) / 6 - float((ranks**2).sum()))  # sum of t^3 - t
    sums = float((ranks.sum(axis=0) ** 2).sum())
    statistic = (12.0 / (k * n * (k + 1)) * sums - 3 * n * (k + 1)) / (
        1 - ties / (k * (k * k - 1) * n)
    )
    return float(stats.chi2.sf(statistic, k - 1))


@cache
def _nemenyi(methods: int, level: float) -> float:
    """Quantile of the studentized range with infinitely many degrees of freedom, over sqrt(2)."""
    return float(stats.studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)


def agreement(
    table: Mapping[str, Columns], higher_is_better: Mapping[str, bool]
) -> dict[str, dict[str, float | None]]:
    """Rank correlation between figures: whether they order the methods of an image alike.

    The methods are ranked within each image by each figure, and the ranks of two figures are
    correlated over all images and methods. Without ties, this is the mean over images of Spearman's
    correlation. A correlation over images instead would be high for any two figures that are easy
    on the same images, although they may prefer other methods.

    Args:
        table: Values (N,) by figure and method, with the same images in the same order throughout.
            Methods without any value of a figure are left out, and so is an image, for two figures,
            if a method has no value of either of them.
        higher_is_better: Direction of each figure.

    Returns:
        Correlation in [-1, 1] of each figure with each: 1 if they always agree, None if it is not
        defined, as for fewer than two methods.
    """
    known = {
        figure: [name for name, values in columns.items() if np.isfinite(values).any()]
        for figure, columns in table.items()
    }
    shared = [
        name
        for name in dict.fromkeys(itertools.chain.from_iterable(known.values()))
        if all(name in names for names in known.values() if names)
    ]
    figures = [figure for figure, names in known.items() if names]
    centered = {}
    for figure in figures if len(shared) > 1 else []:
        stacked = np.stack([table[figure][name] for name in shared], axis=1)
        centered[figure] = _ranks(stacked, higher_is_better[figure]) - (len(shared) + 1) / 2
    result: dict[str, dict[str, float | None]] = {a: dict.fromkeys(table) for a in table}
    if not centered:
        return result
    ranks = np.stack(list(centered.values()))
    images = ~np.isnan(ranks[:, :, 0])
    ranks[~images] = 0.0
    flat = ranks.reshape(len(ranks), -1)
    products = flat @ flat.T
    squares = np.einsum("ijk,ijk->ij", ranks, ranks) @ images.T.astype(
        np.float64
    )  # of a, where b is known
    for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(centered), 2):
        norm = math.sqrt(float(squares[i, j]) * float(squares[j, i]))
        if norm:
            result[a][b] = result[b][a] = float(products[i, j]) / norm
    return result
