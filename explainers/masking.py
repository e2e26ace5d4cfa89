"""Keep-sense masking: 1 keeps a pixel, 0 replaces it by a fill."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF


def blend(images: Tensor, masks: Tensor, fill: Tensor) -> Tensor:
    """Keep images (B, 3, H, W) where masks (B, H, W) are 1 and show `fill` (broadcastable) where they are 0."""
    return fill + (images - fill) * masks.unsqueeze(1)


def merge(masks: Tensor, targets: Tensor) -> Tensor:
    """Pixelwise maximum of class masks (B, K, H, W) over the true targets (B, K) -> (B, H, W); no target gives 0."""
    floor = torch.zeros((), dtype=masks.dtype, device=masks.device)
    return torch.where(targets[:, :, None, None], masks, floor).amax(dim=1)


def minmax(maps: Tensor) -> Tensor:
    """Scale each map (B, H, W) to [0, 1]; a constant map becomes 0.

    Example:
        >>> minmax(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])).tolist()
        [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / span.where(span > 0, torch.ones_like(span)), torch.zeros_like(maps))


def blur(images: Tensor, kernel_size: int, sigma: float, mean: Tensor) -> Tensor:
    """Gaussian blur of images (B, 3, H, W) as in normalised space: borders fade to `mean` (1, 3, 1, 1)."""
    padding = kernel_size // 2
    padded = TF.pad(images - mean, [padding] * 4)
    smooth = TF.gaussian_blur(padded, [kernel_size, kernel_size], [sigma, sigma])
    return smooth[..., padding:-padding, padding:-padding] + mean
