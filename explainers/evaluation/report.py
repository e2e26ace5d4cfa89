"""The page of a run, table.md: its caption, the table, and the notes that readers need."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from explainers.evaluation import html
from explainers.evaluation.runfolder import write_atomically
from explainers.evaluation.scores import Scores
from explainers.evaluation.summary import columns_by_method, missing_notes
from explainers.evaluation.table import agreement_table, as_csv, fold, rank_table, table
from explainers.evaluation.verdict import listed
from explainers.metrics.accuracy import sentence
from explainers.metrics.base import PerImageMetric
from explainers.metrics.statistics import FEW


def write(folder: Path, summary: dict[str, Any], text: str, rows: Scores) -> dict[str, float]:
    """Writes summary.json, table.csv, table.md and report.html, and prints a table.

    What is printed is at most 100 columns wide.

    Args:
        folder: Run folder.
        summary: Result of `summary.summarize`, together with the entries of `caption`.
        text: Text of table.md, see `page`.
        rows: Rows of scores.csv.

    Returns:
        Means for loggers, as `test/<method>/<figure>`.
    """
    content = json.dumps(summary, indent=2, allow_nan=False)
    write_atomically(folder / "summary.json", f"{content}\n")
    write_atomically(folder / "table.md", text)
    write_atomically(folder / "table.csv", as_csv(summary))
    html.write([folder], folder / "report.html", known=[rows])
    print("\n" + fold(text, summary["families"]))
    return {
        f"test/{method}/{name}": figure["mean"]
        for method, figures in summary["methods"].items()
        for name, figure in figures.items()
        if figure["mean"] is not None
    }


def page(
    summary: dict[str, Any],
    rows: Scores,
    metrics: Sequence[PerImageMetric],
    size: tuple[int, int],
) -> str:
    """Text of table.md.

    Args:
        summary: Result of `summary.summarize`, together with the entries of `caption` and `masks`,
            the names of the methods that give masks; `costs`, see `training_notes`, of each method
            with rows; `left_out`, why further methods have none; `unread`, the number of images
            that could not be read.
        rows: Rows of scores.csv.
        metrics: Metrics that wrote the columns.
        size: Height and width of the images.
    """
    scaled = [type(metric).__name__ for metric in metrics if metric.wants_unit_maps]
    methods, costs = list(summary["costs"]), summary["costs"]
    marked = [name for name in methods if scaled and name not in summary["masks"]]
    parts = [caption(summary), table(summary, marked), *verdict_notes(summary)]
    parts += missing_notes(rows, methods)
    if marked:
        parts.append(f"\\* not masks: maps min-maxed one by one for {', '.join(scaled)}")
    parts += [summary["precision_check"]] if summary.get("precision_check") else []
    parts += training_notes(summary, costs)
    parts += [note for metric in metrics if (note := metric.note(size))]
    parts += absent_notes(summary, rows, metrics)
    detailed = [m for m in metrics if type(m).details is not PerImageMetric.details]
    columns = columns_by_method(rows, methods)[1] if detailed else {}
    for metric in detailed:
        details = {name: metric.details(columns[name]) for name in methods}
        parts += [f"{name}: {lines}" for name, lines in details.items() if lines]
    parts += [text for text in (rank_table(summary), agreement_table(summary)) if text]
    parts += [f"{name} is left out: {why}" for name, why in summary["left_out"].items()]
    if count := summary["unread"]:
        parts.append(f"{count} images could not be read and are left out: see errors.csv")
    return "\n\n".join(parts) + "\n"


def verdict_notes(summary: Mapping[str, Any]) -> list[str]:
    """The verdicts as a list and a line on their tests; none with fewer than `FEW` images.

    With so few images, the table itself says that they are too few.

    Args:
        summary: Result of `summary.summarize`.
    """
    if summary["images"] < FEW or not summary["verdicts"]:
        return []
    return [
        "\n".join(f"- {sentence}" for sentence in listed(summary["verdicts"])),
        "verdicts: paired Wilcoxon between all methods (without the rows that do not look at the "
        "image, and the ground truth), Holm-corrected over the pairs, p < 0.05; needed images at "
        "80 % power if the differences are as measured",
    ]


def absent_notes(
    summary: Mapping[str, Any], rows: Scores, metrics: Sequence[PerImageMetric]
) -> list[str]:
    """Sentences on the metrics of which no method has a value, with the reason."""
    of_methods, notes = summary["methods"], []
    for metric in metrics:
        names = [
            name
            for name in metric.reports
            if all(figures[name]["mean"] is None for figures in of_methods.values())
        ]
        if names and len(rows):
            first = columns_by_method(rows, list(of_methods)[:1])[1]
            own = next(iter(first.values()))
            nothing = np.full(summary["images"], np.nan)
            reason = metric.absent({name: own.get(name, nothing) for name in metric.names})
            notes.append(f"-: {', '.join(names)}: {reason}")
    return notes


def training_notes(
    summary: Mapping[str, Any], costs: Mapping[str, Mapping[str, float] | None]
) -> list[str]:
    """Sentences on what trainings cost, and from how many images on they take less time in all.

    Args:
        summary: Result of `summary.summarize`.
        costs: Costs of the trained methods by name, see `cost.CountCost`; None of the others.
    """
    seconds = {
        name: figures["seconds"]["mean"]
        for name, figures in summary["methods"].items()
        if figures.get("seconds", {}).get("mean") is not None
    }
    notes = []
    for name, cost in costs.items():
        if not cost:
            continue
        note = (
            f"{name} was trained for {cost['seconds']:,.0f} s: {cost['steps']:,} steps, "
            f"{cost['images']:,} images"
        )
        slower = {
            other: math.ceil(cost["seconds"] / (value - seconds[name]))
            for other, value in seconds.items()
            if name in seconds and not costs.get(other) and value > 2 * seconds[name]
        }
        if slower:
            each = ", ".join(f"{count:,} against {other}" for other, count in slower.items())
            note += f"; with this, it takes less time in all from so many images on: {each}"
        notes.append(note)
    return notes


def caption(summary: dict[str, Any]) -> str:
    """What was measured, in one line: images, classifier and its accuracy, data and settings."""
    judged = summary["classifier"]
    accuracy = sentence(judged) if judged and judged["images"] else ""
    parts = [
        f"{summary['images']} images",
        f"{summary['explanandum']} ({accuracy})" if accuracy else summary["explanandum"],
        summary["data"],
        f"target: {summary['target']}",
        f"precision: {summary['precision']}",
    ]
    return ", ".join(parts)
