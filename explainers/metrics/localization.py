"""Agreement of continuous masks with object masks, without a threshold (NN-Explainer, 4.3)."""

import torch
from torch import Tensor

from explainers.metrics.base import PerImageMetric, exact, pixel_sum


def soft_accuracy(maps: Tensor, mask: Tensor, void: Tensor | None = None) -> Tensor:
    """Mean of m g + (1 - m)(1 - g) over pixels, for maps m and object masks g.

    For a binary g the value is 1 - `mae`. Both are provided because the paper reports both.

    Args:
        maps: Maps m (B, H, W) in [0, 1].
        mask: Object masks g (B, H, W).
        void: Pixels that are ignored, (B, H, W) bool.

    Returns:
        Accuracy (B,) in [0, 1]; NaN where the object mask is empty.
    """
    m, g, valid = _pixels(maps, mask, void)
    return _where_known(pixel_sum((m * g + (1 - m) * (1 - g)) * valid) / pixel_sum(valid), g)


def soft_iou(maps: Tensor, mask: Tensor, void: Tensor | None = None) -> Tensor:
    """Sum of min(m, g) divided by sum of max(m, g) over pixels, for maps m and object masks g.

    Args:
        maps: Maps m (B, H, W) in [0, 1].
        mask: Object masks g (B, H, W).
        void: Pixels that are ignored, (B, H, W) bool.

    Returns:
        Overlap (B,) in [0, 1]; NaN where the object mask is empty.
    """
    m, g, valid = _pixels(maps, mask, void)
    inter, union = pixel_sum(torch.minimum(m, g) * valid), pixel_sum(torch.maximum(m, g) * valid)
    return _where_known(inter / union, g)


def mae(maps: Tensor, mask: Tensor, void: Tensor | None = None) -> Tensor:
    """Mean of |m - g| over pixels, for maps m and object masks g.

    Args:
        maps: Maps m (B, H, W) in [0, 1].
        mask: Object masks g (B, H, W).
        void: Pixels that are ignored, (B, H, W) bool.

    Returns:
        Error (B,) in [0, 1]; NaN where the object mask is empty.
    """
    m, g, valid = _pixels(maps, mask, void)
    return _where_known(pixel_sum((m - g).abs() * valid) / pixel_sum(valid), g)


def _pixels(maps: Tensor, mask: Tensor, void: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, masks without void pixels, and pixel weights (0 if void), all (B, H, W) float64."""
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
    """Soft pixel accuracy, see `soft_accuracy`; images with an empty object mask have no value.

    Range: [0, 1].

    Cost: no forward passes.

    Blind to: whether the classifier uses the object at all. A map of what it really uses, such as
    the background, scores badly. An empty map gets the share of the background.

    Source: NN-Explainer (Stalder et al., NeurIPS 2022), section 4.3.
    """

    names = ("SoftAccuracy",)
    needs = ("maps", "mask")
    optional = ("void",)
    wants_unit_maps = True

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Accuracy (B,) of maps (B, H, W) in [0, 1]."""
        return {"SoftAccuracy": soft_accuracy(maps, mask, void)}


class SoftIoU(PerImageMetric):
    """Soft intersection over union, see `soft_iou`; images with an empty mask have no value.

    Range: [0, 1].

    Cost: no forward passes.

    Blind to: whether the classifier uses the object at all. A map of what it really uses, such as
    the background, scores badly.

    Source: NN-Explainer (Stalder et al., NeurIPS 2022), section 4.3.
    """

    names = ("SoftIoU",)
    needs = ("maps", "mask")
    optional = ("void",)
    wants_unit_maps = True

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Overlap (B,) of maps (B, H, W) in [0, 1]."""
        return {"SoftIoU": soft_iou(maps, mask, void)}


class MAE(PerImageMetric):
    """Mean absolute error, see `mae`; images with an empty object mask have no value.

    Range: [0, 1].

    Cost: no forward passes.

    Blind to: whether the classifier uses the object at all. A map of what it really uses, such as
    the background, scores badly. An empty map gets the share of the object.

    Source: NN-Explainer (Stalder et al., NeurIPS 2022), section 4.3.
    """

    names = ("MAE",)
    needs = ("maps", "mask")
    optional = ("void",)
    wants_unit_maps = True
    higher_is_better = False

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Error (B,) of maps (B, H, W) in [0, 1]."""
        return {"MAE": mae(maps, mask, void)}
