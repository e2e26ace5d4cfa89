"""How alike the maps of the methods of a finished test are to those of one method.

    python benchmarks/agreement.py runs/photos/compare evidence_nem

Each image gives the Spearman correlation of the pixels of the two maps of a target. Printed is the
mean over images with its 95 % bootstrap interval, of the images whose maps the test has kept: the
first 50, or all with `--score.keep maps`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from explainers import mapstore
from explainers.evaluation.table import aligned
from explainers.metrics.similarity import spearman
from explainers.metrics.statistics import bootstrap_ci, nan_mean


def correlations(run: Path, method: str) -> dict[str, dict[int, list[float]]]:
    """Correlations with the maps of `method`, by other method and image.

    Raises:
        ValueError: If the run has kept no maps of `method`.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for entry in mapstore.read(run):
        for (name, target), values in entry.maps.items():
            if name != method and (method, target) in entry.maps:
                pair = np.stack([values, entry.maps[method, target]]).astype(np.float32)
                one, other = torch.from_numpy(pair).split(1)
                own = found.setdefault(name, {}).setdefault(entry.index, [])
                own.append(spearman(one, other).item())
    if not found:
        methods = mapstore.about(run).get("methods", [])
        raise ValueError(
            f"{run} has kept no maps of {method!r} beside others; it has kept those of "
            f"{', '.join(methods) or 'no method'}"
        )
    return found


def main() -> None:
    """Prints the table, or what is wrong with the arguments."""
    line = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    line.add_argument("run", type=Path, help="folder of a finished test")
    line.add_argument("method", help="row of its table, such as evidence_nem")
    given = line.parse_args()
    try:
        found = correlations(given.run, given.method)
    except ValueError as error:
        line.error(str(error))
    body = []
    for name, images in found.items():
        means = np.array([nan_mean(np.array(values)) for values in images.values()])
        low, high = bootstrap_ci({name: means})[name]
        body.append([name, f"{nan_mean(means):.3f}", f"[{low:.3f}, {high:.3f}]", str(len(images))])
    print(aligned([["row", f"Spearman with {given.method}", "95 % interval", "images"], *body]))


if __name__ == "__main__":
    main()
