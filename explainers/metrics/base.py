"""Base class of all metrics, which keep one value per image."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from explainers.explanandum import Explanandum, precision
from explainers.metrics import statistics
from explainers.metrics.inputs import prepare


class _States(dict[str, Any]):
    """States of one metric, whose names differ from those of any other metric.

    MetricCollection compares the names, and then the values, to find metrics that can share one
    state. No two of our metrics may, although all keep their values under the same names.
    """

    def keys(self) -> Any:
        """The names, as an object that equals no other."""
        return iter(super().keys())


class PerImageMetric(Metric):
    """Base class of metrics that score each image and keep every value.

    Each metric has columns (`names`) with one value per image. `compute` reduces them to the final
    scores (`reports`) over the distinct images. Subclasses set `names` and `needs` and implement
    `score`. Any metric may be given all of these inputs and uses only those it names:

    - `maps` (B, H, W) and `images` (B, 3, H, W)
    - `targets` (B, K) bool: the classes that the map explains
    - `labels` (B, K) bool: the classes that the image shows
    - `mask` (B, H, W) bool: the pixels of the targets
    - `void` (B, H, W) bool: pixels that are ignored
    - `boxes` (B, M, 5) and `parts` (B, K, P, H, W) bool: boxes and parts of the objects
    - `logits` (B, K) of the images, and `masked_logits` (B, K) of the images masked by their maps
    - `explanandum` and `explainer`
    - `seconds` (B,), `passes` (B, 2) and `inpaintings` (B,): the cost of the maps

    Inputs of another shape, type or range are refused. Not finite is missing: an image has no value
    in any column if its map, the classifier's output on it, or a further map or output that the
    metric computes for it is not finite. Images of which no class is explained have no value
    either in metrics that use the targets. The caller's autocast applies to the classifier's passes
    alone.

    The values of an image do not depend on the other images. The exception is rounding: the last
    bits of the logits of most classifiers depend on the size of the batch. Updates with one image
    each give the same bits in any order and on any number of processes.
    """

    names: tuple[str, ...] = ()  # columns, each with one value per image
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # inputs that are used if available
    per_class = (
        False  # True: scores the map of a single class; False: the merged map of all target classes
    )
    wants_unit_maps = (
        False  # True: maps must lie in [0, 1]; those that are not masks are min-max scaled first
    )
    needs_own_layers = False  # True: changes the classifier's layers, which must be its own
    repeatable = True  # False: an image that is measured again may get other values
    of_sums = False  # True: `aggregate` needs only the sum of each column, without missing values
    speed_only: tuple[str, ...] = ()  # arguments that affect only speed and memory, not the values
    # torchmetrics assumes one score per metric, hence one direction
    higher_is_better: bool | dict[str, bool] = True  # type: ignore[assignment]
    ideal: float | None = None  # best value, if it is neither the highest nor the lowest one
    full_state_update = False
    index: list[Tensor]  # a single tensor instead while the processes are synchronized
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self._defaults = _States()
        # Of the last batch, by column: shares of changed pixels (n + 1,), and heights (B, n + 1).
        self.curves: dict[str, tuple[Tensor, Tensor]] = {}
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, *args: Any, **inputs: Any) -> dict[str, Tensor]:
        """Compute the values (B,) of each column for a batch; NaN where an image has no value."""

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the scores that `aggregate` returns."""
        return self.names

    def direction(self, figure: str) -> bool:
        """Whether a higher value of `figure`, one of `reports`, is better."""
        better = self.higher_is_better
        return better[figure] if isinstance(better, dict) else better

    @torch.no_grad()
    def measure(self, **inputs: Any) -> dict[str, Tensor]:
        """Compute the values of a batch from at least the inputs that the metric needs.

        Logits that are needed but not given are computed if possible.

        Returns:
            Values (B,) of each column, float64 on the CPU.

        Raises:
            ValueError: If an input is missing, or has another shape, type or range than it must
                have, or if `score` does not return the columns.
        """
        subject, self.curves = inputs.get("explanandum"), {}
        with precision.exact(subject) if isinstance(subject, Explanandum) else nullcontext():
            share, known = prepare(self, inputs)
            values = self.score(**share) if bool(known.any()) else dict.fromkeys(self.names)
        if set(values) != set(self.names):
            raise ValueError(f"{type(self).__name__} must return {self.names}, got {tuple(values)}")
        for name, (shares, heights) in self.curves.items():
            full = heights.new_full((len(known), heights.shape[1]), torch.nan)
            full[known] = heights
            self.curves[name] = shares, full
        return {name: _among_all(values[name], known) for name in self.names}

    def update(self, index: Tensor, label: Tensor | None = None, **inputs: Any) -> None:
        """Compute the values of a batch and keep them.

        Args:
            index: Position of each image in its data set, (B,) int64.
            label: Class of each map, (B,) int64, for metrics that score single classes.
            **inputs: Inputs as listed for the class.

        Raises:
            ValueError: If an input is missing or unfit, or an image (and class) comes twice.
        """
        if self.per_class and label is None:
            raise ValueError(f"{type(self).__name__} follows one class an image and needs label")
        if label is None or not self.per_class:
            label = torch.full_like(index, -1)
        values = self.measure(**inputs)
        columns = torch.stack([values[name] for name in self.names], dim=1)
        self._check_index(index, label, len(columns), inputs.get("targets"))
        self.add(torch.stack([index, label.to(index.device)], dim=1), columns)

    def _check_index(self, index: Tensor, label: Tensor, size: int, targets: Any) -> None:
        name = type(self).__name__
        for key, value in (("index", index), ("label", label)):
            if tuple(value.shape) != (size,) or value.is_floating_point():
                raise ValueError(
                    f"{name}: {key} must be ({size},) int64, got {tuple(value.shape)} {value.dtype}"
                )
        if len(set(zip(index.tolist(), label.tolist(), strict=True))) < size:
            raise ValueError(
                f"{name}: index must name each image of the batch once, got {index.tolist()}; "
                "resampled images (BootStrapper) need statistics.bootstrap_ci instead"
            )
        if self.per_class and isinstance(targets, Tensor):
            rows = targets.any(dim=1)
            if (targets.int().argmax(dim=1)[rows] != label.to(rows.device)[rows]).any():
                raise ValueError(f"{name}: label must be the class of targets, got another one")

    def add(self, index: Tensor, values: Tensor) -> None:
        """Keep values (B, len(names)) of rows `index` (B, 2): image, and class or -1 for all."""
        self.index.append(index.to(self.device, torch.int64))
        self.values.append(values.to(self.device, torch.float64))
        self._computed, self._update_count = None, max(1, self._update_count)

    def reset(self) -> None:
        """Forget all values; lists that a wrapper still holds (Running) keep theirs."""
        self.index, self.values = [], []
        super().reset()

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merge the values of another metric, after which an earlier result no longer holds."""
        super()._reduce_states(incoming_state)
        self._computed, self._update_count = None, max(1, self._update_count)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Move the states to another device; indices and values keep their types."""
        device = fn(torch.empty(0, device=self.device)).device
        return super()._apply(lambda tensor: tensor.to(device), exclude_state)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all processes; a process without images contributes none."""
        if not len(self.index):
            self.add(torch.empty(0, 2), torch.empty(0, len(self.names)))
        super().sync(*args, **kwargs)

    def per_image(self) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Distinct (image, class) rows (N, 2) in ascending order, and each column (N,)."""
        if not len(self.index):
            return np.empty((0, 2), dtype=np.int64), {name: np.empty(0) for name in self.names}
        index = dim_zero_cat(self.index).cpu().numpy()
        values = dim_zero_cat(self.values).cpu().numpy()
        order = np.lexsort(
            (*values.T[::-1], index[:, 1], index[:, 0])
        )  # the values decide which repeated row is kept
        index, values = index[order], values[order]
        first = np.ones(len(index), dtype=bool)
        first[1:] = (index[1:] != index[:-1]).any(axis=1)
        alike = np.isclose(values[1:], values[:-1], rtol=0.01, atol=0.01, equal_nan=True).all(
            axis=1
        )
        if self.repeatable and (other := index[1:][~first[1:] & ~alike]).size:
            warnings.warn(
                f"{type(self).__name__}: image {other[0, 0]} came several times with other values, "
                "of which one is kept; index must be the image's place in the data set, not in its "
                "batch",
                stacklevel=2,
            )
        return index[first], dict(
            zip(self.names, np.ascontiguousarray(values[first].T), strict=True)
        )

    def aggregate(self, values: statistics.Columns) -> dict[str, float]:
        """Scores from per-image columns (N,); by default their means without missing values."""
        return {name: statistics.nan_mean(values[name]) for name in self.names}

    def averaged(self, values: statistics.Columns) -> statistics.Columns:
        """Per-image values (N,) of those scores that are a mean over images, from the columns.

        Scores of the whole data set, such as a ratio of sums, have no per-image values. Paired
        tests leave them out.
        """
        return {name: values[name] for name in self.reports if name in self.names}

    def details(self, values: statistics.Columns) -> str:
        """Additional lines of the printed report from per-image columns (N,); none by default."""
        return ""

    def absent(self, values: statistics.Columns) -> str:
        """Why none of the scores has a value, from per-image columns (N,)."""
        return "no image has a value"

    def note(self, size: tuple[int, int]) -> str:
        """Note for readers of the table, for images of size (H, W); empty by default."""
        return ""

    def compute(self) -> dict[str, Tensor]:
        """Each score over the distinct images; the classes of an image are averaged first."""
        index, columns = self.per_image()
        _, means = statistics.by_image(
            index[:, 0], np.stack([columns[n] for n in self.names], axis=1)
        )
        figures = self.aggregate(dict(zip(self.names, np.ascontiguousarray(means.T), strict=True)))
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}


def _among_all(values: Tensor | None, known: Tensor) -> Tensor:
    """Values of the known images of a batch among NaN for all others and for infinite values."""
    full = torch.full(known.shape, torch.nan, dtype=torch.float64)
    if values is not None:
        full[known] = exact(values)
    return full.masked_fill(full.isinf(), torch.nan)


def exact(values: Tensor) -> Tensor:
    """Values in float64 on the CPU, where sums do not depend on the batch; MPS has no float64."""
    return values.detach().cpu().double().contiguous()


def pixel_sum(planes: Tensor) -> Tensor:
    """Sums (B,) float64 over the pixels of planes (B, H, W).

    The sum over columns is computed before the sum over rows. A single sum over a large plane is
    split among threads if the batch has one image, and would then differ in its last bit.
    """
    return exact(planes).sum(dim=2).sum(dim=1)
