"""Statistics over images: means without missing values, bootstrap intervals, paired tests."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Columns = Mapping[str, Array]  # name -> (N,), one value per image; NaN means missing
Interval = tuple[float, float]

ALL_PAIRS = 6  # largest number of methods for which every pair is tested
FEW = 10  # images: with fewer, intervals are rough and tests cannot tell methods apart


class Comparison(TypedDict):
    """One paired test: mean of `a - b` over common images, and the Holm-corrected p-value.

    `nonzero` is the number of common images on which the two differ. The test uses only these.
    """

    metric: str
    a: str
    b: str
    difference: float
    p: float
    nonzero: int


def nan_mean(values: Array) -> float:
    """Mean of values (N,) without the missing ones; NaN if all are missing.

    Example:
        >>> nan_mean(np.array([1.0, np.nan, 3.0])), nan_mean(np.array([np.nan]))
        (2.0, nan)
    """
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def by_image(index: NDArray[np.int64], values: Array) -> tuple[NDArray[np.int64], Array]:
    """Average the rows of each image, without missing values.

    Args:
        index: Image to which each row belongs, (N,).
        values: Rows (N, C), NaN where missing.

    Returns:
        The distinct images (M,) in ascending order, and their means (M, C).
    """
    order = np.argsort(index, kind="stable")
    images, starts = np.unique(index[order], return_index=True)
    if not images.size:
        return images, np.empty((0, values.shape[1]))
    rows = values[order]
    known = ~np.isnan(rows)
    counts = np.add.reduceat(known, starts, axis=0, dtype=np.int64)
    sums = np.add.reduceat(np.where(known, rows, 0.0), starts, axis=0)
    return images, np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def bootstrap_ci(
    columns: Mapping[Any, Array],
    aggregate: Callable[[Any], dict[Any, float]] | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
    of_sums: bool = False,
) -> dict[Any, Interval]:
    """Bootstrap intervals of scores, with images as the resampled units.

    "bca" corrects the percentiles for the bias and the skewness of the resampled scores (Efron,
    "Better bootstrap confidence intervals", JASA 1987). Its acceleration comes from a jackknife
    over single images or, for scores of `aggregate` over more than n images, over n groups of
    images.

    Args:
        columns: Values (N,) of the same images, by name. An image is resampled with all of them.
        aggregate: Function from columns to scores; None uses the mean of each column without
            missing values.
        n: Number of resamples.
        seed: Seed of the resampling. It gives equally many images the same resamples.
        level: Coverage of the intervals.
        method: "percentile", or "bca" for bias-corrected and accelerated intervals.
        of_sums: Whether `aggregate` gives the same scores for the sum of each column (1,), without
            missing values, as for the column. It is then called with these, which is faster; not
            for "bca".

    Returns:
        Interval (low, high) of each score by name; NaN if no resample defines the score.

    Raises:
        ValueError: If `method` is neither.
    """
    if method not in ("percentile", "bca"):
        raise ValueError(f'method must be "percentile" or "bca", got {method!r}')
    bca = method == "bca"
    result: dict[Any, Interval] = {}
    if not columns:
        return result
    if aggregate is None:
        origins, sums, counts = _resampled_sums(list(columns.values()), n, seed)
        means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        for (name, values), figures in zip(columns.items(), (origins + means).T, strict=True):
            known = values[~np.isnan(values)]
            # Means without one image, up to a factor that cancels.
            place = (known.mean(), -known) if bca and known.size else None
            result[name] = _interval(figures, level, place)
        return result
    generator = np.random.default_rng(seed)
    size = len(next(iter(columns.values())))
    if of_sums and not bca:
        origins, sums, counts = _resampled_sums(list(columns.values()), n, seed)
        sums += origins * counts
        resampled = [aggregate(dict(zip(columns, row[:, None], strict=True))) for row in sums]
    else:
        resampled = [
            aggregate(_rows(columns, generator.integers(0, size, size)))
            for _ in range(n if size else 0)
        ]
    estimate, without = aggregate(columns), []
    if bca and size > 1:
        groups = np.array_split(generator.permutation(size), min(size, n))
        without = [
            aggregate({name: np.delete(column, group) for name, column in columns.items()})
            for group in groups
        ]
    for name, value in estimate.items():
        figures = np.array([each[name] for each in resampled], dtype=np.float64)
        jackknife = np.array([each[name] for each in without], dtype=np.float64)
        result[name] = _interval(figures, level, (value, jackknife) if bca else None)
    return result


def _rows(columns: Columns, rows: NDArray[np.int64]) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


def _resampled_sums(
    columns: Sequence[Array], n: int, seed: int, budget: int = 1_000_000
) -> tuple[Array, Array, Array]:
    """Sums of columns (N,) over resamples of their rows, and the numbers of values in them.

    Returns:
        Origin (K,) of each column, one of its values; sums (n, K) of the differences from it, and
        so exactly 0 for a column of equal values; numbers (n, K) of values that are not missing.
    """
    values = np.stack(columns, axis=1)
    known = ~np.isnan(values)
    origins = (
        values[known.argmax(axis=0), np.arange(len(columns))] if len(values) else values.sum(0)
    )
    origins = np.nan_to_num(origins)  # of a column without a value
    values -= origins
    values[~known] = 0.0
    size, some = len(values), np.flatnonzero(~known.all(axis=0))
    present = known[:, some].astype(np.float64)
    generator = np.random.default_rng(seed)
    step = max(1, budget // max(1, size))  # resamples at a time, to bound the memory
    sums, counts = (
        np.empty((n if size else 0, len(columns))),
        np.full((n if size else 0, len(columns)), float(size)),
    )
    for start in range(0, len(sums), step):
        rows = slice(start, min(start + step, n))
        drawn = generator.integers(0, size, (rows.stop - start, size))
        drawn += size * np.arange(len(drawn))[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        weights = times.astype(np.float64)
        sums[rows] = weights @ values
        counts[rows, some] = weights @ present
    return origins, sums, counts


def _interval(figures: Array, level: float, place: tuple[float, Array] | None) -> Interval:
    """Percentiles of resampled figures; those of BCa given the figure and its jackknife values."""
    figures = figures[~np.isnan(figures)]
    if not figures.size:
        return float("nan"), float("nan")
    at = np.array([(1 - level) / 2, (1 + level) / 2])
    if place is not None:
        estimate, jackknife = place
        near = 1e-12 * float(abs(figures).max())  # sums of equal values differ in their last bits
        share = ((figures < estimate - near).mean() + (figures <= estimate + near).mean()) / 2
        bias = stats.norm.ppf(np.clip(share, 0.5 / figures.size, 1 - 0.5 / figures.size))
        jackknife = jackknife[~np.isnan(jackknife)]
        gaps = jackknife.mean() - jackknife if jackknife.size else np.zeros(1)
        spread = float((gaps**2).sum()) ** 1.5
        acceleration = float((gaps**3).sum()) / (6 * spread) if spread else 0.0
        z = bias + stats.norm.ppf(at)
        at = stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(figures, at)
    return float(low), float(high)


def paired_wilcoxon(table: Mapping[str, Columns], main: str | None) -> list[Comparison]:
    """Wilcoxon signed-rank tests between methods, Holm-corrected within each metric.

    All pairs of methods are compared if `main` is None or there are at most `ALL_PAIRS` methods;
    otherwise only `main` is compared with every other method. A pair is compared on the images for
    which both methods have a value. Pairs without such images are left out.

    Args:
        table: Values (N,) by metric and method, with the same images in the same order throughout.
        main: Name of the method under test.
    """
    result: list[Comparison] = []
    for metric, methods in table.items():
        pairs = list(itertools.combinations(methods, 2))
        if main is not None and len(methods) > ALL_PAIRS:
            pairs = [(main, other) for other in methods if other != main]
        differences = {
            pair: known_differences(methods[pair[0]], methods[pair[1]]) for pair in pairs
        }
        differences = {pair: values for pair, values in differences.items() if values.size}
        corrected = holm([signed_rank(values) for values in differences.values()])
        for ((a, b), values), p in zip(differences.items(), corrected, strict=True):
            result.append(
                {
                    "metric": metric,
                    "a": a,
                    "b": b,
                    "difference": float(values.mean()),
                    "p": p,
                    "nonzero": int(np.count_nonzero(values)),
                }
            )
    return result


def known_differences(a: Array, b: Array) -> Array:
    """Differences a - b of the images for which both (N,) have a value."""
    both = np.isfinite(a) & np.isfinite(b)
    return a[both] - b[both]


def signed_rank(differences: Array) -> float:
    """Two-sided p-value of the signed-rank test of differences (N,), without those that are 0."""
    nonzero = differences[differences != 0]
    if nonzero.size > 50:
        return _normal_signed_rank(nonzero)
    if nonzero.size > 13:
        return float(stats.wilcoxon(nonzero).pvalue)
    # Where absolute differences are equal, SciPy tries all signs, for up to a second. Counting the
    # signs that give each sum of ranks is the same test. Ranks are doubled, as some end in .5.
    ranks = np.rint(2 * stats.rankdata(abs(nonzero))).astype(np.int64)
    ways = np.ones(1)
    for rank in ranks:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    reached = int(ranks[nonzero > 0].sum())
    tail = min(ways[: reached + 1].sum(), ways[reached:].sum())
    return min(1.0, float(2 * tail / ways.sum()))


def _normal_signed_rank(nonzero: Array) -> float:
    """The p-value by the normal approximation, as SciPy has it, which sorts more slowly."""
    n, ordered = nonzero.size, np.sort(abs(nonzero))
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ties = np.diff(np.append(starts, n)).astype(np.float64)
    positive = np.sort(nonzero[nonzero > 0])
    below = np.searchsorted(ordered, positive)
    if len(starts) < n:  # equal values share their mean rank
        equal = np.searchsorted(ordered, positive, side="right") - below
    else:
        equal = np.ones(positive.size, np.int64)
    ranks = float((below + (equal + 1) / 2).sum())
    error = math.sqrt((n * (n + 1.0) * (2.0 * n + 1) - (ties**3 - ties).sum() / 2) / 24)
    z = (ranks - n * (n + 1.0) / 4) / error
    return min(1.0, 2 * float(stats.norm.sf(abs(z))))


def holm(p: list[float]) -> list[float]:
    """P-values after Holm's step-down correction, in the given order.

    Example:
        >>> holm([0.04, 0.01, 0.5])
        [0.08, 0.03, 0.5]
    """
    corrected, largest = [1.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected
