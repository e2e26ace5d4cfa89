"""The page of a run, report.html: one file that needs no network."""

import base64
import csv
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from explainers import mapstore
from explainers.evaluation import aggregate, plots, scores
from explainers.evaluation.gallery import BYTES, Figures, Lookup, gallery
from explainers.evaluation.runfolder import write_atomically
from explainers.evaluation.sanity import SANITY
from explainers.evaluation.verdict import listed
from explainers.metrics.statistics import FEW

COST = ("seconds", "forwards", "backwards")  # shown beside the figure that ranks
MAIN = ("Faithfulness", "SoftIoU", "IDD", "NPD")  # which figure ranks, the first that a run has
MOST = 200  # images in the table of single images, and lines of errors
AGAIN = ("command.txt", "config.yaml", "settings.json")  # what decided the numbers of a run


def write(
    folders: Sequence[Path],
    out: Path,
    over_runs: bool = False,
    known: Sequence[scores.Scores] | None = None,
) -> str:
    """Writes one page for the runs in some folders, from their files alone.

    Args:
        folders: Folders with summary.json, scores.csv and settings.json.
        out: File of the page.
        over_runs: Whether the page also has the table over the runs, see `aggregate.over`.
        known: Rows of the scores.csv of each folder, if they have been read already.

    Returns:
        The table over the runs as Markdown, or "".

    Raises:
        FileNotFoundError: If a folder holds no finished test.
        ValueError: If a run is named twice, or there are fewer than two for a table over runs.
    """
    places = [folder.resolve() for folder in folders]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise ValueError(f"{twice} is named twice: a run counts once")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    summaries = [_summary(folder) for folder in folders]
    titles = _titles(folders)
    rows = known or [_rows(folder) for folder in folders]
    tables = []
    if over_runs:
        aggregate.check([_settings(folder) for folder in folders], titles)
        each = zip(rows, summaries, titles, strict=True)
        tables = aggregate.over([aggregate.run(*run) for run in each])
    runs = [
        _run(folder, own, summary, title, BYTES // len(folders))
        for folder, own, summary, title in zip(folders, rows, summaries, titles, strict=True)
    ]
    over = [
        {"figure": table["figure"], "cells": aggregate.cells(table), "note": aggregate.note(table)}
        for table in tables
    ]
    page = environment.get_template("report.html").render(
        runs=runs, over=over, common=_common(runs), few=FEW
    )
    write_atomically(out, page)
    return aggregate.markdown(tables)


def _summary(folder: Path) -> dict[str, Any]:
    if not (folder / "summary.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no summary.json: a report is made of the folder of a finished test"
        )
    return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "settings.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _titles(folders: Sequence[Path]) -> list[str]:
    """Names of the folders; those that occur again get a number."""
    titles: list[str] = []
    for folder in folders:
        name = folder.resolve().name
        others = (f"{name} ({number})" for number in itertools.count(2))
        titles.append(next(each for each in itertools.chain([name], others) if each not in titles))
    return titles


def _run(
    folder: Path, scored: scores.Scores, summary: dict[str, Any], title: str, budget: int
) -> dict[str, Any]:
    """Everything that the template shows of one run."""
    methods: dict[str, dict[str, Any]] = summary["methods"]
    names = list(next(iter(methods.values())))
    main = next((name for name in (*MAIN, *names) if name in names), "")
    first = [name for name in (main, *COST) if name in names]
    families = {name: summary.get("families", {}).get(name, "") for name in names}
    rest = [name for name in names if name not in first]
    groups = [(families[main] if main else "", first[:1]), ("Cost", first[1:])]
    groups += [(family, list(own)) for family, own in itertools.groupby(rest, families.__getitem__)]
    figures = [*first, *rest]
    ranked = sorted(methods, key=lambda name: _order(methods[name].get(main)), reverse=True)
    rows = [
        {"name": name, "sanity": name in SANITY, "figures": methods[name]}
        for name in sorted(ranked, key=lambda name: name in SANITY)
    ]
    own = [name for name in ranked if name not in SANITY]
    text = (folder / "table.md").read_text(encoding="utf-8")
    verdicts = listed(summary.get("verdicts", {}))
    notes = [part for part in text.strip().split("\n\n")[1:] if not part.startswith("|")]
    told = [main, *(name for name in summary.get("agreement", {}) if name in names)]
    higher = {name: methods[own[0]][name]["higher_is_better"] for name in told if name and own}
    shown, means = gallery(
        mapstore.read(folder),
        mapstore.about(folder),
        Figures(own, higher, _lookup(scored, list(higher))),
        budget,
    )
    return {
        "title": title,
        "summary": summary,
        "settings": _settings(folder),
        "figures": figures,
        "groups": [(family, len(own)) for family, own in groups if own],
        "main": main,
        "rows": rows,
        "best": {name: _leaders(methods, own, name) for name in figures},
        "same": _same(summary, next(iter(methods))),
        "verdicts": verdicts,
        "ranks": _ranks(summary, own),
        "notes": [note for note in notes if note.removeprefix("- ").split("\n")[0] not in verdicts],
        "plots": plots.scatters(methods, own, main) + plots.mean_curves(means, own),
        "images": _images(scored, own, main),
        "gallery": shown,
        "panels": "" if shown["rows"] else _picture(folder / "panels.png"),
        "errors": _errors(folder / "errors.csv"),
        "files": {
            name: (folder / name).read_text(encoding="utf-8")
            for name in AGAIN
            if (folder / name).is_file()
        },
    }


def _common(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean of each method that all runs have, by run, on a main figure of all of them."""
    known = [run["summary"]["methods"] for run in runs]
    names = [name for name in known[0] if all(name in each for each in known)]
    figures = [run["main"] for run in runs]
    figure = next((f for f in figures if all(f in each[n] for n in names for each in known)), None)
    if len(runs) < 2 or not names or figure is None:
        return None
    rows = [(name, [each[name][figure]["mean"] for each in known]) for name in names]
    return {"figure": figure, "rows": rows}


def _order(figure: dict[str, Any] | None) -> float:
    """A figure's mean, the larger the better; what is missing comes last."""
    if figure is None or figure["mean"] is None:
        return float("-inf")
    mean = float(figure["mean"])
    if (ideal := figure.get("ideal")) is not None:
        return -abs(mean - float(ideal))
    return mean if figure["higher_is_better"] else -mean


def _leaders(methods: dict[str, Any], shown: Sequence[str], figure: str) -> set[str]:
    """Methods with the best mean of a figure."""
    best = max((_order(methods[name][figure]) for name in shown), default=0.0)
    return {name for name in shown if _order(methods[name][figure]) == best > float("-inf")}


def _same(summary: dict[str, Any], under: str) -> set[tuple[str, str]]:
    """Pairs (method, figure) that are not told apart from the method under test.

    None with fewer than `FEW` images, which tell nothing apart.
    """
    if summary["images"] < FEW:
        return set()
    return {
        (test["b"], test["metric"])
        for test in summary["paired"]
        if test["a"] == under and test["p"] is not None and test["p"] >= 0.05
    }


def _ranks(summary: Mapping[str, Any], shown: Sequence[str]) -> dict[str, Any]:
    """Mean ranks on the figures with a verdict: `figures` by name, and the `methods` in them."""
    known = summary.get("ranks", {})
    figures = {name: known[name] for name in summary.get("verdicts", {}) if name in known}
    return {
        "figures": figures,
        "methods": [n for n in shown if any(n in each["ranks"] for each in figures.values())],
    }


def _rows(folder: Path) -> scores.Scores:
    path = folder / "scores.csv"
    return scores.load(path) if path.is_file() else scores.of_records([])


def _lookup(scored: scores.Scores, figures: Sequence[str]) -> Lookup:
    """Function that finds the values of some figures, without the missing ones."""
    columns = {name: scored.values[name] for name in figures if name in scored.values}
    order = np.argsort(scored.index, kind="stable")
    index = scored.index[order]

    def find(image: int, target: str, method: str) -> dict[str, float]:
        start, stop = np.searchsorted(index, [image, image + 1])
        for row in order[start:stop]:
            if (scored.target.of(row), scored.method.of(row)) == (target, method):
                found = {name: float(values[row]) for name, values in columns.items()}
                return {name: value for name, value in found.items() if math.isfinite(value)}
        return {}

    return find


def _images(scored: scores.Scores, methods: Sequence[str], main: str) -> list[dict[str, Any]]:
    """Scores of single images by method, under the figure that ranks, if it is a column."""
    if main not in scored.values:
        return []
    known = [scored.method.known.index(name) for name in methods if name in scored.method.known]
    own = np.flatnonzero(np.isin(scored.method.codes, known))
    keys = scored.index[own] * len(scored.target.known) + scored.target.codes[own]
    distinct, first = np.unique(keys, return_index=True)
    shown = distinct[np.argsort(first)[:MOST]]
    images: dict[int, dict[str, Any]] = {}
    for place in np.flatnonzero(np.isin(keys, shown)):
        row = own[place]
        entry = images.setdefault(keys[place], {"name": scored.name.of(row), "scores": {}})
        value = float(scored.values[main][row])
        entry["scores"][scored.method.of(row)] = None if math.isnan(value) else value
    return list(images.values())


def _errors(path: Path) -> dict[str, Any]:
    """Number of the images left out or incomplete, and the first errors."""
    if not path.is_file():
        return {"images": 0, "rows": []}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {"images": len({row["image"] for row in rows}), "rows": rows[:MOST]}


def _picture(path: Path) -> str:
    """A picture file as the address of an image that is part of the page; "" without a file."""
    if not path.is_file():
        return ""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
