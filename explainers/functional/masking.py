"""Masking with keep masks: 1 keeps a pixel, 0 replaces it by a fill."""

import torch
from torch import Tensor

from explainers.functional.content import Content, pixels
from explainers.functional.fills import Inpainted


def blend(images: Tensor, masks: Tensor, fill: Content) -> Tensor:
    """Images (B, 3, H, W) where masks (B, H, W) are 1, and `fill` where they are 0.

    An inpainter completes the pixels whose mask is at least 0.5. Its fill is a constant in the
    gradient by the masks. A kept pixel is its own fill, so that this gradient would be 0 there:
    instead, it is that of a blend with the color of images that keep no pixel.
    """
    filled = pixels(fill, images, masks)
    shown = filled + (images - filled) * masks.unsqueeze(1)
    if isinstance(fill, Inpainted) and fill.color is not None and masks.requires_grad:
        slope = (images - fill.color.to(images)) * (masks.detach() >= 0.5).unsqueeze(1)
        shown = shown + slope * (masks - masks.detach()).unsqueeze(1)  # adds 0
    return shown


def merge(masks: Tensor, targets: Tensor) -> Tensor:
    """Pixelwise maximum of masks (B, K, H, W) over the true targets (B, K), or 0 without any.

    A single mask for each image, (B, 1, H, W), is that of every class.
    """
    if masks.shape[1] == 1:
        targets = targets.any(dim=1, keepdim=True)
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


def aggregate(maps: Tensor, how: str) -> Tensor:
    """Pixelwise aggregation of the maps of several runs (R, ...), see SLOC's `aggregation`.

    Example:
        >>> runs = torch.tensor([[1.0, 4.0, 2.0], [4.0, 4.0, -1.0]])
        >>> [aggregate(runs, how).tolist() for how in ("mean", "min", "product")]
        [[2.5, 4.0, 0.5], [1.0, 4.0, -1.0], [2.0, 4.0, 0.0]]
    """
    if how == "mean":
        return maps.mean(dim=0)
    if how == "min":
        return maps.amin(dim=0)
    if how == "product":
        return maps.clamp(min=0).log().mean(dim=0).exp()
    ranked, middle = maps.sort(dim=0).values, len(maps) // 2
    return (ranked[middle] + ranked[(len(maps) - 1) // 2]) / 2
