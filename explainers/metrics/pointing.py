"""Whether a map points at the object: its maximum, its mass, and its highest pixels."""

import numpy as np
import torch
from torch import Tensor

from explainers.metrics.base import PerImageMetric, exact, pixel_sum


def pointing_hit(maps: Tensor, mask: Tensor, tolerance: float = 15.0) -> Tensor:
    """Whether the maximum of maps (B, H, W) is closer than `tolerance` to object masks (B, H, W).

    Of several equal maxima, the share that hits. NaN where the object mask is empty.

    Returns:
        Hits (B,) in [0, 1].
    """
    from scipy import ndimage

    hits = torch.full((len(maps),), torch.nan, dtype=torch.float64)
    for row, (values, inside) in enumerate(zip(exact(maps), mask.bool().cpu(), strict=True)):
        if inside.any():
            distance = ndimage.distance_transform_edt(~inside.numpy())
            near = torch.from_numpy((distance < tolerance) | inside.numpy())
            hits[row] = near[values == values.max()].double().mean()
    return hits


def mass_inside(maps: Tensor, mask: Tensor, void: Tensor | None = None) -> Tensor:
    """Share of the positive values of maps (B, H, W) inside object masks (B, H, W).

    Args:
        maps: Maps of any sign.
        mask: Object masks.
        void: Pixels that are ignored, (B, H, W) bool.

    Returns:
        Shares (B,) in [0, 1]; NaN where the object mask is empty or no value is positive.
    """
    inside, valid = _inside(mask, void)
    positive = exact(maps).clamp_min(0) * valid
    total = pixel_sum(positive)
    share = pixel_sum(positive * inside) / total.where(total > 0, torch.nan)
    return share.masked_fill(~inside.flatten(1).any(dim=1), torch.nan)


def top_inside(
    maps: Tensor, mask: Tensor, count: int | None = None, void: Tensor | None = None
) -> Tensor:
    """Share of the highest pixels of maps (B, H, W) that lie inside object masks (B, H, W).

    Of equal pixels at the limit, each counts by the same share.

    Args:
        maps: Maps of any sign.
        mask: Object masks.
        count: Number of pixels; None takes as many as the object has.
        void: Pixels that are ignored, (B, H, W) bool.

    Returns:
        Shares (B,) in [0, 1]; NaN where the object mask is empty.
    """
    insides, valid = _inside(mask, void)
    shares = torch.full((len(maps),), torch.nan, dtype=torch.float64)
    for row, values in enumerate(exact(maps)):
        pixels, inside = values[valid[row]], insides[row][valid[row]]
        if inside.any():
            wanted = int(inside.sum()) if count is None else min(count, len(pixels))
            limit = pixels.sort(descending=True).values[wanted - 1]
            above, level = pixels > limit, pixels == limit
            part = (wanted - above.sum()) / level.sum()
            shares[row] = (inside[above].sum() + part * inside[level].sum()) / wanted
    return shares


def effective_heat(
    maps: Tensor, mask: Tensor, void: Tensor | None = None, floor: float = 0.1
) -> Tensor:
    """Area under the curve of the heat inside an object for each pixel that is kept.

    The pixels of at least `floor` are kept, then those of at least their deciles. At each of these
    eleven thresholds, the height is the sum of the kept values inside the object, divided by the
    number of kept pixels.

    Args:
        maps: Maps (B, H, W) in [0, 1].
        mask: Object masks (B, H, W).
        void: Pixels that are ignored, (B, H, W) bool.
        floor: Value below which pixels are not kept.

    Returns:
        Areas (B,) in [0, 1]; NaN where the object mask is empty, and 0 where no pixel is kept.
    """
    insides, valid = _inside(mask, void)
    areas = torch.full((len(maps),), torch.nan, dtype=torch.float64)
    for row, values in enumerate(exact(maps)):
        if insides[row].any():
            kept = valid[row] & (values >= floor)
            areas[row] = _heat_area(values[kept].numpy(), insides[row][kept].numpy())
    return areas


def _heat_area(heat: np.ndarray, inside: np.ndarray) -> float:
    if not heat.size:
        return 0.0
    ratios = []
    for limit in np.minimum(np.quantile(heat, np.linspace(0, 1, 11)), 0.99 * heat.max()):
        kept = heat >= limit
        ratios.append(heat[kept & inside].sum() / kept.sum())
    return float(np.trapezoid(ratios, dx=0.1))


