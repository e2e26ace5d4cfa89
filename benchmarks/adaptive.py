"""RISE with tolerances against its full budget: masks shown, and Faithfulness of the maps.

    python benchmarks/adaptive.py FOLDER --limit 12 --out runs/adaptive.csv

The maps after 128, 256, ... masks of one run are those at which a tolerance stops, because masks
and decisions are the same. So each photograph costs the full budget once. The same masks also give
a second map, the sum of p M over the sum of M at each pixel, which does not depend on how often the
masks happen to keep a pixel. Rows are written as they come; the same command goes on where it
stopped.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.folder import ImageFolder
from explainers import Explanandum
from explainers.functional import masking
from explainers.metrics.faithfulness import RISECurves
from explainers.metrics.similarity import spearman
from explainers.perturbation import grids
from explainers.perturbation.adaptive import checkpoints, standard_error

TOLERANCES = (0.1, 0.2, 0.3, 0.4, 0.5)
ESTIMATORS = ("expected", "counted")
FIELDS = ("name", "estimator", "masks", "error", "faithfulness", "spearman")


@torch.no_grad()
def rows_of(explanandum: Explanandum, image: Tensor, masks: int, name: str) -> list[dict[str, str]]:
    """Standard error, Faithfulness and correlation with the last map, at each checkpoint.

    Args:
        explanandum: The classifier.
        image: Image (1, 3, H, W).
        masks: Full budget.
        name: Name of the image.
    """
    size, target = (image.shape[-2], image.shape[-1]), explanandum.predict(image)
    fill, stops = explanandum.fill("mean")(image), checkpoints(masks)
    sums, coverage = torch.zeros(2, 1, 1, *size), torch.zeros(2, 1, 1, *size)
    found: dict[str, list[tuple[int, float, Tensor]]] = {each: [] for each in ESTIMATORS}
    done = 0
    for batch in grids.rise(masks, size, (7, 7), 0.5, 16, torch.Generator().manual_seed(0)):
        p = explanandum.probabilities(masking.blend(image, batch, fill))[:, target[0]]  # (n, 1)
        for half in range(2):
            sums[half, 0, 0] += (p[half::2, :, None] * batch[half::2]).sum(dim=0)
            coverage[half, 0, 0] += batch[half::2].sum(dim=0)
        done += len(batch)
        if done in stops:  # all are multiples of the batch
            whole = sums.sum(dim=0)[0]
            for each, halves, full in (
                ("expected", sums, whole / done),
                ("counted", sums / coverage, whole / coverage.sum(dim=0)[0]),
            ):
                found[each].append((done, standard_error(halves).item(), full))
    rows = []
    for each, steps in found.items():
        maps = torch.cat([step[2] for step in steps])
        scores = RISECurves(steps=24).score(
            images=image.expand(len(maps), -1, -1, -1),
            maps=maps,
            targets=target.expand(len(maps), -1),
            explanandum=explanandum,
        )["Faithfulness"]
        alike = spearman(maps, maps[-1:].expand_as(maps))
        for (n, error, _), *rest in zip(steps, scores.tolist(), alike.tolist(), strict=True):
            values = (name, each, str(n), *map(repr, (error, *rest)))
            rows.append(dict(zip(FIELDS, values, strict=True)))
    return rows


def report(rows: list[dict[str, str]]) -> str:
    """Table of what each tolerance shows and reaches; `all`: photographs with all masks."""
    lines = [
        f"{len({row['name'] for row in rows})} photographs",
        "",
        "| map | tolerance | masks | range | all | Faithfulness | less full | Spearman with full |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for estimator in ESTIMATORS:
        photos: dict[str, list[dict[str, float]]] = {}
        for row in rows:
            if row["estimator"] == estimator:
                numbers = {field: float(row[field]) for field in FIELDS[2:]}
                photos.setdefault(row["name"], []).append(numbers)
        full = torch.tensor([each[-1]["faithfulness"] for each in photos.values()])
        most = max(each[-1]["masks"] for each in photos.values())
        for tolerance in (*TOLERANCES, 0.0):
            ends = [
                next((step for step in each if step["error"] <= tolerance), each[-1])
                for each in photos.values()
            ]
            masks, reached, alike = (torch.tensor([end[key] for end in ends]) for key in
                                     ("masks", "faithfulness", "spearman"))  # fmt: skip
            gap = reached - full
            lines.append(
                f"| {estimator} | {tolerance or 'null'} | {masks.mean():.0f} "
                f"| {masks.min():.0f}-{masks.max():.0f} | {int((masks == most).sum())} "
                f"| {reached.mean():.3f} "
                f"| {gap.mean():+.3f} (largest {gap.abs().max():.3f}) | {alike.mean():.3f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measures the photographs that have no rows yet, and prints the table."""
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("root", help="folder of photographs")
    line.add_argument("--limit", type=int, default=12, help="number of photographs")
    line.add_argument("--masks", type=int, default=4000, help="full budget")
    line.add_argument("--side", type=int, default=128, help="side of the images in pixels")
    line.add_argument("--out", type=Path, default=Path("runs/adaptive.csv"))
    given = line.parse_args()
    explanandum = Explanandum("explainers.explanandum.lite0:efficientnet_lite0")
    data = ImageFolder(
        given.root, labelled=False, test_on="all", image_size=[given.side] * 2, resize="crop",
        interpolation="bicubic", limit=given.limit,
    )  # fmt: skip
    data.setup("test")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    new = not given.out.exists()
    with given.out.open("a+", newline="") as file:
        file.seek(0)
        rows = list(csv.DictReader(file))
        known, writer = {row["name"] for row in rows}, csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        for sample in data.dataset("test"):
            if sample["name"] not in known:
                found = rows_of(explanandum, sample["image"][None], given.masks, sample["name"])
                writer.writerows(found)
                file.flush()
                rows += found
                print(sample["name"], found[0]["error"], found[-1]["error"], flush=True)
    print(report(rows))


if __name__ == "__main__":
    main()
