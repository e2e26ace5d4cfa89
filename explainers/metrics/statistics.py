"""Statistics over images: means without missing values, bootstrap intervals, paired tests."""

import itertools
from collections.abc import Callable, Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Columns = Mapping[str, Array]  # name -> (N,), one value per image; NaN means missing
Interval = tuple[float, float]

ALL_PAIRS = 6  # largest number of methods for which every pair is tested


class Comparison(TypedDict):
    """One paired test: mean of `a - b` over common images, and the Holm-corrected p-value."""

    metric: str
    a: str
    b: str
    difference: float
    p: float


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
    columns: Columns,
    aggregate: Callable[[Columns], dict[str, float]] | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of scores, with images as the resampled units.

    Args:
        columns: Per-image values. An image is resampled with all its columns.
        aggregate: Function from columns to scores; None uses the mean of each column without
            missing values.
        n: Number of resamples.
        seed: Seed of the resampling. Methods with equally many images get the same resamples.
        level: Coverage of the intervals.

    Returns:
        Interval (low, high) of each score by name; NaN if no resample defines the score.
    """
    if aggregate is None:
        return {
            name: _percentiles(_resampled_means(v, n, seed), level) for name, v in columns.items()
        }
    generator = np.random.default_rng(seed)
    size = len(next(iter(columns.values())))
    figures: dict[str, list[float]] = {name: [] for name in aggregate(columns)}
    for _ in range(n if size else 0):
        drawn = generator.integers(0, size, size)
        for name, value in aggregate(
            {name: column[drawn] for name, column in columns.items()}
        ).items():
            figures[name].append(value)
    return {
        name: _percentiles(np.array(values, dtype=np.float64), level)
        for name, values in figures.items()
    }


def _resampled_means(values: Array, n: int, seed: int, budget: int = 4_000_000) -> Array:
    known = values[~np.isnan(values)]
    if not known.size:
        return known
    generator = np.random.default_rng(seed)
    step = max(1, budget // known.size)  # resamples at a time, to bound the memory
    sizes = [min(step, n - start) for start in range(0, n, step)]
    return np.concatenate(
        [known[generator.integers(0, known.size, (s, known.size))].mean(axis=1) for s in sizes]
    )


def _percentiles(figures: Array, level: float) -> Interval:
    figures = figures[~np.isnan(figures)]
    if not figures.size:
        return float("nan"), float("nan")
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_wilcoxon(table: Mapping[str, Columns], main: str) -> list[Comparison]:
    """Wilcoxon signed-rank tests between methods, Holm-corrected within each metric.

    All pairs of methods are compared if there are at most `ALL_PAIRS` methods; otherwise only
    `main` is compared with every other method. A pair is compared on the images for which both
    methods have a value. Pairs without such images are left out.

    Args:
        table: Values (N,) by metric and method, with the same images in the same order throughout.
        main: Name of the method under test.
    """
    result: list[Comparison] = []
    for metric, methods in table.items():
        pairs = list(itertools.combinations(methods, 2))
        if len(methods) > ALL_PAIRS:
            pairs = [(main, other) for other in methods if other != main]
        differences = {
            pair: _known_differences(methods[pair[0]], methods[pair[1]]) for pair in pairs
        }
        differences = {pair: values for pair, values in differences.items() if values.size}
        corrected = holm([signed_rank(values) for values in differences.values()])
        for ((a, b), values), p in zip(differences.items(), corrected, strict=True):
            result.append(
                {"metric": metric, "a": a, "b": b, "difference": float(values.mean()), "p": p}
            )
    return result


def _known_differences(a: Array, b: Array) -> Array:
    both = np.isfinite(a) & np.isfinite(b)
    return a[both] - b[both]


def signed_rank(differences: Array) -> float:
    """Two-sided p-value of the signed-rank test of differences (N,), without those that are 0."""
    nonzero = differences[differences != 0]
    return float(stats.wilcoxon(nonzero).pvalue) if nonzero.size else 1.0


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
