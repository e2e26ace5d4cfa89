r"""Studies of generative removal beside its tables (Agarwal and Nguyen, ACCV 2020).

    python benchmarks/removal.py fills -c configs/data/imagenet.yaml --data.init_args.limit 1000 \
        --explanandum.model resnet50.tv_in1k --explanandum.pretrained true
    python benchmarks/removal.py alphas runs/generative_removal/imagenet
    python benchmarks/removal.py robustness runs/generative_removal/table_s1_lime lime lime_g

`fills` measures what fills do to the classifier (sections 4.2 and 5). `alphas` shows the thresholds
of the boxes in a finished test (figure S6). `robustness` finds the images on which one row of a
finished test is more robust than another (figure S1). `--out FOLDER` keeps the figures as JSON.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.removal_runs import alphas, robustness
from datamodules.base import ImageDataModule
from explainers import Explanandum
from explainers.callbacks.judge import Judge
from explainers.evaluation import published
from explainers.evaluation.table import table
from explainers.evaluation.targets import choose_targets
from explainers.explaining.explanation import title
from explainers.functional import content
from explainers.methods.lime import LIME
from explainers.methods.sliding_patch import SlidingPatch
from explainers.metrics.localization_boxes import true_boxes
from explainers.metrics.removal import falls
from explainers.metrics.statistics import bootstrap_ci, nan_mean
from explainers.perturbation.kept_regions import kept_logits
from explainers.perturbation.viewer import Viewer

PUBLISHED = "configs/papers/generative_removal/published.yaml#studies"
FIGURES = ("outside", "inside", "entropy", "top_three", "box", "whole")
HIGHER_IS_BETTER = ("inside", "entropy")
NOTES = """outside, inside: mean absolute change of the probability of the class by a patch that
does not, or does, overlap its boxes. entropy: of the most probable classes of LIME's samples, in
bits. top_three: share of the three most frequent ones. box, whole: probability of the class after
its boxes, or all pixels, are replaced (an inpainter that keeps no pixel shows the mean color).
clean: the images as they are."""

Targets = Literal["label", "predicted"]


class Example(NamedTuple):
    """An image, the class that is followed, and its boxes.

    Attributes:
        name: Name in the data set.
        image: The image (1, 3, H, W).
        label: Index of the class (1, 1).
        boxes: Boxes of the class (M, 4), with left, top, right and bottom in pixels.
    """

    name: str
    image: Tensor
    label: Tensor
    boxes: Tensor


@torch.no_grad()
def examples(explanandum: Explanandum, data: ImageDataModule, target: Targets) -> Iterator[Example]:
    """The test images with their most probable label, or with the predicted class.

    The boxes are those of the label, also around its mask if the data have no boxes. The predicted
    class may be one that the data do not know, and comes with the boxes of all objects.
    """
    data.judge = Judge(explanandum)
    data.setup("test")
    for batch in data.test_dataloader():
        images, labels = batch["image"], batch.get("target")
        logits = explanandum(images)
        chosen = choose_targets(target, explanandum, logits, labels if target == "label" else None)
        classes = logits.masked_fill(~chosen, -torch.inf).argmax(dim=1)
        one_hot = torch.nn.functional.one_hot(classes, explanandum.num_classes).bool()
        owners = one_hot if target == "label" or labels is None else torch.ones_like(labels)
        mask = batch.get("mask")
        if mask is not None:
            mask = (mask & owners[:, :, None, None]).any(dim=1)
        boxes, known = true_boxes(owners, batch.get("boxes"), mask)
        for row, name in enumerate(batch["name"]):
            if bool(chosen[row].any()):
                yield Example(
                    name, images[row : row + 1], classes[row].view(1, 1), boxes[row, known[row]]
                )


class Measured(NamedTuple):
    """What `measure` finds.

    Attributes:
        names: Names of the images.
        values: Values of each image by fill and figure.
        labels: How often each class is the most probable one of a sample, by fill.
        row: Patches in a row through the largest box: image, fill, left border in pixels, whether
            the patch overlaps a box, and probability of the class.
    """

    names: list[str]
    values: dict[str, dict[str, list[float]]]
    labels: dict[str, Counter[int]]
    row: list[tuple[str, str, int, bool, float]]


def overlaps(tops: Tensor, lefts: Tensor, side: int, boxes: Tensor) -> Tensor:
    """Whether patches at rows `tops` (r,) and columns `lefts` (c,) overlap a box of (M, 4), (r, c).

    Example:
        >>> tops, lefts = torch.tensor([0]), torch.tensor([0, 2, 4])
        >>> overlaps(tops, lefts, 2, torch.tensor([[2, 0, 3, 9]])).tolist()
        [[False, True, False]]
    """
    left, top, right, bottom = boxes.unbind(1)
    across = (lefts[:, None] < right) & (lefts[:, None] + side > left)
    down = (tops[:, None] < bottom) & (tops[:, None] + side > top)
    return (down[:, None] & across).any(dim=2)


def row_of(tops: Tensor, side: int, boxes: Tensor) -> int:
    """Row of patches whose centers are nearest to the center of the largest box of (M, 4)."""
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    middle = boxes[sizes.argmax(), [1, 3]].double().mean()
    return int((tops + side / 2 - middle).abs().argmin())


def covered(boxes: Tensor, height: int, width: int) -> Tensor:
    """Pixels (H, W) bool inside the boxes (M, 4)."""
    return overlaps(torch.arange(height), torch.arange(width), 1, boxes)


def sampled_labels(explanandum: Explanandum, image: Tensor, fill: str, given: Namespace) -> Tensor:
    """Most probable class (N,) of each of LIME's samples of an image (1, 3, H, W)."""
    lime = LIME(explanandum, segments=given.segments)
    generator = lime.generator()
    pixels = content.first(content.behind(explanandum.fill(fill, generator), image))
    segments = lime.superpixels(image[0])
    kept = torch.rand(given.samples, int(segments.max()) + 1, generator=generator) < 0.5
    viewer = Viewer(explanandum, image, lime.batch_size, title="samples", total=given.samples)
    with torch.no_grad(), viewer.bar:
        return kept_logits(viewer, image[0], pixels, segments, kept).argmax(dim=1)


