"""How concentrated a map is, regardless of what it highlights."""

import torch
from torch import Tensor

from explainers.metrics.base import PerImageMetric, exact, pixel_sum


def entropy(maps: Tensor) -> Tensor:
    """Entropy (B,) in nats, in [0, ln HW], of |map| as a distribution over pixels, (B, H, W).

    NaN where the map is 0 everywhere.

    Example:
        >>> entropy(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])).exp().round(decimals=6).item()
        2.0
    """
    weights = exact(maps).abs()
    share = weights / pixel_sum(weights)[:, None, None]
    return -pixel_sum(torch.xlogy(share, share))


def gini(maps: Tensor) -> Tensor:
    """Gini index (B,) of |map|, (B, H, W): 0 for a constant map, 1 - 1/HW for a single pixel.

    NaN where the map is 0 everywhere.

    Example:
        >>> gini(torch.tensor([[[1.0, 3.0]], [[0.0, 2.0]]])).tolist()
        [0.25, 0.5]
    """
    weights = exact(maps).abs().flatten(1).sort(dim=1).values
    count = weights.shape[1]
    place = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
    total = pixel_sum(weights.view_as(maps))
    return pixel_sum((place * weights).view_as(maps)) / (count * total.where(total > 0, torch.nan))


class Complexity(PerImageMetric):
    """Entropy of the map, which is low if the map is concentrated in few pixels; see `entropy`.

    A map of zeros has no value. Cost: no forward passes.

    Source: Bhatt et al., IJCAI 2020, eq. 5, as in quantus.

    Range: [0, ln HW].

    Blind to: whether the map is right. A single random pixel is best.
    """

    names = ("Complexity",)
    needs = ("maps",)
    higher_is_better = False

    def score(self, maps: Tensor) -> dict[str, Tensor]:
        """Entropy (B,) of maps (B, H, W), without rescaling."""
        return {"Complexity": entropy(maps)}


class Sparseness(PerImageMetric):
    """Gini index of the map, which is high if the map is concentrated in few pixels; see `gini`.

    A map of zeros has no value. Cost: no forward passes.

    Source: Chalasani et al., ICML 2020, as in quantus.

    Differences from the released code:
        - No 1e-7 is added to every pixel, as quantus does.

    Range: [0, 1).

    Blind to: whether the map is right. A single random pixel is best.
    """

    names = ("Sparseness",)
    needs = ("maps",)

    def score(self, maps: Tensor) -> dict[str, Tensor]:
        """Gini index (B,) of maps (B, H, W), without rescaling."""
        return {"Sparseness": gini(maps)}
