"""How much a map moves when the image is disturbed a little."""

from typing import Any

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.metrics.base import PerImageMetric, exact, pixel_sum


def relative_change(maps: Tensor, others: Tensor) -> Tensor:
    """||a - a'|| / ||a|| of maps a and a' (B, H, W) -> (B,) >= 0 float64; NaN where a is 0.

    Example:
        >>> a = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
        >>> relative_change(a, torch.zeros_like(a)).tolist()
        [1.0, nan]
    """
    a, b = exact(maps), exact(others)
    norm = pixel_sum(a * a)
    return (pixel_sum((a - b) ** 2) / norm.where(norm > 0, torch.nan)).sqrt()


class AverageSensitivity(PerImageMetric):
    """Mean relative change of the min-maxed map under uniform noise on the image; lower is better.

    The target stays what it was on the clean image, also where the noise changes the prediction.

    Source: Yeh et al., NeurIPS 2019, as Ra-NEM runs quantus' AvgSensitivity: 30 draws of +-0.2 in
    the classifier's normalised space (here radius times its std, images in [0, 1] may be left),
    both maps min-maxed, Frobenius norms. Differs: quantus scales maps by their largest magnitude
    and draws 200 times unless told otherwise; here every image gets the same draws. A constant map
    is missing: it has no relative change; so is a method that needs the object masks of each image
    (GroundTruth), since noisy images come with none.

    Cost: `draws` explanations.

    Args:
        draws: Noisy images.
        radius: Largest noise, in units of the classifier's standard deviation.
        seed: Of the noise.
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
