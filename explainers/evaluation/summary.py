"""Figures with intervals, paired tests, ranks and verdicts, from the rows of scores.csv."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from explainers.evaluation.scores import Scores
from explainers.evaluation.verdict import standings
from explainers.metrics import statistics
from explainers.metrics.base import PerImageMetric


def columns_by_method(
    rows: Scores, methods: Sequence[str]
) -> tuple[int, dict[str, statistics.Columns]]:
    """Number of images n, and the values (n,) of each method and column.

    All values belong to the same sorted images.
    """
    images, place = np.unique(rows.index, return_inverse=True)
    names = list(rows.values)
    result: dict[str, statistics.Columns] = {}
    for method in methods:
        own = np.flatnonzero(rows.method.where(method))
        values = np.empty((len(own), len(names)))
        for i, name in enumerate(names):
            values[:, i] = rows.values[name][own]
        found, means = statistics.by_image(place[own], values)
        full = np.full((len(names), len(images)), np.nan)
        full[:, found] = means.T
        result[method] = dict(zip(names, full, strict=True))
    return len(images), result


def missing_notes(rows: Scores, methods: Sequence[str]) -> list[str]:
    """Sentences on the images without values, because of an error or of a map that is not finite.

    An image whose row has no time was not measured, see `measure.score_batch`. If the row has no
    class either, whatever the method, the classifier's output was not finite.

    Args:
        rows: Rows of scores.csv.
        methods: Names of the methods.
    """
    if "seconds" not in rows.values:
        return []
    count, timed = len(np.unique(rows.index)), ~np.isnan(rows.values["seconds"])
    unknown = np.unique(rows.index[rows.target.where("")])
    lost, notes = {}, []
    for method in methods:
        own = rows.method.where(method)
        lost[method] = np.setdiff1d(rows.index[own], rows.index[own & timed])
        if own.any():
            unknown = np.intersect1d(unknown, lost[method])
        failed = own & rows.failed
        images = np.unique(rows.name.codes[failed])
        if len(images):
            gone = np.isin(rows.name.codes, images)
            lost[method] = np.setdiff1d(lost[method], rows.index[gone])
            first = rows.error.of(np.flatnonzero(failed)[0])
            notes.append(
                f"{method} failed for {len(images)} of {count} images, whose values are "
                f"missing: see errors.csv; the first by {first}"
            )
    if len(unknown):
        notes.append(
            f"the classifier's outputs are not finite for {len(unknown)} of {count} images: "
            "all their values are missing"
        )
    for method in methods:
        if few := len(np.setdiff1d(lost[method], unknown)):
            verb, whose = ("is", "its") if few == 1 else ("are", "their")
            notes.append(
                f"{method}: {few} of {count} maps {verb} not finite, {whose} values are missing"
            )
    return notes


def raise_if_failed(rows: Scores, methods: Sequence[str]) -> None:
    """Raises a ValueError if methods failed for every image; it names them and their first error.

    Args:
        rows: Rows of scores.csv.
        methods: Names of the methods.
    """
    told = {}
    for method in methods:
        own = np.flatnonzero(rows.method.where(method))
        if len(own) and rows.failed[own].all():
            told[method] = rows.error.of(own[0])
    if told and len(told) == len(methods):
        first = next(iter(told.values()))
        raise ValueError(f"every method failed for every image, the first by {first}")
    if told:
        each = "; ".join(f"{method} failed for every image, {e}" for method, e in told.items())
        raise ValueError(f"{each}; the table tells of the other methods")


def summarize(
    rows: Scores,
    metrics: Sequence[PerImageMetric],
    methods: Sequence[str],
    bootstrap: int = 1000,
    interval: Literal["percentile", "bca"] = "percentile",
) -> dict[str, Any]:
    """Figures of every method, computed from the rows of scores.csv alone.

    Args:
        rows: Rows of the file.
        metrics: Metrics that wrote the columns.
        methods: Names of the methods, the method under test first.
        bootstrap: Number of bootstrap resamples for the confidence intervals.
        interval: Kind of the intervals, see `statistics.bootstrap_ci`.

    Returns:
        A dictionary with `images`, the number of images; `methods`, {name: {figure: mean, ci95, n,
        higher_is_better}}, where n is the number of images that the figure is about, and `ideal`
        for a figure whose best value is neither the highest nor the lowest, which all comparisons
        replace by its distance from it; `families`,
        the class of the metric of each figure; `paired`, the tests of the figures that are means
        over images; and the entries of `verdict.standings`. Missing values are None, and so are the
        bounds of an interval from a single image.
    """
    count, columns = columns_by_method(rows, methods)
    nothing = np.full(count, np.nan)
    own = {
        (method, i): {name: columns[method].get(name, nothing) for name in metric.names}
        for method in methods
        for i, metric in enumerate(metrics)
    }
    intervals = _intervals(metrics, own, bootstrap, interval)
    figures: dict[str, dict[str, Any]] = {method: {} for method in methods}
    averaged: dict[str, dict[str, statistics.Array]] = {}
    for (method, i), values in own.items():
        means = metrics[i].averaged(values)
        figures[method] |= _figures(method, metrics[i], values, means, intervals)
        for name, column in means.items():
            best = metrics[i].ideal
            own_values = column if best is None else abs(column - best)
            averaged.setdefault(name, {})[method] = own_values
    return {
        "images": count,
        "methods": figures,
        "families": {f: type(metric).__name__ for metric in metrics for f in metric.reports},
        "paired": statistics.paired_wilcoxon(averaged, methods[0]),
        **standings(metrics, averaged),
    }


def _intervals(
    metrics: Sequence[PerImageMetric],
    own: Mapping[tuple[str, int], statistics.Columns],
    bootstrap: int,
    interval: Literal["percentile", "bca"],
) -> dict[tuple[str, str], statistics.Interval]:
    """Intervals by method and figure. All figures are computed from the same resamples of images.

    Args:
        metrics: The metrics.
        own: Columns of each method and metric, by the method's name and the metric's position.
        bootstrap: Number of resamples.
        interval: Kind of the intervals.
    """
    kinds: dict[str, dict[tuple[str, int], statistics.Columns]] = {}
    for (method, i), columns in own.items():
        plain = type(metrics[i]).aggregate is PerImageMetric.aggregate
        kind = "means" if plain else "sums" if metrics[i].of_sums else "others"
        kinds.setdefault(kind, {})[method, i] = columns
    found: dict[tuple[str, str], statistics.Interval] = {}
    for kind, places in kinds.items():

        def aggregate(
            values: Mapping[tuple[str, str], statistics.Array],
            places: Iterable[tuple[str, int]] = tuple(places),
        ) -> dict[tuple[str, str], float]:
            return {
                (method, figure): value
                for method, i in places
                for figure, value in metrics[i]
                .aggregate({name: values[method, name] for name in metrics[i].names})
                .items()
            }

        found |= statistics.bootstrap_ci(
            {(m, name): v for (m, _), columns in places.items() for name, v in columns.items()},
            None if kind == "means" else aggregate,
            n=bootstrap,
            method=interval,
            of_sums=kind == "sums",
        )
    return found


def _figures(
    method: str,
    metric: PerImageMetric,
    own: statistics.Columns,
    averaged: statistics.Columns,
    intervals: Mapping[tuple[str, str], statistics.Interval],
) -> dict[str, Any]:
    values = metric.aggregate(own)
    some = int((~np.isnan(np.stack(list(own.values())))).any(axis=0).sum())
    counts = {name: int((~np.isnan(v)).sum()) for name, v in averaged.items()}
    figures = {}
    for name in metric.reports:
        n = counts.get(name, some)
        figures[name] = {
            "mean": _number(values[name]),
            "ci95": [_number(bound) if n > 1 else None for bound in intervals[method, name]],
            "n": n,
            "higher_is_better": metric.direction(name),
            **({} if metric.ideal is None else {"ideal": metric.ideal}),
        }
    return figures


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
