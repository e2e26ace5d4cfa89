"""Gaussian smoothing of images."""

import torch
from torch import Tensor
from torch.nn import functional as F


def blur(images: Tensor, kernel_size: int, sigma: float, mean: Tensor) -> Tensor:
    """Gaussian blur of images (B, 3, H, W) whose borders fade to `mean` (1, 3, 1, 1)."""
    taps = torch.arange(kernel_size, device=images.device, dtype=images.dtype) - kernel_size // 2
    kernel = (-0.5 * (taps / sigma) ** 2).softmax(dim=0).expand(3, 1, 1, -1)
    across = F.conv2d(images - mean, kernel, padding="same", groups=3)
    return F.conv2d(across, kernel.mT, padding="same", groups=3) + mean


def kernel_blur(images: Tensor, mean: Tensor, kernel_size: int = 11, sigma: float = 5.0) -> Tensor:
    """RISE's blur of images (B, 3, H, W), zero-padded in normalised space: borders fade to `mean`.

    Its kernel is a unit impulse in a square of `kernel_size` filtered by a Gaussian whose tails are
    mirrored at the square's edges, which makes it nearly a box: centre 0.0088, corner 0.0077.

    Source: Petsiuk et al., "RISE", BMVC 2018, the released evaluation code.
    """
    kernel = _mirrored_gaussian(kernel_size, sigma).to(images).expand(3, 1, 1, -1)
    across = F.conv2d(images - mean.to(images), kernel, padding="same", groups=3)
    return F.conv2d(across, kernel.mT, padding="same", groups=3) + mean.to(images)


def _mirrored_gaussian(size: int, sigma: float) -> Tensor:
    """A centred impulse of odd length `size` filtered by a Gaussian cut at 4 sigma, edges mirrored.

    Example:
        >>> _mirrored_gaussian(11, 5.0)[[0, 5]].square().mul(1e5).round().tolist()
        [774.0, 883.0]
    """
    radius = int(4 * sigma + 0.5)
    taps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = (-0.5 * (taps / sigma) ** 2).softmax(dim=0)
    reach = torch.arange(size)[:, None] + taps.long()  # (size, taps): where each output looks
    folded = reach.remainder(2 * size)
    folded = torch.minimum(folded, 2 * size - 1 - folded)
    return (weights * (folded == size // 2)).sum(dim=1).float()