def spread(labels: Counter[int]) -> dict[str, float]:
    """Entropy in bits, and share of the three most frequent labels.

    Example:
        >>> spread(Counter({0: 2, 1: 1, 2: 1}))
        {'entropy': 1.5, 'top_three': 1.0}
    """
    shares = np.array([count for _, count in labels.most_common()]) / labels.total()
    return {
        "entropy": float(-(shares * np.log2(shares)).sum()),
        "top_three": float(shares[:3].sum()),
    }


def measure(explanandum: Explanandum, shown: Iterable[Example], given: Namespace) -> Measured:
    """What each fill does to the classifier."""
    fills = ("clean", *given.fills)
    found = Measured(
        names=[],
        values={fill: {figure: [] for figure in FIGURES} for fill in fills},
        labels={fill: Counter() for fill in fills},
        row=[],
    )
    for name, image, label, boxes in shown:
        height, width = image.shape[-2:]
        with torch.no_grad():
            probabilities = explanandum.probabilities(image)[0]
        clean = float(probabilities[label])
        found.names.append(name)
        found.labels["clean"][int(probabilities.argmax())] += 1
        for figure in ("box", "whole"):
            found.values["clean"][figure].append(clean)
        one_hot = torch.zeros(1, explanandum.num_classes, dtype=torch.bool)
        one_hot[0, label] = True
        removed = torch.stack([covered(boxes, height, width), torch.ones(height, width) > 0])
        for fill in given.fills:
            own = found.values[fill]
            method = SlidingPatch(explanandum, given.patch, given.stride, fill)
            side, stride = method.sizes(height, width)
            tops, lefts = (torch.arange(0, n - side + 1, stride) for n in (height, width))
            drops = method.drops(image, label)[0, 0]
            touching = overlaps(tops, lefts, side, boxes)
            with torch.no_grad():
                lost = falls(explanandum, image, one_hot, removed, fill, "probability")[0].tolist()
            own["whole"].append(clean - lost[1])
            own["box"].append(clean - lost[0] if len(boxes) else np.nan)
            found.labels[fill].update(sampled_labels(explanandum, image, fill, given).tolist())
            for figure, some in (("outside", ~touching), ("inside", touching)):
                changes = drops[some].abs().double().numpy()
                own[figure].append(nan_mean(changes) if len(boxes) else np.nan)
            if len(boxes):
                row = row_of(tops, side, boxes)
                places = (each.tolist() for each in (lefts, touching[row], clean - drops[row]))
                found.row.extend((name, fill, *place) for place in zip(*places, strict=True))
    return found


