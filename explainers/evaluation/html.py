"""The page of a run, report.html: one file that needs no network."""

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from explainers.evaluation.runfolder import write_atomically
from explainers.evaluation.sanity import SANITY

INK = "#010203"  # drawn so, and then replaced by the color of the page's text
COST = ("seconds", "forwards", "backwards")  # shown beside the figure that ranks
MAIN = ("Faithfulness", "SoftIoU", "IDD", "NPD")  # which figure ranks, the first that a run has
MOST = 200  # images in the table of single images


def write(folders: Sequence[Path], out: Path) -> None:
    """Writes one page for the runs in some folders, from their files alone.

    Args:
        folders: Folders with summary.json, scores.csv and settings.json.
        out: File of the page.

    Raises:
        FileNotFoundError: If a folder holds no finished test.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    runs = [_run(folder) for folder in folders]
    page = environment.get_template("report.html").render(runs=runs)
    write_atomically(out, page)


def _run(folder: Path) -> dict[str, Any]:
    """Everything that the template shows of one run."""
    if not (folder / "summary.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no summary.json: a report is made of the folder of a finished test"
        )
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    methods: dict[str, dict[str, Any]] = summary["methods"]
    settings, names = folder / "settings.json", list(next(iter(methods.values())))
    main = next((name for name in (*MAIN, *names) if name in names), "")
    first = [name for name in (main, *COST) if name in names]
    figures = [*first, *(name for name in names if name not in first)]
    ranked = sorted(methods, key=lambda name: _order(methods[name].get(main)), reverse=True)
    rows = [
        {"name": name, "sanity": name in SANITY, "figures": methods[name]}
        for name in sorted(ranked, key=lambda name: name in SANITY)
    ]
    own = [name for name in ranked if name not in SANITY]
    text = (folder / "table.md").read_text(encoding="utf-8")
    verdicts = list(summary.get("verdicts", {}).values())
    notes = [part for part in text.strip().split("\n\n")[1:] if not part.startswith("|")]
    return {
        "title": folder.name,
        "summary": summary,
        "settings": settings.read_text(encoding="utf-8") if settings.is_file() else "",
        "figures": figures,
        "main": main,
        "rows": rows,
        "best": {name: _leaders(methods, own, name) for name in figures},
        "same": _same(summary, next(iter(methods))),
        "verdicts": verdicts,
        "notes": [note for note in notes if note.removeprefix("- ").split("\n")[0] not in verdicts],
        "plots": _plots(methods, own, main),
        "images": _images(folder / "scores.csv", own, main),
        "panels": _picture(folder / "panels.png"),
    }


def _order(figure: dict[str, Any] | None) -> float:
    """A figure's mean, the larger the better; what is missing comes last."""
    if figure is None or figure["mean"] is None:
        return float("-inf")
    mean = float(figure["mean"])
    return mean if figure["higher_is_better"] else -mean


def _leaders(methods: dict[str, Any], shown: Sequence[str], figure: str) -> set[str]:
    """Methods with the best mean of a figure."""
    best = max((_order(methods[name][figure]) for name in shown), default=0.0)
    return {name for name in shown if _order(methods[name][figure]) == best > float("-inf")}


def _same(summary: dict[str, Any], under: str) -> set[tuple[str, str]]:
    """Pairs (method, figure) that are not told apart from the method under test."""
    return {
        (test["b"], test["metric"])
        for test in summary["paired"]
        if test["a"] == under and test["p"] is not None and test["p"] >= 0.05
    }


def _images(path: Path, methods: Sequence[str], main: str) -> list[dict[str, Any]]:
    """Scores of single images by method, under the figure that ranks, if it is a column."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] in methods]
    if not rows or main not in rows[0]:
        return []
    images: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = images.setdefault(row["index"], {"name": row["name"], "scores": {}})
        entry["scores"][row["method"]] = float(row[main]) if row[main] else None
    return list(images.values())[:MOST]


def _picture(path: Path) -> str:
    """A picture file as the address of an image that is part of the page; "" without a file."""
    if not path.is_file():
        return ""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _plots(methods: dict[str, Any], shown: Sequence[str], main: str) -> list[dict[str, str]]:
    """Scatter plots of two figures each, as SVG, of those that the run has."""
    pairs = [("seconds", main, "log"), ("DeletionAUC", "InsertionAUC", "linear")]
    return [
        {"title": f"{y} against {x}", "svg": _scatter(methods, shown, x, y, scale)}
        for x, y, scale in pairs
        if shown
        and all(methods[n].get(each, {}).get("mean") is not None for n in shown for each in (x, y))
    ]


def _scatter(methods: dict[str, Any], shown: Sequence[str], x: str, y: str, scale: str) -> str:
    """A point with its intervals for each method."""
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.add_subplot()
    for name in shown:
        means = [methods[name][each]["mean"] for each in (x, y)]
        ends = [methods[name][each]["ci95"] for each in (x, y)]
        spans = [
            [[max(0.0, m - low)], [max(0.0, high - m)]] if low is not None else None
            for m, (low, high) in zip(means, ends, strict=True)
        ]
        axes.errorbar(means[0], means[1], spans[1], spans[0], "o", ms=5, elinewidth=0.8)
        axes.annotate(
            name,
            (means[0], means[1]),
            xytext=(6, 4),
            textcoords="offset points",
            color=INK,
            fontsize=8,
        )
    axes.set(xlabel=x, ylabel=y, xscale=scale)
    axes.tick_params(colors=INK, which="both")
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.grid(alpha=0.2)
    axes.patch.set_visible(False)
    figure.tight_layout()
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
