"""Remove and debias: the classifier's output when removed pixels are imputed from the others."""

from dataclasses import replace
from typing import Literal

from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.metrics.curve_metric import CurveMetric, curve_values
from explainers.options import check_choices
from explainers.perturbation.curves import Curve


class ROAD(CurveMetric):
    """Accuracy without the most or the least relevant pixels, which are imputed, and the gap.

    ROADMoRF (most relevant first) should be low, ROADLeRF (least relevant first) high. ROAD is
    LeRF minus MoRF. Each is the mean over the removed shares 10 %, 20 %, ..., 90 %. Removed pixels
    become the weighted mean of their neighbors plus a little noise (the fill "road"). Unlike a
    constant color, this hides the shape of what was removed, which may itself tell the class.

    Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods",
    ICML 2022.

    Differences from the released code:
        - The mean over the shares, not a curve for each.
        - The classifier's hits on the explained class, which is the predicted class with
          `Score(target="predicted")`, not the label.

    Range: [0, 1] for MoRF and LeRF, [-1, 1] for their difference.

    Cost: two forward passes for each share, and a linear system for each, of about half a second at
    224 px.

    Blind to: the order within the first tenth of the pixels. Smoother maps remove larger pieces,
    which cannot be imputed: blurring a map may raise its score (compare `BlurredMaps`).

    Args:
        shares: Shares of the pixels that are removed.
        value: "hit" (1 if the explained class is the most probable one) or its "probability".
        batch_size: Number of perturbed images in each forward pass.
        channels_last: Whether these batches are in the channels-last memory layout. None takes
            `Explanandum.channels_last`.

    Raises:
        ValueError: If there is no share, or one is not in (0, 1).
    """

    names = ("ROADMoRF", "ROADLeRF", "ROAD")
    # torchmetrics allows one direction per metric, and mypy checks against that declaration.
    higher_is_better = {  # type: ignore[assignment]  # noqa: RUF012
        "ROADMoRF": False,
        "ROADLeRF": True,
        "ROAD": True,
    }

    def __init__(
        self,
        shares: list[float] | None = None,
        value: Literal["hit", "probability"] = "hit",
        batch_size: int = 16,
        channels_last: bool | None = None,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(None, batch_size, channels_last)
        self.shares = [tenth / 10 for tenth in range(1, 10)] if shares is None else sorted(shares)
        if not self.shares or not 0 < self.shares[0] <= self.shares[-1] < 1:
            raise ValueError(f"shares must lie between 0 and 1, at least one, got {self.shares}")
        self.value = value

    def setting(self, size: tuple[int, int]) -> Curve:
        """The curve that removes the most relevant pixels first, for images of size (H, W)."""
        counts = tuple(round(share * size[0] * size[1]) for share in self.shares)
        return Curve("most", fill="road", counts=counts)

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Means (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        most = self.setting((maps.shape[1], maps.shape[2]))
        settings = [most, replace(most, order="least")]
        found = self.run(settings, images, maps, targets, explanandum)
        means = []
        for name, setting, curve in zip(self.names, settings, found, strict=False):
            heights = curve_values(curve, self.value, targets)
            self.keep(name, setting, heights, maps[0].numel())
            means.append(heights.mean(dim=1))
        return dict(zip(self.names, (*means, means[1] - means[0]), strict=True))
