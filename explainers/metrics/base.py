"""The base of all metrics: values per image, so that no batching or process count matters."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.metrics import statistics


class PerImageMetric(Metric):
    """Scores images one by one and keeps every value; `compute` gives figures over distinct images.

    Subclasses name their columns and inputs and implement `score`. Inputs are of `maps` (B, H, W),
    `images` (B, 3, H, W), `targets` (B, K) bool (what the map explains), `mask` (B, H, W) bool
    (where the targets are), `void` (B, H, W) bool (pixels that count nowhere), `labels` (B, K) bool
    (what the image shows), `logits` and `masked_logits` (B, K) of the images and of the images kept
    under the maps, `explanandum`, `explainer`, `seconds` (B,) and `passes` (B, 2). Every metric may
    be handed all of them and takes its share.

    An image's values do not depend on the other images, but for the last bits of what most
    classifiers say, which depend on the size of the batch: updates with one image each give the
    same bits in any order and on any number of processes.
    """

    names: tuple[str, ...] = ()  # columns, one value an image each
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # inputs taken where they exist
    per_class = (
        False  # True: follows one class, one-hot; False: scores the merged map of the whole target
    )
    wants_unit_maps = (
        False  # True: maps must lie in [0, 1], so those that are not masks get min-maxed before
    )
    speed_only: tuple[str, ...] = ()  # arguments that change speed and memory, but no value
    # torchmetrics knows only one figure a metric, hence one direction
    higher_is_better: bool | dict[str, bool] = True  # type: ignore[assignment]
    full_state_update = False
    index: list[Tensor]  # one tensor instead of a list while processes are synchronised
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, *args: Any, **inputs: Any) -> dict[str, Tensor]:
        """Values (B,) of each column for a batch; NaN where an image has no value."""

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the figures that `aggregate` returns."""
        return self.names

    def direction(self, figure: str) -> bool:
        """Whether a larger `figure` (one of `reports`) is better."""
        better = self.higher_is_better
        return better[figure] if isinstance(better, dict) else better

    @torch.no_grad()
    def measure(self, **inputs: Any) -> dict[str, Tensor]:
        """Score a batch, given at least the needed inputs; missing logits are computed if possible.

        Returns:
            Each column (B,), float64 on the CPU.

        Raises:
            ValueError: If a needed input is missing, or `score` does not return the columns.
        """
        inputs = _with_logits(self.needs, inputs)
        if missing := [name for name in self.needs if inputs.get(name) is None]:
            raise ValueError(
                f"{type(self).__name__} needs {', '.join(missing)}; "
                f"got only {', '.join(inputs) or 'nothing'}"
            )
        share = {name: inputs[name] for name in (*self.needs, *self.optional) if name in inputs}
        values = self.score(**share)
        if set(values) != set(self.names):
            raise ValueError(f"{type(self).__name__} must return {self.names}, got {tuple(values)}")
        return {name: exact(values[name]) for name in self.names}

    def update(self, index: Tensor, label: Tensor | None = None, **inputs: Any) -> None:
        """Score a batch and keep its values.

        Args:
            index: Position of each image in its data set, (B,) int64.
            label: Class that a per-class metric follows, (B,) int64.
            **inputs: See the class; the metric picks what it needs.

        Raises:
            ValueError: If a needed input is missing.
        """
        if self.per_class and label is None:
            raise ValueError(f"{type(self).__name__} follows one class an image and needs label")
        if label is None or not self.per_class:
            label = torch.full_like(index, -1)
        values = self.measure(**inputs)
        self.add(
            torch.stack([index, label], dim=1), torch.stack([values[n] for n in self.names], dim=1)
        )

    def add(self, index: Tensor, values: Tensor) -> None:
        """Keep values (B, len(names)) of rows `index` (B, 2): image, and class or -1 if merged."""
        self.index.append(index.to(self.device, torch.int64))
        self.values.append(values.to(self.device, torch.float64))
        self._computed, self._update_count = None, max(1, self._update_count)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather all processes' rows; one that saw no image joins in with none."""
        if not len(self.index):
            self.add(torch.empty(0, 2), torch.empty(0, len(self.names)))
        super().sync(*args, **kwargs)

    def per_image(self) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Distinct (image, class) rows (N, 2) in order, and each column (N,)."""
        if not len(self.index):
            return np.empty((0, 2), dtype=np.int64), {name: np.empty(0) for name in self.names}
        index = dim_zero_cat(self.index).cpu().numpy()
        values = dim_zero_cat(self.values).cpu().numpy()
        order = np.lexsort(
            (*values.T[::-1], index[:, 1], index[:, 0])
        )  # the values decide between repeated rows
        index, values = index[order], values[order]
        first = np.ones(len(index), dtype=bool)
        first[1:] = (index[1:] != index[:-1]).any(axis=1)
        return index[first], dict(
            zip(self.names, np.ascontiguousarray(values[first].T), strict=True)
        )

    def aggregate(self, values: statistics.Columns) -> dict[str, float]:
        """Figures from per-image columns (N,): the means of the known values, if not overridden."""
        return {name: statistics.nan_mean(values[name]) for name in self.names}

    def averaged(self, values: statistics.Columns) -> statistics.Columns:
        """Per-image values (N,) of each figure that is the mean of such values, from the columns.

        Figures of the whole data, such as a ratio of sums, have none and cannot be tested in pairs.
        """
        return {name: values[name] for name in self.reports if name in self.names}

    def details(self, values: statistics.Columns) -> str:
        """Further lines for a printed report, from per-image columns (N,); none by default."""
        return ""

    def note(self, size: tuple[int, int]) -> str:
        """What a reader of the table must know, for images (H, W); nothing by default."""
        return ""

    def compute(self) -> dict[str, Tensor]:
        """Each figure over the distinct images; an image's classes are averaged first."""
        index, columns = self.per_image()
        _, means = statistics.by_image(
            index[:, 0], np.stack([columns[n] for n in self.names], axis=1)
        )
        figures = self.aggregate(dict(zip(self.names, np.ascontiguousarray(means.T), strict=True)))
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}


def _with_logits(needs: tuple[str, ...], inputs: dict[str, Any]) -> dict[str, Any]:
    inputs = {name: value for name, value in inputs.items() if value is not None}
    if not {"images", "explanandum"} <= inputs.keys():
        return inputs
    if "logits" in needs and "logits" not in inputs:
        inputs["logits"] = inputs["explanandum"](inputs["images"])
    if "masked_logits" in needs and "masked_logits" not in inputs and "maps" in inputs:
        inputs["masked_logits"] = masked_logits(
            inputs["explanandum"], inputs["images"], inputs["maps"]
        )
    return inputs


def masked_logits(explanandum: Explanandum, images: Tensor, maps: Tensor) -> Tensor:
    """Logits (B, K) of images (B, 3, H, W) under maps (B, H, W) in [0, 1]; the mean fills."""
    logits: Tensor = explanandum(masking.blend(images, maps, explanandum.mean))
    return logits


def exact(values: Tensor) -> Tensor:
    """Values in float64 on the CPU: sums do not depend on the batch there, and MPS has none."""
    return values.detach().cpu().double().contiguous()


def pixel_sum(planes: Tensor) -> Tensor:
    """Sum over the pixels of each plane: (B, H, W) -> (B,) float64.

    Rows first, then columns: a single sum over a large plane is split among threads when the batch
    has one image, and would end in another last bit.
    """
    return exact(planes).sum(dim=2).sum(dim=1)
