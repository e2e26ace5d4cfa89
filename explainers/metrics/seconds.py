"""Time that an explanation takes."""

from torch import Tensor

from explainers.metrics.base import PerImageMetric


class Seconds(PerImageMetric):
    """Wall-clock seconds per image, measured around the call for the whole batch.

    Range: (0, inf).

    Cost: none.

    Blind to: the machine, which all methods of a table share, and the training of learned
    explainers.

    Source: none, a measurement.
    """

    names = ("seconds",)
    needs = ("seconds",)
    higher_is_better = False
    repeatable = False

    def score(self, seconds: Tensor) -> dict[str, Tensor]:
        """The given seconds (B,)."""
        return {"seconds": seconds}