def summary(found: Measured, explanandum: str, data: str) -> dict[str, Any]:
    """The figures in the form of a run's summary, with bootstrap intervals over the images."""
    methods: dict[str, dict[str, Any]] = {}
    for fill, values in found.values.items():
        columns = {figure: np.array(each) for figure, each in values.items() if each}
        known = {figure: int(np.isfinite(column).sum()) for figure, column in columns.items()}
        ends = {f: each for f, each in bootstrap_ci(columns).items() if known[f] > 1}
        pooled = spread(found.labels[fill])
        means = {f: nan_mean(column) for f, column in columns.items() if known[f]} | pooled
        methods[fill] = {
            figure: {
                "mean": means.get(figure),
                "ci95": ends.get(figure, (None, None)),
                "n": known.get(figure, len(found.names) if figure in pooled else 0),
                "higher_is_better": figure in HIGHER_IS_BETTER,
            }
            for figure in FIGURES
        }
    about = {"images": len(found.names), "explanandum": explanandum, "data": data}
    return {"methods": methods, "paired": [], **about}


def fills(given: Namespace) -> tuple[str, dict[str, Any]]:
    """The table of fills beside the paper's figures, and all values."""
    explanandum, data = given.explanandum, given.data
    found = measure(explanandum, examples(explanandum, data, given.target), given)
    if not found.names:
        raise ValueError("there is no image to measure: choose another split, limit or target")
    about = summary(found, title(explanandum), type(data).__name__)
    text = table(about) + f"\n\n{NOTES}\n" + published.beside(published.read(PUBLISHED), about)
    frequent = {
        fill: [
            [explanandum.class_names[label], count / counts.total()]
            for label, count in counts.most_common(50)
        ]
        for fill, counts in found.labels.items()
    }
    return text, {**about, **found._asdict(), "labels": frequent}


STUDIES = {"fills": fills, "alphas": alphas, "robustness": robustness}


def parser() -> ArgumentParser:
    """The command line."""
    own = {name: ArgumentParser(description=STUDIES[name].__doc__) for name in STUDIES}
    line = own["fills"]
    line.add_argument("-c", "--config", action="config", help="file of data, as in configs/data")
    line.add_subclass_arguments(ImageDataModule, "data", required=True)
    line.add_class_arguments(Explanandum, "explanandum")
    line.add_argument("--fills", type=list[str], default=["mean", "blur", "noise", "harmonic"])
    line.add_argument("--target", type=Targets, default="label", help="class to follow")
    line.add_argument("--patch", type=int, default=53, help="side, for images of 224 pixels")
    line.add_argument("--stride", type=int, default=3, help="of the patches, in the same pixels")
    line.add_argument("--samples", type=int, default=500, help="LIME's, of each image")
    line.add_argument("--segments", type=int, default=50, help="LIME's superpixels")
    for name in ("alphas", "robustness"):
        own[name].add_argument("run", type=Path, help="folder of a finished test")
    own["robustness"].add_argument("first", help="name of a row")
    own["robustness"].add_argument("second", help="name of another row, such as lime_g")
    own["robustness"].add_argument("--top", type=int, default=100, help="number of largest gains")
    whole = ArgumentParser(description=__doc__)
    commands = whole.add_subcommands(dest="study")
    for name, each in own.items():
        each.add_argument("--out", type=Path | None, help="folder of the figures")
        commands.add_subcommand(name, each)
    return whole


def main(words: Sequence[str] | None = None) -> None:
    """Prints the tables of a study."""
    line = parser()
    parsed = line.parse_args(words)
    torch.set_num_threads(1)
    try:
        given = line.instantiate(parsed)[parsed.study]
        text, found = STUDIES[parsed.study](given)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"{parsed.study}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
