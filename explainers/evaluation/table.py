"""Tables of a run: as Markdown, whole or in blocks for a terminal, and as CSV."""

import csv
import io
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from explainers.metrics.statistics import FEW


def table(summary: dict[str, Any], marked: Sequence[str] = ()) -> str:
    """Aligned Markdown table of methods and figures: mean and half the width of the 95 % interval.

    "≈" marks figures that the paired test does not distinguish from those of the first method, and
    "†" figures of too few images to tell: fewer than `FEW`, or differences on so few that the test
    could not reach p < 0.05 even if all were of one sign. If no figure is about more images, a line
    says so instead.

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
    text = aligned([head, *body])
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
        notes.append("† too few images have this value, or differ in it, to tell rows apart")
    return "\n\n".join([text, *notes])


def _too_few(summary: dict[str, Any]) -> set[tuple[str, str]]:
    """Methods and figures with values of too few images, or too few to tell from the first."""
    methods = summary["methods"]
    under_test, first = next(iter(methods.items()))
    tests = Counter(test["metric"] for test in summary["paired"])
    nonzero = {
        (t["b"], t["metric"]): t["nonzero"] for t in summary["paired"] if t["a"] == under_test
    }
    few = set()
    for method, row in methods.items():
        for name, figure in row.items():
            common = min(figure["n"], first[name]["n"])
            # With n differences of one sign, p is 2 / 2^n; Holm multiplies the smallest p.
            # Equal methods are not told apart however many images there are.
            count = nonzero.get((method, name)) or common
            hopeless = row is not first and tests[name] * 2.0 ** (1 - count) >= 0.05
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


def as_csv(summary: dict[str, Any]) -> str:
    """The means and the ends of their 95 % intervals, with all digits, as CSV.

    One row for each method, and three columns for each figure; missing values are empty.

    Args:
        summary: Result of `summary.summarize`.
    """
    methods = summary["methods"]
    names = list(next(iter(methods.values()), {}))
    ends = [f"{name}{end}" for name in names for end in ("", " low", " high")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", *ends])
    for method, row in methods.items():
        cells = [value for name in names for value in (row[name]["mean"], *row[name]["ci95"])]
        writer.writerow([method, *cells])
    return file.getvalue()


def rank_table(summary: dict[str, Any]) -> str:
    """Markdown table of mean ranks with Friedman's test, for the figures with a verdict.

    Args:
        summary: Result of `summary.summarize`.

    Returns:
        The table and its notes; empty if there are no ranks of at least `FEW` images.
    """
    ranks = {
        name: summary["ranks"][name]
        for name in summary["verdicts"]
        if summary["ranks"][name]["images"] >= FEW
    }
    if not ranks:
        return ""
    methods = dict.fromkeys(method for each in ranks.values() for method in each["ranks"])
    rows = [
        [
            method,
            *(f"{r['ranks'][method]:.2f}" if method in r["ranks"] else "-" for r in ranks.values()),
        ]
        for method in methods
    ]
    rows.append(
        ["critical difference", *(f"{r['critical_difference']:.2f}" for r in ranks.values())]
    )
    rows.append(["Friedman's p", *("-" if r["p"] is None else _p(r["p"]) for r in ranks.values())])
    text = aligned([["mean rank (1 is best)", *ranks], *rows])
    notes = ["mean ranks that differ by the critical difference or more: Nemenyi's test, p < 0.05"]
    notes += [
        f"{name}: {each['left_out']} images are left out of the ranks, as a method has no value"
        for name, each in ranks.items()
        if each["left_out"]
    ]
    return "\n\n".join([text, *notes])


def agreement_table(summary: dict[str, Any]) -> str:
    """Markdown matrix of the rank correlations between figures; empty if there are none.

    Args:
        summary: Result of `summary.summarize`.
    """
    matrix = summary["agreement"]
    names = [name for name in matrix if matrix[name][name] is not None]
    if len(names) < 2 or summary["images"] < FEW:
        return ""
    rows = [
        [a, *("-" if matrix[a][b] is None else f"{matrix[a][b]:.2f}" for b in names)] for a in names
    ]
    text = aligned([["agreement", *names], *rows])
    return (
        f"{text}\n\nagreement: Spearman's correlation of the methods' ranks within each image; "
        "1: two figures always order the methods alike"
    )


def fold(text: str, families: Mapping[str, str], width: int = 100) -> str:
    """The text with each Markdown table that is wider than `width` split into blocks of columns.

    Every block repeats the first column. The columns of a family stay in one block if it can hold
    them.

    Args:
        text: Text with Markdown tables.
        families: Family of each figure; a figure without one is its own.
        width: Number of characters of a line.
    """
    parts = []
    for is_table, lines in itertools.groupby(text.split("\n"), lambda line: line.startswith("| ")):
        block = list(lines)
        wide = is_table and max(map(len, block)) > width
        parts.append(_split(block, families, width) if wide else "\n".join(block))
    return "\n".join(parts)


def _split(lines: list[str], families: Mapping[str, str], width: int) -> str:
    rows = [[cell.strip() for cell in line[2:-2].split(" | ")] for line in lines]
    widths = [max(map(len, column)) + 3 for column in zip(*rows, strict=True)]
    names = [name.rstrip(" ↑↓") for name in rows[0]]
    blocks: list[list[int]] = [[]]
    room = left = width - widths[0] - 1
    for _, group in itertools.groupby(
        range(1, len(names)), lambda i: families.get(names[i], names[i])
    ):
        family = list(group)
        total = sum(widths[i] for i in family)
        if blocks[-1] and total > left:
            blocks.append([])
            left = room
        for i in family:
            if blocks[-1] and widths[i] > left:
                blocks.append([])
                left = room
            blocks[-1].append(i)
            left -= widths[i]
    rows.pop(1)  # the rule, which each block has anew
    return "\n\n".join(aligned([[row[i] for i in (0, *own)] for row in rows]) for own in blocks)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Aligned Markdown table of a head and further rows, with numbers on the right."""
    head, *body = rows
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| "
        + " | ".join(
            [cells[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        )
        + " |"
        for cells in (head, rule, *body)
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
