"""Number of passes through the classifier that an explanation takes."""

from collections.abc import Iterable

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum.inpainters import uses_inpainter
from explainers.metrics.base import PerImageMetric


class Passes(PerImageMetric):
    """Forward and backward passes through the explanandum for each explained image.

    `forwards` counts the images that pass through the first layer. `backwards` counts the images
    whose gradient enters the output of the network. If a row of the table uses an inpainter,
    `inpaintings` counts the images that inpainters complete.

    Range: [0, inf).

    Cost: none.

    Blind to: the networks of the explainer itself, and that passes may be partial.

    Source: none, a count.
    """

    names: tuple[str, ...] = ("forwards", "backwards")
    needs = ("passes",)
    optional = ("inpaintings",)
    higher_is_better = False

    def count_inpaintings(self) -> None:
        """Adds the column `inpaintings`, before the first update."""
        self.names = ("forwards", "backwards", "inpaintings")

    def score(self, passes: Tensor, inpaintings: Tensor | None = None) -> dict[str, Tensor]:
        """The given passes (B, 2) and, if they are counted, inpaintings (B,), as columns (B,)."""
        columns = {"forwards": passes[:, 0], "backwards": passes[:, 1]}
        if "inpaintings" in self.names:
            none = torch.zeros_like(passes[:, 0])
            columns["inpaintings"] = none if inpaintings is None else inpaintings
        return columns


def count_inpaintings(metrics: Iterable[PerImageMetric], explainers: Iterable[Explainer]) -> None:
    """Lets `Passes` count inpaintings if a method, or one inside it, uses an inpainter."""
    parts = (part for explainer in explainers for part in explainer.modules())
    if any(isinstance(part, Explainer) and uses_inpainter(part.hparams) for part in parts):
        for metric in metrics:
            if isinstance(metric, Passes):
                metric.count_inpaintings()
