"""Figures with confidence intervals, paired tests and a table, from the rows of scores.csv."""

import importlib.metadata
import math
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from explainers.evaluation.scorefile import Record
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
    names = [
        name
        for name in (rows[0] if rows else {})
        if name not in ("index", "name", "target", "method")
    ]
    result: dict[str, statistics.Columns] = {}
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        index = np.array([place[int(row["index"])] for row in own], dtype=np.int64)
        values = np.array(
            [[float(row[name] or "nan") for name in names] for row in own], dtype=np.float64
        )
        found, means = statistics.by_image(index, values.reshape(len(own), len(names)))
        full = np.full((len(images), len(names)), np.nan)
        full[found] = means
        result[method] = {name: np.ascontiguousarray(full[:, i]) for i, name in enumerate(names)}
    return len(images), result


def summarize(
    rows: Sequence[Record],
    metrics: Sequence[PerImageMetric],
    methods: Sequence[str],
    bootstrap: int = 1000,
) -> dict[str, Any]:
    """Figures of every method, computed from the rows of scores.csv alone.

    Args:
        rows: Rows as read from the file.
        metrics: Metrics that wrote the columns.
        methods: Names of the methods, the method under test first.
        bootstrap: Number of bootstrap resamples for the confidence intervals.

    Returns:
        A dictionary with `images`, the number of images; `methods`, {name: {figure: mean, ci95, n,
        higher_is_better}}, where n is the number of images that the figure is about; and `paired`,
        the tests of the figures that are means over images. Missing values are None.
    """
    count, columns = columns_by_method(rows, methods)
    figures: dict[str, dict[str, Any]] = {method: {} for method in methods}
    averaged: dict[str, dict[str, statistics.Array]] = {}
    for method in methods:
        for metric in metrics:
            own = {name: columns[method].get(name, np.empty(0)) for name in metric.names}
            figures[method] |= _figures(metric, own, bootstrap)
            for name, values in metric.averaged(own).items():
                averaged.setdefault(name, {})[method] = values
    return {
        "images": count,
        "methods": figures,
        "paired": statistics.paired_wilcoxon(averaged, methods[0]),
    }


def _figures(metric: PerImageMetric, own: statistics.Columns, bootstrap: int) -> dict[str, Any]:
    plain = type(metric).aggregate is PerImageMetric.aggregate
    values = metric.aggregate(own)
    intervals = statistics.bootstrap_ci(own, None if plain else metric.aggregate, n=bootstrap)
    some = int((~np.isnan(np.stack(list(own.values())))).any(axis=0).sum())
    counts = {name: int((~np.isnan(v)).sum()) for name, v in metric.averaged(own).items()}
    return {
        name: {
            "mean": _number(values[name]),
            "ci95": [_number(bound) for bound in intervals[name]],
            "n": counts.get(name, some),
            "higher_is_better": metric.direction(name),
        }
        for name in metric.reports
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(summary: dict[str, Any], marked: Sequence[str] = ()) -> str:
    """Aligned Markdown table of methods and figures: mean and half the width of the 95 % interval.

    "≈" marks figures that the paired test does not distinguish from those of the first method.

    Args:
        summary: Result of `summarize`.
        marked: Names of the methods that get an asterisk.
    """
    methods = summary["methods"]
    main, figures = next(iter(methods.items()))
    unclear = {
        (t["b"], t["metric"]) for t in summary["paired"] if t["a"] == main and t["p"] >= 0.05
    }
    head = [
        "method",
        *(f"{name} {'↑' if f['higher_is_better'] else '↓'}" for name, f in figures.items()),
    ]
    body = [
        [
            f"{name}{' *' if name in marked else ''}",
            *(_cell(f) + " ≈" * ((name, figure) in unclear) for figure, f in row.items()),
        ]
        for name, row in methods.items()
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            cells[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
        ]
        for cells in (head, rule, *body)
    ]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    note = f"≈ not told apart from {main}: paired Wilcoxon, Holm-corrected over the rows, p >= 0.05"
    return f"{text}\n\n{note}" if unclear else text


def _cell(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:
        return "-"
    low, high = figure["ci95"]
    half = 0.0 if low is None else (high - low) / 2
    return f"{_short(figure['mean'])} ± {_short(half)}"


def _short(value: float) -> str:
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.0e}"


def versions() -> dict[str, str]:
    """Versions of Python, of the libraries that determine the numbers, and of this project."""
    found = {"python": platform.python_version()}
    for name in ("torch", "lightning", "timm", "learned-explainers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
