"""Scores of one method on one batch: explain, measure the time, and compute all metrics."""

import inspect
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.evaluation.targets import TargetChoice, choose_targets, class_ids, take
from explainers.explanandum import Explanandum, precision
from explainers.explanandum.taps import counted
from explainers.functional import fills, masking
from explainers.metrics.base import PerImageMetric
from explainers.metrics.classification import MaskedClassification
from explainers.metrics.inputs import finite, masked_logits
from explainers.metrics.localization import MAE, SoftAccuracy, SoftIoU
from explainers.metrics.saliency import MaskSaliency
from explainers.metrics.seconds import Seconds

# Input of a metric -> key of the batch. Not all data sets have these keys.
SAME = ("mask", "void", "boxes", "parts", "interventions", "backgrounds", "objects", "shared")
DATA_KEYS = {"labels": "target", **{name: name for name in SAME}}

Row = tuple[int, str]  # position in the batch, class ids joined by "|"
Values = dict[Row, dict[str, float]]


def score_batch(
    explainer: Explainer, metrics: Sequence[PerImageMetric], inputs: dict[str, Any]
) -> tuple[Values, Tensor]:
    """Scores one method on one batch.

    Not finite is missing: an image has no values, not even `seconds`, if its map is not finite. If
    the logits of the image are not finite, it is not explained, and its row has no class.

    Args:
        explainer: Method to score.
        metrics: Metrics to compute. Those that follow one class are computed once for each class of
            an image's target.
        inputs: Inputs by name: `images`, `targets`, `logits`, `explanandum`. If the data have them,
            also `labels`, `void`, `boxes`, `parts`, and `masks` (B, K, H, W) bool, the object masks
            of all classes. `keeper`, if given, keeps the maps and curves, see `Keeper`.

    Returns:
        The values of each row, including `seconds`, and the maps (B, H, W) as the method gives
        them, NaN for images that are not explained.
    """
    known = finite(inputs["logits"]) if inputs.get("logits") is not None else torch.ones(())
    if not bool(known.all()):
        return _score_known(explainer, metrics, inputs, known.nonzero().flatten().tolist())
    ids = class_ids(inputs["targets"])
    with counted(explainer.explanandum.model) as counts, fills.counted() as inpainted:
        maps, seconds = timed(explainer, inputs["images"], inputs["targets"])
    merged = [metric for metric in metrics if not metric.per_class]
    values: Values = {}
    shared = inputs | {
        "explainer": explainer,
        "seconds": torch.full((len(ids),), seconds, dtype=torch.float64),
        "passes": torch.tensor([counts], dtype=torch.float64).expand(len(ids), 2) / len(ids),
        "inpaintings": torch.tensor(inpainted, dtype=torch.float64).expand(len(ids)) / len(ids),
    }
    _add(values, [(i, _join(c)) for i, c in enumerate(ids)], merged, shared | {"maps": maps})
    for row, kept in zip(values.values(), finite(maps).tolist(), strict=True):
        row |= {"seconds": seconds} if kept else {}

    if singles := [metric for metric in metrics if metric.per_class]:
        for slot in range(max(map(len, ids))):
            rows = [i for i, classes in enumerate(ids) if len(classes) > slot]
            classes = torch.tensor([ids[i][slot] for i in rows], device=maps.device)
            part = take(shared, rows) | {
                "targets": F.one_hot(classes, inputs["targets"].shape[1]).bool()
            }
            alone = all(len(ids[i]) == 1 for i in rows)  # the merged maps are then the class maps
            part["maps"] = (
                maps[rows] if alone else timed(explainer, part["images"], part["targets"])[0]
            )
            _add(values, [(i, str(ids[i][slot])) for i in rows], singles, part)
    return values, maps


def expected_rows(metrics: Sequence[PerImageMetric], ids: Sequence[Sequence[int]]) -> list[Row]:
    """Rows that `score_batch` gives for images with the targets `ids`, the classes of each."""
    rows = [(i, _join(classes)) for i, classes in enumerate(ids)]
    if any(metric.per_class for metric in metrics):
        rows += [(i, str(c)) for i, classes in enumerate(ids) for c in classes]
    return list(dict.fromkeys(rows))


def batch_inputs(
    batch: dict[str, Any], explanandum: Explanandum, target: TargetChoice
) -> dict[str, Any]:
    """Inputs of the metrics for a batch, see `score_batch`: the targets are those of `target`."""
    logits = explanandum(batch["image"])
    inputs = {
        "images": batch["image"],
        "logits": logits,
        "targets": choose_targets(target, explanandum, logits, batch.get("target")),
        "explanandum": explanandum,
    }
    inputs |= {
        need: batch[key] for need, key in DATA_KEYS.items() if key in batch and need != "mask"
    }
    return inputs | ({"masks": batch["mask"]} if "mask" in batch else {})


