"""How much a map changes under small perturbations of the image."""

from typing import Any

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.metrics.base import PerImageMetric, exact, pixel_sum


def relative_change(maps: Tensor, others: Tensor) -> Tensor:
    """Relative change ||a - a'|| / ||a|| (B,) >= 0 float64 of maps a and a' (B, H, W).

    NaN where a is 0 everywhere.

    Example:
        >>> a = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
        >>> relative_change(a, torch.zeros_like(a)).tolist()
        [1.0, nan]
    """
    a, b = exact(maps), exact(others)
    norm = pixel_sum(a * a)
    return (pixel_sum((a - b) ** 2) / norm.where(norm > 0, torch.nan)).sqrt()


class AverageSensitivity(PerImageMetric):
    """Mean relative change of the min-max scaled map under uniform noise; lower is better.

    The noise is uniform in [-radius, radius] times the classifier's standard deviation. Noisy
    images may leave the range [0, 1]. The target remains that of the clean image, even if the noise
    changes the prediction.

    An image has no value if the map of one of its noisy images is not finite.

    A constant map has no relative change and therefore no value. Methods that need the object masks
    of each image (GroundTruth) have no value either, since noisy images come without masks.

    Source: Yeh et al., NeurIPS 2019, as in Ra-NEM's use of quantus' AvgSensitivity: 30 draws of
    noise up to 0.2 in the classifier's normalized space, both maps min-max scaled, Frobenius norms.

    Differences from the released code:
        - By default, quantus divides maps by their largest magnitude and draws 200 times.
        - Every image gets the same draws of noise.

    Cost: `draws` explanations.

    Range: [0, inf).

    Blind to: whether the map is right: a map that never changes is best. A change of the prediction
    by the noise is not told from one of the map alone.

    Args:
        draws: Number of noisy images.
        radius: Largest noise, in units of the classifier's standard deviation.
        seed: Seed of the noise.

    Raises:
        ValueError: If `draws` is below 1 or `radius` is not positive.
    """

    names = ("AverageSensitivity",)
    needs = ("images", "targets", "maps", "explanandum", "explainer")
    higher_is_better = False

    def __init__(self, draws: int = 30, radius: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        if draws < 1 or radius <= 0:
            raise ValueError(f"expected draws >= 1 and radius > 0, got {draws} and {radius}")
        self.draws, self.radius, self.seed = draws, radius, seed

    def score(
        self,
        images: Tensor,
        targets: Tensor,
        maps: Tensor,
        explanandum: Explanandum,
        explainer: Any,
    ) -> dict[str, Tensor]:
        """Mean change (B,) of the maps (B, H, W) of images (B, 3, H, W)."""
        if explainer.needs_masks:
            return {"AverageSensitivity": torch.full((len(maps),), torch.nan)}
        generator = torch.Generator().manual_seed(self.seed)
        clean, total = masking.minmax(maps), torch.zeros(len(maps), dtype=torch.float64)
        for _ in range(self.draws):
            noise = 2 * torch.rand(images.shape[1:], generator=generator) - 1
            noisy = images + self.radius * explanandum.std * noise.to(images)
            total += relative_change(clean, masking.minmax(explainer.attribute(noisy, targets)))
        return {"AverageSensitivity": total / self.draws}
