"""What an explanation costs."""

from torch import Tensor

from explainers.metrics.base import PerImageMetric


class Seconds(PerImageMetric):
    """Wall-clock seconds an image, as measured around the call for its batch."""

    names = ("seconds",)
    needs = ("seconds",)
    higher_is_better = False

    def score(self, seconds: Tensor) -> dict[str, Tensor]:
        """Seconds (B,), passed on."""
        return {"seconds": seconds}
