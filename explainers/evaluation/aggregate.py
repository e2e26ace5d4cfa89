"""The table over several runs, as of several classifiers or data sets."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from explainers.evaluation.runfolder import differences
from explainers.evaluation.sanity import SANITY
from explainers.evaluation.scores import Scores
from explainers.evaluation.summary import columns_by_method
from explainers.evaluation.table import aligned
from explainers.metrics.ranking import favored
from explainers.metrics.statistics import Array, holm, known_differences, signed_rank

LEVEL = 0.05
MISSING = "†"

Pair = tuple[str, str]


class Run(NamedTuple):
    """What a table over runs needs of a run.

    Attributes:
        title: Name of the run, unlike that of any other run.
        summary: Content of summary.json.
        columns: Values (N,) of the images, by method and figure.
    """

    title: str
    summary: Mapping[str, Any]
    columns: Mapping[str, Mapping[str, Array]]


def run(rows: Scores, summary: Mapping[str, Any], title: str) -> Run:
    """A run from its files.

    Args:
        rows: Rows of its scores.csv, if need be none.
        summary: Content of its summary.json.
        title: Name of the run.
    """
    return Run(title, summary, columns_by_method(rows, list(summary["methods"]))[1])


def check(settings: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> None:
    """Refuses a table over runs whose equally named methods or metrics are not the same.

    The runs may differ in classifier, data, versions, seeds and weights.

    Args:
        settings: Content of the settings.json of each run, empty if it is not known.
        titles: Names of the runs.

    Raises:
        ValueError: If two runs differ in anything else. The message names it.
    """
    known = [(title, _compared(each)) for title, each in zip(titles, settings, strict=True) if each]
    for title, own in known[1:]:
        first, others = known[0]
        found = []
        for part, new in own.items():
            old = others.get(part, new)
            if isinstance(new, dict):  # of the methods and metrics that both runs have
                both = [name for name in new if name in old]
                old, new = {name: old[name] for name in both}, {name: new[name] for name in both}
            found += differences(old, new, part)
        if found:
            raise ValueError(
                f"{first} and {title} cannot be rows of one table: {'; '.join(found[:3])}. "
                "Test one of them again, or name them without --aggregate"
            )


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal in all runs of a table."""
    parts = ("target", "precision", "methods", "metrics")
    return {part: _without_seeds(settings[part]) for part in parts if part in settings}


def _without_seeds(value: Any) -> Any:
    """A value without what differs between repetitions and classifiers: seeds and weights."""
    if isinstance(value, dict):
        return {
            key: _without_seeds(own)
            for key, own in value.items()
            if key not in ("seed", "weights", "explanandum")
        }
    return [_without_seeds(own) for own in value] if isinstance(value, list) else value


