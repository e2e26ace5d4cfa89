"""How far the scores of a lower precision, or of a faster classifier, are from exact ones."""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from explainers.base import Explainer
from explainers.evaluation.attempts import attempt
from explainers.evaluation.measure import Values, batch_inputs
from explainers.evaluation.runfolder import write_atomically
from explainers.evaluation.targets import TargetChoice, take
from explainers.explanandum import Explanandum
from explainers.explanandum.compiling import Compiling
from explainers.explanandum.folding import Folding, Speedup
from explainers.metrics.base import PerImageMetric

FILE = "precision.json"

Passes = Literal["plain", "folded", "compiled"]  # see `Folding` and `Compiling`


def precision_name(trainer: Trainer, passes: Passes) -> str:
    """How the scores of a run are computed, such as "bf16-mixed" or "32-true, folded"."""
    return str(trainer.precision) if passes == "plain" else f"{trainer.precision}, {passes}"


def check_passes(passes: Passes, metrics: Sequence[PerImageMetric]) -> None:
    """Raises a ValueError if a metric needs the classifier's own layers, which are folded."""
    wrong = [type(metric).__name__ for metric in metrics if metric.needs_own_layers]
    if wrong and passes == "folded":
        raise ValueError(
            f"passes: folded has no batch norms, of which {wrong[0]} needs the classifier's own; "
            "leave it out, or take passes: plain or compiled"
        )


def faster(explanandum: Explanandum, passes: Passes, size: tuple[int, int]) -> Speedup | None:
    """Has the classifier compute faster, in place, until `undo`; None for "plain".

    Args:
        explanandum: The classifier.
        passes: How its passes are computed.
        size: Height and width of the images.

    Raises:
        ValueError: If it can't.
    """
    if passes == "plain":
        return None
    chosen: Speedup = Folding(explanandum) if passes == "folded" else Compiling(explanandum, size)
    if not chosen.apply():
        raise ValueError(
            "folded: this classifier has no batch norms that the convolutions before them can "
            "compute; leave it out"
        )
    return chosen


class PrecisionCheck:
    """Scores the first images once more in float32, and keeps the largest difference of a figure.

    A folded or compiled classifier is itself again for these images.

    The differences are kept in `precision.json`, so that a resumed run keeps them. Of several
    processes, the first one checks images of its own.

    Args:
        folder: Run folder.
        trainer: Trainer of the run, whose precision is checked.
        images: Number of images to check. 0 checks none.
        resumed: Whether the run has rows already, so that the file in the folder is its own.
        explanandum: The classifier, which computes as `passes` say until `close`.
        passes: How its passes are computed.
        size: Height and width of the images.

    Raises:
        ValueError: If images are to be checked, the passes are plain, and the precision is not a
            mixed one, of which alone float32 is a part; or if the passes cannot be as asked.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        images: int,
        resumed: bool,
        explanandum: Explanandum,
        passes: Passes,
        size: tuple[int, int],
    ) -> None:
        mixed = isinstance(trainer.precision_plugin, MixedPrecision)
        if images and passes == "plain" and not mixed:
            raise ValueError(
                "check_precision compares a mixed precision with float32, but the precision is "
                f"{trainer.precision}: give --trainer.precision bf16-mixed, or no check_precision"
            )
        self._faster = faster(explanandum, passes, size)
        self.path, self.precision = folder / FILE, precision_name(trainer, passes)
        self.most = images if trainer.is_global_zero else 0
        self.found: dict[str, Any] = {"images": [], "changed": 0, "missing": 0, "largest": {}}
        if self.most and resumed and self.path.exists():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    def add(
        self,
        methods: dict[str, Explainer],
        metrics: Sequence[PerImageMetric],
        batch: dict[str, Any],
        target: TargetChoice,
        lower: dict[str, Values],
    ) -> None:
        """Compares the scores of a batch with those in float32, for images that are still to check.

        Args:
            methods: Methods by name.
            metrics: Metrics to compute.
            batch: Batch of images.
            target: Choice of the classes.
            lower: Values of each method in the precision of the run.
        """
        known, names = self.found["images"], batch["name"]
        left = max(0, self.most - len(known))
        rows = [row for row, name in enumerate(names) if name not in known][:left]
        if not rows:
            return
        batch = take(batch, rows)
        figures = {figure for metric in metrics for figure in metric.reports} - {"seconds"}
        with (
            torch.autocast(batch["image"].device.type, enabled=False),
            self._faster.undone() if self._faster else nullcontext(),
        ):
            explanandum = next(iter(methods.values())).explanandum
            inputs = batch_inputs(batch, explanandum, target)
            for name, explainer in methods.items():
                explainer.observe(batch)
                exact = attempt(explainer, metrics, inputs)[0]
                exact = {(rows[row], ids): values for (row, ids), values in exact.items()}
                self._compare(name, exact, lower[name], figures)
        classes = {key for key in next(iter(lower.values())) if key[0] in rows}
        self.found["changed"] += len({row for row, _ in classes - exact.keys()})
        known += [names[row] for row in rows]
        write_atomically(self.path, json.dumps(self.found))

    def _compare(self, method: str, exact: Values, lower: Values, figures: set[str]) -> None:
        largest: dict[str, list[Any]] = self.found["largest"]
        for key in exact.keys() & lower.keys():
            for figure in (exact[key].keys() | lower[key].keys()) & figures:
                one, two = (values[key].get(figure, math.nan) for values in (exact, lower))
                if math.isnan(one) != math.isnan(two):
                    self.found["missing"] += 1
                elif abs(one - two) > largest.get(figure, [-1.0])[0]:
                    largest[figure] = [abs(one - two), method]

    def close(self) -> None:
        """Gives the classifier its own network again."""
        if self._faster:
            self._faster.undo()

    def note(self) -> str | None:
        """Sentence for the page of the run; None if nothing was checked."""
        return _told(self.found, self.precision, self.most)


def merge_checks(folders: Sequence[Path], out: Path, precision: str) -> str | None:
    """Joins what the parts of a run have checked, and returns the sentence for its page."""
    parts = [
        json.loads(path.read_text(encoding="utf-8")) for f in folders if (path := f / FILE).exists()
    ]
    if not parts:
        return None
    whole = {
        "images": [name for part in parts for name in part["images"]],
        **{key: sum(part[key] for part in parts) for key in ("changed", "missing")},
    }
    pairs = [pair for part in parts for pair in part["largest"].items()]
    whole["largest"] = dict(sorted(pairs, key=lambda pair: pair[1][0]))  # the last of a name stays
    write_atomically(out / FILE, json.dumps(whole))
    return _told(whole, precision, len(whole["images"]))


def _told(found: dict[str, Any], precision: str, asked: int) -> str | None:
    images, changed, missing = (found[key] for key in ("images", "changed", "missing"))
    if not images and not asked:
        return None
    figures = ", ".join(
        f"{figure} {difference:.2g} ({method})" if difference else f"{figure} 0"
        for figure, (difference, method) in sorted(found["largest"].items())
    )
    fewer = "" if len(images) >= asked else f" of {asked} asked for"
    fewer += ", as others had their scores before or are not there" if fewer else ""
    text = f"{precision} against float32 on {len(images)} images{fewer}, largest "
    text += f"differences of an image: {figures or 'no figure'}"
    text += f"; another class is explained in {changed}" if changed else ""
    return text + (f"; {missing} values exist in one of both only" if missing else "")
