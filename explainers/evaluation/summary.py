"""Figures with confidence intervals, paired tests and a table, from the rows of scores.csv."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from explainers.evaluation.scorefile import ERROR, IDENTITY, KEYS, Record
from explainers.metrics import statistics
from explainers.metrics.base import PerImageMetric

FEW = 10  # images: with fewer, intervals are rough and tests cannot tell methods apart


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
        the tests of the figures that are means over images. Missing values are None, and so are
        the bounds of an interval from a single image.
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


def table(summary: dict[str, Any], marked: Sequence[str] = ()) -> str:
    """Aligned Markdown table of methods and figures: mean and half the width of the 95 % interval.

    "≈" marks figures that the paired test does not distinguish from those of the first method, and
    "†" figures of too few images to tell: fewer than `FEW`, or so few that the test could not reach
    p < 0.05 whatever their values. If no figure is about more images, a line says so instead.

    Args:
        summary: Result of `summarize`.
        marked: Names of the methods that get an asterisk.
    """
    methods = summary["methods"]
    first, figures = next(iter(methods.items()))
    largest = max((f["n"] for row in methods.values() for f in row.values()), default=0)
    few = set() if largest < FEW else _too_few(summary)
    unclear = {
        (t["b"], t["metric"])
        for t in summary["paired"]
        if t["a"] == first and t["p"] >= 0.05 and largest >= FEW
    } - few
    head = [
        "method",
        *(f"{name} {'↑' if f['higher_is_better'] else '↓'}" for name, f in figures.items()),
    ]
    body = [
        [
            f"{name}{' *' if name in marked else ''}",
            *(
                _cell(f) + " ≈" * ((name, figure) in unclear) + " †" * ((name, figure) in few)
                for figure, f in row.items()
            ),
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
    notes = []
    if 0 < largest < FEW:
        images = "1 image is" if largest == 1 else f"{largest} images are"
        notes.append(f"{images} too few to tell rows apart, and intervals are rough")
    if unclear:
        notes.append(
            f"≈ not told apart from {first}: paired Wilcoxon, Holm-corrected over the rows, "
            "p >= 0.05"
        )
    if few:
        notes.append("† too few images have this value to tell rows apart")
    return "\n\n".join([text, *notes])


def _too_few(summary: dict[str, Any]) -> set[tuple[str, str]]:
    """Methods and figures with values of too few images, or too few to tell from the first."""
    methods = summary["methods"]
    first = next(iter(methods.values()))
    tests = Counter(test["metric"] for test in summary["paired"])
    few = set()
    for method, row in methods.items():
        for name, figure in row.items():
            common = min(figure["n"], first[name]["n"])
            # With n differences of one sign, p is 2 / 2^n; Holm multiplies the smallest p.
            hopeless = row is not first and tests[name] * 2.0 ** (1 - common) >= 0.05
            if figure["n"] and (figure["n"] < FEW or hopeless):
                few.add((method, name))
    return few


def _cell(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:
        return "-"
    low, high = figure["ci95"]
    mean = _short(figure["mean"])
    return mean if low is None or high is None else f"{mean} ± {_short((high - low) / 2)}"


def _short(value: float) -> str:
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.0e}"
