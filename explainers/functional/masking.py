"""Masking with keep masks: 1 keeps a pixel, 0 replaces it by a fill."""

import torch
from torch import Tensor


def blend(images: Tensor, masks: Tensor, fill: Tensor) -> Tensor:
    """Images (B, 3, H, W) where masks (B, H, W) are 1, and `fill` where they are 0."""
    return fill + (images - fill) * masks.unsqueeze(1)


def merge(masks: Tensor, targets: Tensor) -> Tensor:
    """Pixelwise maximum of masks (B, K, H, W) over the true targets (B, K), or 0 without any."""
    floor = torch.zeros((), dtype=masks.dtype, device=masks.device)
    return torch.where(targets[:, :, None, None], masks, floor).amax(dim=1)


def minmax(maps: Tensor) -> Tensor:
    """Scales each map (B, H, W) to [0, 1]. A constant map becomes 0.

    Pixels that are not finite stay as they are, and the others are scaled among themselves.

    Example:
        >>> minmax(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])).tolist()
        [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    finite = maps.isfinite()
    low = maps.where(finite, torch.inf).amin(dim=(-2, -1), keepdim=True)
    span = maps.where(finite, -torch.inf).amax(dim=(-2, -1), keepdim=True) - low
    scaled = torch.where(
        span > 0, (maps - low) / span.where(span > 0, torch.ones_like(span)), torch.zeros_like(maps)
    )
    return scaled.where(finite, maps)


def places(images: Tensor, known: Tensor) -> list[int]:
    """Position of each image (3, H, W) among known ones, by its values; -1 if it is not there."""
    return [
        next((i for i, other in enumerate(known) if torch.equal(image, other)), -1)
        for image in images
    ]
