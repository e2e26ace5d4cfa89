"""What finished tests of generative removal show beside their tables, for `removal.py`."""

from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace

from explainers.evaluation import scores
from explainers.evaluation.scorelines import ERROR, IDENTITY, KEYS
from explainers.evaluation.table import aligned
from explainers.metrics.localization_boxes import CropSaliency, LocalizationError
from explainers.metrics.statistics import nan_mean

SIMILARITIES = ("SSIM", "HOG", "Spearman")


def read_columns(run: Path) -> dict[str, dict[str, Any]]:
    """Values (N,) of a finished test by method and column, and `image`, its rows' names.

    Raises:
        FileNotFoundError: If the folder holds no scores.
    """
    path = run / "scores.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the folder of a finished test")
    found: dict[str, dict[str, list[Any]]] = {}
    for record in scores.read(path):
        own = found.setdefault(record["method"], {"image": []})
        own["image"].append(f"{record['name']} {record['target']}")
        for name in record.keys() - {*KEYS, IDENTITY, ERROR}:
            own.setdefault(name, []).append(float(record[name] or "nan"))
    return {m: {name: np.array(v) for name, v in own.items()} for m, own in found.items()}


def alphas(given: Namespace) -> tuple[str, dict[str, Any]]:
    """Means on the held-out images at each threshold, the chosen one marked, for each metric."""
    columns, parts, found = read_columns(given.run), [], {}
    for kind in (LocalizationError, CropSaliency):
        name = kind.__name__
        own = {c for each in columns.values() for c in each if c.startswith(f"{name}/")}
        grid = sorted(float(c.partition("/")[2]) for c in own - {f"{name}/held_out"})
        if not grid:
            continue
        metric = kind(alphas=grid)
        at = {m: {n: each[n] for n in metric.names} for m, each in columns.items()}
        means = {
            m: [nan_mean(each[n][each[metric.names[-1]] == 1]) for n in metric.names[:-1]]
            for m, each in at.items()
        }
        best = {m: int(np.nanargmin(v)) if np.isfinite(v).any() else -1 for m, v in means.items()}
        results = {m: metric.aggregate(each)[name] for m, each in at.items()}
        body = [
            [f"{a:.2f}", *(f"{v[i]:.3f}" + " *" * (best[m] == i) for m, v in means.items())]
            for i, a in enumerate(grid)
        ]
        body.append(["other images at *", *(f"{results[m]:.3f}" for m in means)])
        parts += [f"{name} ↓", aligned([["alpha", *means], *body])]
        found[name] = {"alphas": grid, "held_out": means, "chosen": best, "others": results}
    if not parts:
        raise ValueError(
            f"{given.run} has neither LocalizationError nor CropSaliency with a tuned alpha"
        )
    note = "held-out images; * marks the alpha with the lowest mean, alpha 0 is the whole image"
    return "\n\n".join([*parts, note]), found


def robustness(given: Namespace) -> tuple[str, dict[str, Any]]:
    """Images among the largest gains of one row over another in all three similarities."""
    columns = read_columns(given.run)
    for method in (given.first, given.second):
        if not set(SIMILARITIES) <= set(columns.get(method, ())):
            raise ValueError(
                f"{given.run} has no {', '.join(SIMILARITIES)} of a row {method!r}; its rows are "
                f"{', '.join(columns)}"
            )
    one, two = (
        {name: np.array([own[s][i] for s in SIMILARITIES]) for i, name in enumerate(own["image"])}
        for own in (columns[given.first], columns[given.second])
    )
    names = [name for name in one if name in two and np.isfinite(one[name] + two[name]).all()]
    if not names:
        raise ValueError(f"no image has all similarities of {given.first} and {given.second}")
    gains = np.array([two[name] - one[name] for name in names])
    parts, found = [], {}
    for better, worse, sign in ((given.second, given.first, 1), (given.first, given.second, -1)):
        ranks = (-sign * gains).argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        chosen = ((ranks < given.top) & (sign * gains > 0)).all(axis=1).nonzero()[0]
        chosen = chosen[(-sign * gains[chosen]).sum(axis=1).argsort(kind="stable")]
        rows = [[names[i], *(f"{sign * gain:+.3f}" for gain in gains[i])] for i in chosen]
        images = "1 image" if len(rows) == 1 else f"{len(rows)} images"
        parts.append(f"{better} more robust than {worse} in all three: {images}")
        parts += [aligned([["image and target", *SIMILARITIES], *rows])] * bool(rows)
        found[better] = [names[i] for i in chosen]
    share = min(given.top, len(names)) / len(names)
    note = (
        f"among the {given.top} largest gains of {len(names)} images in each of them; unrelated "
        f"similarities would share at most {len(names) * share**3:.1f}"
    )
    return "\n\n".join([*parts, note]), found
