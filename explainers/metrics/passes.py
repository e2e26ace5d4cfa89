"""What an explanation asks of the classifier."""

from torch import Tensor

from explainers.metrics.base import PerImageMetric


class Passes(PerImageMetric):
    """Images that the explanandum saw, and of which its answers were differentiated, an image.

    `forwards` counts what reaches the first layer, `backwards` gradients that leave the last one.
    """

    names = ("forwards", "backwards")
    needs = ("passes",)
    higher_is_better = False

    def score(self, passes: Tensor) -> dict[str, Tensor]:
        """Passes (B, 2), passed on."""
        return {"forwards": passes[:, 0], "backwards": passes[:, 1]}