def _score_known(
    explainer: Explainer,
    metrics: Sequence[PerImageMetric],
    inputs: dict[str, Any],
    known: list[int],
) -> tuple[Values, Tensor]:
    """Scores the `known` images of a batch; all others get a row without a class or a value."""
    images = inputs["images"]
    maps = torch.full_like(images[:, 0], torch.nan)
    values: Values = {(i, ""): {} for i in range(len(images)) if i not in known}
    if known:
        found, maps[known] = score_batch(explainer, metrics, take(inputs, known))
        values |= {(known[i], classes): row for (i, classes), row in found.items()}
    return values, maps


def check_columns(metrics: Sequence[PerImageMetric]) -> None:
    """Checks that no two metrics write the same column or report the same figure.

    Raises:
        ValueError: If two do.
    """
    owners: dict[str, PerImageMetric] = {}
    for metric in metrics:
        for column in dict.fromkeys((*metric.names, *metric.reports)):
            if (other := owners.setdefault(column, metric)) is metric:
                continue
            kinds = (type(other), type(metric))
            renamed = [kind for kind in kinds if "name" in inspect.signature(kind).parameters]
            fix = (
                f"give {renamed[0].__name__} another `name`"
                if renamed
                else "score them in two runs"
            )
            one, two = (kind.__name__ for kind in kinds)
            raise ValueError(f"{one} and {two} both write {column!r}: {fix}")


def default_metrics() -> list[PerImageMetric]:
    """The metrics that are computed if none are given."""
    return [SoftAccuracy(), SoftIoU(), MAE(), MaskSaliency(), MaskedClassification(), Seconds()]


def usable(metrics: Sequence[PerImageMetric], batch: dict[str, Any]) -> list[PerImageMetric]:
    """Those metrics whose inputs the data have; a warning names the others."""
    lacking = {need for need, key in DATA_KEYS.items() if key not in batch}
    if skipped := [metric for metric in metrics if lacking & set(metric.needs)]:
        inputs = sorted(lacking & {need for metric in skipped for need in metric.needs})
        names = ", ".join(type(metric).__name__ for metric in skipped)
        rank_zero_warn(f"the data have no {' or '.join(inputs)}: left out {names}")
    return [metric for metric in metrics if not lacking & set(metric.needs)]


def timed(explainer: Explainer, images: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Maps (B, H, W) of the targets, and the time in seconds for each image."""
    _wait(images)
    start = time.perf_counter()
    with torch.set_grad_enabled(explainer.needs_gradients):
        maps = explainer.attribute(images, targets).detach()
    _wait(images)
    return maps, (time.perf_counter() - start) / len(images)


def unit_maps(explainer: Explainer, maps: Tensor) -> Tensor:
    """Maps (B, H, W) in [0, 1]: masks as they are, other maps min-max scaled one by one.

    Pixels that are not finite stay as they are.
    """
    return maps if explainer.is_mask else masking.minmax(maps)


def shown_maps(explainer: Explainer, maps: Tensor) -> Tensor:
    """Maps (B, H, W) for pictures: signed ones in [-1, 1], by their magnitude, others in [0, 1]."""
    if not explainer.is_signed:
        return unit_maps(explainer, maps)
    largest = maps.abs().amax(dim=(1, 2), keepdim=True)
    return maps / largest.where(largest > 0, 1.0)


def _add(
    values: Values, rows: list[Row], metrics: Sequence[PerImageMetric], inputs: dict[str, Any]
) -> None:
    """Computes metrics for one target per image, and adds their values to the images' rows."""
    plain = dict(inputs)
    masks = plain.pop("masks", None)
    if masks is not None:
        plain["mask"] = masking.merge(masks.float(), plain["targets"])
    scaled = plain | {"maps": unit_maps(plain["explainer"], plain["maps"])}
    if any("masked_logits" in metric.needs for metric in metrics):
        with torch.no_grad(), precision.exact(plain["explanandum"]):
            scaled["masked_logits"] = masked_logits(
                plain["explanandum"], plain["images"], scaled["maps"]
            )
    for row in rows:
        values.setdefault(row, {})
    curves: dict[str, tuple[Tensor, Tensor]] = {}
    for metric in metrics:
        if any(need in DATA_KEYS and need not in scaled for need in metric.needs):
            continue  # this batch lacks an input: the value is missing, not 0
        if plain["explainer"].is_stored and "explainer" in metric.needs:
            continue  # it would need further maps
        available = scaled if metric.wants_unit_maps else scaled | {"maps": plain["maps"]}
        for name, column in metric.measure(**available).items():
            for row, value in zip(rows, column.tolist(), strict=True):
                values[row][name] = value
        curves |= metric.curves
    if keeper := plain.get("keeper"):
        keeper.add(plain["names"], [target for _, target in rows], plain["maps"], curves)


def _join(classes: Sequence[int]) -> str:
    return "|".join(map(str, classes))


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
