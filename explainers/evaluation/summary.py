"""Figures with intervals, paired tests, ranks and verdicts, from the rows of scores.csv."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from explainers.evaluation.scorefile import ERROR, IDENTITY, KEYS, Record
from explainers.evaluation.verdict import standings
from explainers.metrics import statistics
from explainers.metrics.base import PerImageMetric


def columns_by_method(
    rows: Sequence[Record], methods: Sequence[str]
) -> tuple[int, dict[str, statistics.Columns]]:
    """Number of images n, and the values (n,) of each method and column.

    All values belong to the same sorted images.
    """
    images = sorted({int(row["index"]) for row in rows})
    place = {index: i for i, index in enumerate(images)}
    names = [name for name in (rows[0] if rows else {}) if name not in (*KEYS, IDENTITY, ERROR)]
    result: dict[str, statistics.Columns] = {}
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        index = np.array([place[int(row["index"])] for row in own], dtype=np.int64)
        try:
            values = np.array(
                [[float(row[name] or "nan") for name in names] for row in own], dtype=np.float64
            )
        except ValueError as error:
            raise ValueError(
                f"scores.csv is damaged: a value of {method} is no number ({error}); delete its "
                "line, and the image is scored again"
            ) from None
        found, means = statistics.by_image(index, values.reshape(len(own), len(names)))
        full = np.full((len(images), len(names)), np.nan)
        full[found] = means
        result[method] = {name: np.ascontiguousarray(full[:, i]) for i, name in enumerate(names)}
    return len(images), result


def missing_notes(rows: Sequence[Record], methods: Sequence[str]) -> list[str]:
    """Sentences on the images without values, because of an error or of a map that is not finite.

    An image whose row has no time was not measured, see `measure.score_batch`. If the row has no
    class either, whatever the method, the classifier's output was not finite.

    Args:
        rows: Rows as read from scores.csv.
        methods: Names of the methods.
    """
    if not rows or "seconds" not in rows[0]:
        return []
    images = {row["index"] for row in rows}
    timed = {(row["method"], row["index"]) for row in rows if row["seconds"]}
    lost: dict[str, set[str]] = {}
    unknown = {row["index"] for row in rows if not row["target"]}
    for method in methods:
        own = {row["index"] for row in rows if row["method"] == method}
        lost[method] = {index for index in own if (method, index) not in timed}
        unknown &= lost[method] if own else unknown
    notes = []
    for method in methods:
        failed = {
            row["name"]: row[ERROR] for row in rows if row["method"] == method and row.get(ERROR)
        }
        lost[method] -= {row["index"] for row in rows if row["name"] in failed}
        if failed:
            notes.append(
                f"{method} failed for {len(failed)} of {len(images)} images, whose values are "
                f"missing: see errors.csv; the first by {next(iter(failed.values()))}"
            )
    if unknown:
        notes.append(
            f"the classifier's outputs are not finite for {len(unknown)} of {len(images)} images: "
            "all their values are missing"
        )
    for method in methods:
        if count := len(lost[method] - unknown):
            verb, whose = ("is", "its") if count == 1 else ("are", "their")
            notes.append(
                f"{method}: {count} of {len(images)} maps {verb} not finite, "
                f"{whose} values are missing"
            )
    return notes


def summarize(
    rows: Sequence[Record],
    metrics: Sequence[PerImageMetric],
    methods: Sequence[str],
    bootstrap: int = 1000,
    interval: Literal["percentile", "bca"] = "percentile",
) -> dict[str, Any]:
    """Figures of every method, computed from the rows of scores.csv alone.

    Args:
        rows: Rows as read from the file.
        metrics: Metrics that wrote the columns.
        methods: Names of the methods, the method under test first.
        bootstrap: Number of bootstrap resamples for the confidence intervals.
        interval: Kind of the intervals, see `statistics.bootstrap_ci`.

    Returns:
        A dictionary with `images`, the number of images; `methods`, {name: {figure: mean, ci95, n,
        higher_is_better}}, where n is the number of images that the figure is about; `families`,
        the class of the metric of each figure; `paired`, the tests of the figures that are means
        over images; and the entries of `verdict.standings`. Missing values are None, and so are the
        bounds of an interval from a single image.
    """
    count, columns = columns_by_method(rows, methods)
    figures: dict[str, dict[str, Any]] = {method: {} for method in methods}
    averaged: dict[str, dict[str, statistics.Array]] = {}
    for method in methods:
        for metric in metrics:
            own = {name: columns[method].get(name, np.empty(0)) for name in metric.names}
            figures[method] |= _figures(metric, own, bootstrap, interval)
            for name, values in metric.averaged(own).items():
                averaged.setdefault(name, {})[method] = values
    return {
        "images": count,
        "methods": figures,
        "families": {f: type(metric).__name__ for metric in metrics for f in metric.reports},
        "paired": statistics.paired_wilcoxon(averaged, methods[0]),
        **standings(metrics, averaged),
    }


def _figures(
    metric: PerImageMetric,
    own: statistics.Columns,
    bootstrap: int,
    interval: Literal["percentile", "bca"],
) -> dict[str, Any]:
    plain = type(metric).aggregate is PerImageMetric.aggregate
    values = metric.aggregate(own)
    aggregate = None if plain else metric.aggregate
    intervals = statistics.bootstrap_ci(own, aggregate, n=bootstrap, method=interval)
    some = int((~np.isnan(np.stack(list(own.values())))).any(axis=0).sum())
    counts = {name: int((~np.isnan(v)).sum()) for name, v in metric.averaged(own).items()}
    figures = {}
    for name in metric.reports:
        n = counts.get(name, some)
        figures[name] = {
            "mean": _number(values[name]),
            "ci95": [_number(bound) if n > 1 else None for bound in intervals[name]],
            "n": n,
            "higher_is_better": metric.direction(name),
        }
    return figures


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
