"""One method on one batch: explain, time, and hand every metric its inputs."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.evaluation.targets import class_ids, take
from explainers.explanandum.taps import counted
from explainers.functional import masking
from explainers.metrics.base import PerImageMetric, masked_logits

# input of a metric -> key of the batch, which only some data have
DATA_KEYS = {"mask": "mask", "void": "void", "labels": "target", "boxes": "boxes", "parts": "parts"}

Row = tuple[int, str]  # position in the batch, class ids joined by "|"
Values = dict[Row, dict[str, float]]


def score_batch(
    explainer: Explainer, metrics: Sequence[PerImageMetric], inputs: dict[str, Any]
) -> tuple[Values, Tensor]:
    """Score one method on one batch.

    Args:
        explainer: The method.
        metrics: What to measure. Those that follow one class run once for each class of an image's
            target.
        inputs: `images`, `targets`, `logits`, `explanandum`, and where the data have them `labels`
            and `void`, and `masks` (B, K, H, W) bool, the object masks of all classes.

    Returns:
        The values of each row, `seconds` among them, and the maps (B, H, W) in [0, 1], min-maxed if
        they are no masks.
    """
    ids = class_ids(inputs["targets"])
    with counted(explainer.explanandum.model) as counts:
        maps, seconds = timed(explainer, inputs["images"], inputs["targets"])
    merged = [metric for metric in metrics if not metric.per_class]
    values: Values = {}
    shared = inputs | {
        "explainer": explainer,
        "seconds": torch.full((len(ids),), seconds, dtype=torch.float64),
        "passes": torch.tensor([counts], dtype=torch.float64).expand(len(ids), 2) / len(ids),
    }
    _add(values, [(i, _join(c)) for i, c in enumerate(ids)], merged, shared | {"maps": maps})
    for row, _ in list(values.items()):
        values[row]["seconds"] = seconds

    if singles := [metric for metric in metrics if metric.per_class]:
        for slot in range(max(map(len, ids))):
            rows = [i for i, classes in enumerate(ids) if len(classes) > slot]
            classes = torch.tensor([ids[i][slot] for i in rows], device=maps.device)
            part = take(shared, rows) | {
                "targets": F.one_hot(classes, inputs["targets"].shape[1]).bool()
            }
            alone = all(len(ids[i]) == 1 for i in rows)  # then the merged map is the class map
            part["maps"] = (
                maps[rows] if alone else timed(explainer, part["images"], part["targets"])[0]
            )
            _add(values, [(i, str(ids[i][slot])) for i in rows], singles, part)
    return values, unit_maps(explainer, maps)


def timed(explainer: Explainer, images: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Maps (B, H, W) of the targets, and the seconds an image took."""
    _wait(images)
    start = time.perf_counter()
    with torch.set_grad_enabled(explainer.needs_gradients):
        maps = explainer.attribute(images, targets).detach()
    _wait(images)
    return maps, (time.perf_counter() - start) / len(images)


def unit_maps(explainer: Explainer, maps: Tensor) -> Tensor:
    """Maps (B, H, W) in [0, 1]: masks as they are, others min-maxed one by one."""
    return maps if explainer.is_mask else masking.minmax(maps)


def _add(
    values: Values, rows: list[Row], metrics: Sequence[PerImageMetric], inputs: dict[str, Any]
) -> None:
    """Measure a batch, one target an image, and add the columns to the rows of the images."""
    plain = dict(inputs)
    masks = plain.pop("masks", None)
    if masks is not None:
        plain["mask"] = masking.merge(masks.float(), plain["targets"])
    scaled = plain | {"maps": unit_maps(plain["explainer"], plain["maps"])}
    if any("masked_logits" in metric.needs for metric in metrics):
        scaled["masked_logits"] = masked_logits(
            plain["explanandum"], plain["images"], scaled["maps"]
        )
    for row in rows:
        values.setdefault(row, {})
    for metric in metrics:
        if any(need in DATA_KEYS and need not in scaled for need in metric.needs):
            continue  # this batch lacks what others had: missing, not 0
        available = scaled if metric.wants_unit_maps else scaled | {"maps": plain["maps"]}
        for name, column in metric.measure(**available).items():
            for row, value in zip(rows, column.tolist(), strict=True):
                values[row][name] = value


def _join(classes: list[int]) -> str:
    return "|".join(map(str, classes))


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