def over(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A table over the runs for each main figure that at least two of them have.

    The mean over runs is unweighted: a run with many images counts as much as one with few. A
    method is ranked within each run by its mean, among the methods that every run has. Two methods
    are compared in each run by the signed-rank test, and over the runs by Stouffer's combination of
    its one-sided p-values, doubled; both with Holm's correction over all pairs.

    Args:
        runs: The runs.

    Returns:
        `figure`, `higher`, `runs`, `best` (the method with the best mean of those that every run
        has; None without any, or without values of single images) and `rows`: `name`, `mean`,
        `count` (number of runs with a value), `rank`, `p` against the best method, and `cells`, for
        each run the mean and whether the method is not told apart from the best one there.

    Raises:
        ValueError: If there are fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(
            f"a table over runs needs at least two runs, got {len(runs)}: name further folders"
        )
    names = dict.fromkeys(
        name
        for run in runs
        for name in run.summary.get("agreement") or run.summary.get("verdicts") or ()
    )
    tables = [_table(runs, name) for name in names]
    return [table for table in tables if table is not None]


def _table(all_runs: Sequence[Run], figure: str) -> dict[str, Any] | None:
    runs = [
        run
        for run in all_runs
        if any(_mean(run, name, figure) is not None for name in run.summary["methods"])
    ]
    if len(runs) < 2:
        return None
    names = [
        name
        for name in dict.fromkeys(name for run in runs for name in run.summary["methods"])
        if name not in SANITY and any(_mean(run, name, figure) is not None for run in runs)
    ]
    first = runs[0].summary["methods"]
    higher = next(f[figure]["higher_is_better"] for f in first.values() if figure in f)
    sign = 1 if higher else -1
    means = {name: [_mean(run, name, figure) for run in runs] for name in names}
    known = {name: [m for m in of if m is not None] for name, of in means.items()}
    whole = [name for name in names if len(known[name]) == len(runs)]
    ideal = _ideal(runs[0], figure)

    def far(values: Sequence[float | None]) -> Array:
        """The values so that small ones are good."""
        table = np.array(values, dtype=np.float64)
        return -sign * table if ideal is None else abs(table - ideal)

    order = sorted(names, key=lambda name: (name not in whole, float(np.mean(far(known[name])))))
    ranks: dict[str, float] = {}
    if len(whole) > 1:
        table = np.stack([far(means[name]) for name in whole])
        ranks = dict(zip(whole, stats.rankdata(table, axis=0).mean(axis=1), strict=True))
    best = order[0] if whole else None
    within = [_within(run, order, figure, sign) for run in runs]
    combined = _combined(within)
    rows = []
    for name in order:
        pair = (best or "", name)
        cells = [
            {"mean": mean, "same": _corrected(tests).get(pair, 0.0) >= LEVEL}
            for mean, tests in zip(means[name], within, strict=True)
        ]
        rows.append(
            {
                "name": name,
                "mean": float(np.mean(known[name])),
                "count": len(known[name]),
                "rank": ranks.get(name),
                "p": combined.get(pair),
                "cells": cells,
            }
        )
    return {
        "figure": figure,
        "higher": higher,
        "runs": [run.title for run in runs],
        "best": best if any(within) else None,
        "rows": rows,
    }


def _mean(run: Run, name: str, figure: str) -> float | None:
    value = run.summary["methods"].get(name, {}).get(figure, {}).get("mean")
    return None if value is None else float(value)


def _ideal(run: Run, figure: str) -> float | None:
    """The best value of a figure, if it is neither the highest nor the lowest one."""
    for figures in run.summary["methods"].values():
        if figure in figures:
            return None if (best := figures[figure].get("ideal")) is None else float(best)
    return None


def _within(
    run: Run, names: Sequence[str], figure: str, sign: int
) -> dict[Pair, tuple[float, float]]:
    """Two-sided p-value of each pair of methods in a run, and the one for "the first is better"."""
    tests = {}
    for a, b in itertools.combinations(names, 2):
        if not all(figure in run.columns.get(name, {}) for name in (a, b)):
            continue
        one, other = run.columns[a][figure], run.columns[b][figure]
        if (best := _ideal(run, figure)) is not None:
            one, other = abs(one - best), abs(other - best)
        gaps = sign * known_differences(one, other)
        if gaps.size:
            p, share = signed_rank(gaps), favored(gaps)
            if np.count_nonzero(gaps) == 1:
                share = float(gaps.sum() > 0)
            tests[a, b] = p, p / 2 if share > 0.5 else 1 - p / 2
    return tests


def _corrected(tests: Mapping[Pair, tuple[float, float]]) -> dict[Pair, float]:
    return dict(zip(tests, holm([p for p, _ in tests.values()]), strict=True))


def _combined(within: Sequence[Mapping[Pair, tuple[float, float]]]) -> dict[Pair, float]:
    """Two-sided p-value of each pair over the runs that compare it, at least two, corrected."""
    found = {}
    for pair in dict.fromkeys(pair for tests in within for pair in tests):
        one_sided = [tests[pair][1] for tests in within if pair in tests]
        if len(one_sided) > 1:
            # SciPy gives NaN for p-values of exactly 0 together with 1.
            clipped = np.clip(one_sided, 1e-15, 1 - 1e-15)
            p = float(stats.combine_pvalues(clipped, method="stouffer").pvalue)
            found[pair] = 2 * min(p, 1 - p)
    return dict(zip(found, holm(list(found.values())), strict=True))


def markdown(tables: Sequence[Mapping[str, Any]]) -> str:
    """The tables over runs as aligned Markdown, each with a note on what it says."""
    return "\n\n".join(f"{aligned(cells(table))}\n\n{note(table)}" for table in tables)


def cells(table: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of a table over runs as text."""
    head = [table["figure"] + (" ↑" if table["higher"] else " ↓"), "mean", "runs", "mean rank", "p"]
    lines = [[*head, *table["runs"]]]
    for row in table["rows"]:
        dagger = MISSING if row["count"] < len(table["runs"]) else ""
        shown = [
            MISSING if cell["mean"] is None else f"{cell['mean']:.3f}" + " ≈" * cell["same"]
            for cell in row["cells"]
        ]
        rank = "-" if row["rank"] is None else f"{row['rank']:.2f}"
        p = "-" if row["p"] is None else "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"
        mean, count = f"{row['mean']:.3f}{dagger}", f"{row['count']}/{len(table['runs'])}"
        lines.append([row["name"], mean, count, rank, p, *shown])
    return lines


def note(table: Mapping[str, Any]) -> str:
    """What the columns of a table over runs mean."""
    text = "mean: unweighted over the runs; mean rank: over the runs, among the methods of all runs"
    if table["best"] is not None:
        text += (
            f"; p: against {table['best']}, paired signed-rank tests of each run combined by "
            "Stouffer's method, Holm-corrected over all pairs; ≈: not told apart from "
            f"{table['best']} within the run, p >= {LEVEL}"
        )
    if any(row["count"] < len(table["runs"]) for row in table["rows"]):
        text += f"; {MISSING}: missing in a run, so that means are over different runs"
    return text
