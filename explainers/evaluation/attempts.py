"""Scoring that goes on: an image or a method that fails costs its own values only."""

import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from explainers.base import Explainer
from explainers.evaluation.measure import Values, expected_rows, score_batch
from explainers.evaluation.scorefile import printable
from explainers.evaluation.targets import class_ids, take
from explainers.metrics.base import PerImageMetric

BATCHES = ("batch_size", "internal_batch_size")  # arguments that may be halved for want of memory


def attempt(
    explainer: Explainer, metrics: Sequence[PerImageMetric], inputs: dict[str, Any]
) -> tuple[Values, Tensor, dict[int, str]]:
    """Scores one method on one batch, as `score_batch`, whatever is raised.

    If the memory is not enough, the method's own batch size is halved until it is. If the batch
    fails all the same, its images are tried one by one, and those that fail have no values.

    Returns:
        The values of each row; the maps (B, H, W), NaN for the images that failed; and the error of
        each image that failed, by its position in the batch.
    """
    while True:
        try:
            return *score_batch(explainer, metrics, inputs), {}
        except Exception as caught:
            error: Exception = caught
        if not halved(explainer, error):
            break
        del error  # it keeps the tensors of the pass that failed
    images = inputs["images"]
    if len(images) == 1:
        rows = expected_rows(metrics, class_ids(inputs["targets"]))
        return {row: {} for row in rows}, torch.full_like(images[:, 0], torch.nan), {0: told(error)}
    values: Values = {}
    errors: dict[int, str] = {}
    maps = torch.full_like(images[:, 0], torch.nan)
    for i in range(len(images)):
        own, maps[i : i + 1], failed = attempt(explainer, metrics, take(inputs, [i]))
        values |= {(i, classes): row for (_, classes), row in own.items()}
        if failed:
            errors[i] = failed[0]
    return values, maps, errors


def strictly(
    explainer: Explainer, metrics: Sequence[PerImageMetric], inputs: dict[str, Any]
) -> tuple[Values, Tensor, dict[int, str]]:
    """As `attempt`, except that errors are raised."""
    return *score_batch(explainer, metrics, inputs), {}


def unread(trainer: Trainer) -> dict[str, str]:
    """Images that the data modules of all processes could not read, and why."""
    own: dict[str, str] = dict(getattr(getattr(trainer, "datamodule", None), "skipped", {}))
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    shares: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(shares, own)
    return {name: reason for share in shares for name, reason in share.items()}


def autocast(trainer: Trainer) -> AbstractContextManager[None]:
    """The autocast of a trainer with mixed precision, which callbacks are not called in."""
    plugin = trainer.precision_plugin
    return plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext()


def halved(explainer: Explainer, error: Exception) -> bool:
    """Whether a method's batch size was halved, because of an error for want of memory."""
    if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
        return False
    for name in BATCHES:
        size = getattr(explainer, name, None)
        if isinstance(size, int) and size > 1:
            setattr(explainer, name, size // 2)
            kind = type(explainer).__name__
            rank_zero_warn(f"{kind}: out of memory; its {name} is {size // 2} from here on")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return True
    return False


def told(error: Exception) -> str:
    """An error on one line: its kind, its text and the place in the code that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


class FirstFailures:
    """Warns of the first error of each method. All of them are in the scores."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def tell(self, method: str, image: str, error: str) -> None:
        """Says that a method failed for an image, unless it is known to have failed for another."""
        if method not in self._known:
            self._known.add(method)
            rank_zero_warn(
                f"{method} failed for {printable(image)}: {error}. The run goes on without this "
                "value (--score.errors raise stops it)"
            )
