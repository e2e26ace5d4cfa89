"""Boxes around the brightest part of a map, and the overlap of boxes."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from explainers.metrics.base import exact, pixel_sum


def tight_boxes(kept: Tensor) -> Tensor:
    """Smallest boxes (..., 4) int64 around the true pixels of masks (..., H, W) bool.

    A box is (left, top, right, bottom), where right and bottom are the first column and row outside
    the box. Masks without true pixels give zeros.

    Example:
        >>> tight_boxes(torch.tensor([[False, False, True], [False, True, False]])).tolist()
        [1, 0, 3, 2]
    """
    columns, rows = kept.any(dim=-2), kept.any(dim=-1)
    starts = [line.int().argmax(dim=-1) for line in (columns, rows)]
    ends = [line.shape[-1] - line.flip(-1).int().argmax(dim=-1) for line in (columns, rows)]
    return torch.stack([*starts, *ends], dim=-1) * rows.any(dim=-1, keepdim=True)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (...) float64 of broadcast boxes (..., 4); empty boxes give 0.

    Example:
        >>> box_iou(torch.tensor([0, 0, 2, 2]), torch.tensor([1, 0, 3, 2])).item()  # 2 / 6
        0.3333333333333333
    """
    a, b = a.double(), b.double()
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp_min(0).prod(dim=-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    return torch.where(union > 0, inter / union.where(union > 0, torch.ones_like(union)), 0.0)


def map_boxes(
    maps: Tensor,
    alphas: Sequence[float],
    relative_to: Literal["max", "mean"] = "max",
    largest_component: bool = False,
) -> Tensor:
    """Boxes around the pixels whose value is at least alpha times the map's maximum or mean.

    Values below 0 count as 0. A map without positive values gives the whole image. The brightest
    pixel is always inside the box, even if alpha times the mean exceeds its value.

    Args:
        maps: Maps (B, H, W).
        alphas: Thresholds >= 0.
        relative_to: Statistic of the map that alpha multiplies.
        largest_component: Whether the box encloses only the largest 4-connected component.

    Returns:
        Boxes (B, len(alphas), 4) int64 on the CPU, as in `tight_boxes`.
    """
    maps = exact(maps).clamp_min(0)
    top = maps.amax(dim=(1, 2))
    unit = top if relative_to == "max" else pixel_sum(maps) / (maps.shape[1] * maps.shape[2])
    boxes = []
    for alpha in alphas:
        kept = maps >= torch.minimum(alpha * unit, top)[:, None, None]
        boxes.append(tight_boxes(_largest(kept) if largest_component else kept))
    return torch.stack(boxes, dim=1)


def _largest(kept: Tensor) -> Tensor:
    from scipy import ndimage

    found = []
    for plane in kept.numpy():
        labels, _ = ndimage.label(plane)
        found.append(labels == np.bincount(labels.flat)[1:].argmax() + 1)
    return torch.from_numpy(np.stack(found))
