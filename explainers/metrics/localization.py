"""Agreement of continuous masks with object masks, without a threshold (NN-Explainer, 4.3)."""

import torch
from torch import Tensor

from explainers.metrics.base import PerImageMetric, exact, pixel_sum


def soft_accuracy(maps: Tensor, mask: Tensor, void: Tensor | None = None) -> Tensor:
    """Mean m g + (1 - m)(1 - g): maps m (B, H, W) in [0, 1], mask g (B, H, W) -> (B,) in [0, 1].

    For a binary g this is 1 - `mae`: the two say the same, and both are kept because the paper
    prints both. NaN where the mask is empty; pixels in `void` (B, H, W) bool count nowhere.
    """
    m, g, valid = _pixels(maps, mask, void)
    return _where_known(pixel_sum((m * g + (1 - m) * (1 - g)) * valid) / pixel_sum(valid), g)


def soft_iou(maps: Tensor, mask: Tensor, void: Tensor | None = None) -> Tensor:
    """Sum min(m, g) / sum max(m, g): maps m (B, H, W) in [0, 1], mask g (B, H, W) -> (B,).

    NaN where the mask is empty; pixels in `void` (B, H, W) bool count nowhere.
    """
    m, g, valid = _pixels(maps, mask, void)
    inter, union = pixel_sum(torch.minimum(m, g) * valid), pixel_sum(torch.maximum(m, g) * valid)
    return _where_known(inter / union, g)


def mae(maps: Tensor, mask: Tensor, void: Tensor | None = None) -> Tensor:
    """Mean of |m - g| over pixels: maps m (B, H, W) in [0, 1], mask g (B, H, W) -> (B,) in [0, 1].

    NaN where the mask is empty; pixels in `void` (B, H, W) bool count nowhere.
    """
    m, g, valid = _pixels(maps, mask, void)
    return _where_known(pixel_sum((m - g).abs() * valid) / pixel_sum(valid), g)


def _pixels(maps: Tensor, mask: Tensor, void: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, mask without void pixels, and the weight of each pixel, all (B, H, W) float64."""
    if maps.shape != mask.shape:
        raise ValueError(
            f"expected maps and mask of one shape, got {tuple(maps.shape)} and {tuple(mask.shape)}"
        )
    m, g = exact(maps), exact(mask)
    valid = torch.ones_like(g) if void is None else 1 - exact(void)
    return m, g * valid, valid


def _where_known(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(mask.flatten(1).amax(dim=1) == 0, torch.nan)


class SoftAccuracy(PerImageMetric):
    """Pixel accuracy, `soft_accuracy`; images with an empty object mask are missing."""

    names = ("SoftAccuracy",)
    needs = ("maps", "mask")
    optional = ("void",)
    wants_unit_maps = True

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Accuracy (B,) of maps (B, H, W) in [0, 1]."""
        return {"SoftAccuracy": soft_accuracy(maps, mask, void)}


class SoftIoU(PerImageMetric):
    """Overlap with object masks, `soft_iou`; images with an empty object mask are missing."""

    names = ("SoftIoU",)
    needs = ("maps", "mask")
    optional = ("void",)
    wants_unit_maps = True

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Overlap (B,) of maps (B, H, W) in [0, 1]."""
        return {"SoftIoU": soft_iou(maps, mask, void)}


class MAE(PerImageMetric):
    """Mean absolute error, `mae`; images with an empty object mask are missing."""

    names = ("MAE",)
    needs = ("maps", "mask")
    optional = ("void",)
    wants_unit_maps = True
    higher_is_better = False

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Error (B,) of maps (B, H, W) in [0, 1]."""
        return {"MAE": mae(maps, mask, void)}
