"""Number of passes through the classifier that an explanation takes."""

from torch import Tensor

from explainers.metrics.base import PerImageMetric


class Passes(PerImageMetric):
    """Forward and backward passes through the explanandum for each explained image.

    `forwards` counts the images that pass through the first layer. `backwards` counts the images
    whose gradient enters the output of the network.

    Range: [0, inf).

    Cost: none.

    Blind to: the networks of the explainer itself, and that passes may be partial.

    Source: none, a count.
    """

    names = ("forwards", "backwards")
    needs = ("passes",)
    higher_is_better = False

    def score(self, passes: Tensor) -> dict[str, Tensor]:
        """The given passes (B, 2), as two columns (B,)."""
        return {"forwards": passes[:, 0], "backwards": passes[:, 1]}