def _inside(mask: Tensor, void: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pixels of the object that are not void, and all pixels that are not, (B, H, W) bool."""
    inside = mask.bool().cpu()
    valid = torch.ones_like(inside) if void is None else ~void.bool().cpu()
    return inside & valid, valid


class PointingGame(PerImageMetric):
    """Whether the maximum of the map lies on the object, or closer to it than 15 pixels.

    Of several equal maxima, the share that hits. Images with an empty object mask have no value.

    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018, with the
    rule of TorchRay.

    Differences from the released code:
        - Object masks take the place of the boxes of VOC.
        - The mean over images, not over classes. No image is left out as difficult.
        - TorchRay takes the first of several equal maxima.

    Range: [0, 1].

    Cost: no forward passes.

    Blind to: everything but one pixel. In images of few pixels, or with large objects, any point
    hits: compare with a map of the center.

    Args:
        tolerance: Distance in pixels below which the maximum still hits.

    Raises:
        ValueError: If `tolerance` is negative.
    """

    names = ("PointingGame",)
    needs = ("maps", "mask")
    per_class = True

    def __init__(self, tolerance: float = 15.0) -> None:
        super().__init__()
        if tolerance < 0:
            raise ValueError(f"expected tolerance >= 0, got {tolerance}")
        self.tolerance = tolerance

    def score(self, maps: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Hits (B,) of maps (B, H, W)."""
        return {"PointingGame": pointing_hit(maps, mask, self.tolerance)}


class EnergyPointingGame(PerImageMetric):
    """Share of the map's positive values inside the object, also called relevance mass accuracy.

    Images with an empty object mask, and maps without a positive value, have no value.

    Source: Wang et al., "Score-CAM", CVPR workshops 2020, section 4.3; Arras et al., "CLEVR-XAI",
    Information Fusion 2022.

    Differences from the released code:
        - Object masks take the place of boxes.
        - Negative values count as 0. Arras et al. pool the channels of each pixel first.

    Range: [0, 1].

    Cost: no forward passes.

    Blind to: where inside the object the map lies. It depends on the zero of the map: adding a
    constant changes it, although the order of the pixels stays. A uniform map gets the object's
    share of the image.
    """

    names = ("EnergyPointingGame",)
    needs = ("maps", "mask")
    optional = ("void",)
    per_class = True

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Shares (B,) of maps (B, H, W)."""
        return {"EnergyPointingGame": mass_inside(maps, mask, void)}


class RelevanceRankAccuracy(PerImageMetric):
    """Share of the highest pixels that lie inside the object, for as many pixels as it has.

    Images with an empty object mask have no value.

    Source: Arras et al., "CLEVR-XAI", Information Fusion 2022.

    Differences from the released code:
        - Of equal pixels at the limit, each counts by the same share.

    Range: [0, 1].

    Cost: no forward passes.

    Blind to: the values of the map, of which only the order counts, and the order inside the
    object. Large objects are easier: a random map gets the object's share of the image.
    """

    names = ("RelevanceRankAccuracy",)
    needs = ("maps", "mask")
    optional = ("void",)
    per_class = True

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Shares (B,) of maps (B, H, W)."""
        return {"RelevanceRankAccuracy": top_inside(maps, mask, None, void)}


class TopKIntersection(PerImageMetric):
    """Share of the k highest pixels that lie inside the object.

    Images with an empty object mask have no value.

    Source: Theiner, Mueller-Budack and Ewerth, "Interpretable Semantic Photo Geolocation",
    WACV 2022, as in quantus.

    Differences from the released code:
        - Of equal pixels at the limit, each counts by the same share.
        - An object of fewer than k pixels cannot get 1, as in quantus by default.

    Range: [0, 1].

    Cost: no forward passes.

    Blind to: everything below the highest pixels; and k means less of a larger image.

    Args:
        k: Number of pixels; all, if the image has fewer.

    Raises:
        ValueError: If `k` is below 1.
    """

    names = ("TopKIntersection",)
    needs = ("maps", "mask")
    optional = ("void",)
    per_class = True

    def __init__(self, k: int = 1000) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"expected k >= 1, got {k}")
        self.k = k

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Shares (B,) of maps (B, H, W)."""
        return {"TopKIntersection": top_inside(maps, mask, self.k, void)}


class EffectiveHeatRatio(PerImageMetric):
    """Heat inside the object for each pixel that is kept, averaged over eleven thresholds.

    See `effective_heat`. Images with an empty object mask have no value.

    Source: Zhang et al., "Fine-Grained Neural Network Explanation by Identifying Input Features
    with Predictive Information" (InputIBA), NeurIPS 2021, the released code.

    Range: [0, 1].

    Cost: no forward passes.

    Blind to: pixels below a tenth of the map's range; and the size of the object, of which a single
    bright pixel is enough. The map is min-max scaled, so that its contrast counts.
    """

    names = ("EffectiveHeatRatio",)
    needs = ("maps", "mask")
    optional = ("void",)
    per_class = True
    wants_unit_maps = True

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Areas (B,) of maps (B, H, W) in [0, 1]."""
        return {"EffectiveHeatRatio": effective_heat(maps, mask, void)}
