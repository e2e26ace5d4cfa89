"""Gaussian smoothing of images and maps. The functions differ in how they treat the border."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian(offsets: Tensor, sigma: float, dim: int = 0) -> Tensor:
    """Weights of a Gaussian at distances from its center, with sum 1 along `dim`.

    Example:
        >>> gaussian(torch.tensor([-1.0, 0.0, 1.0]), sigma=1.0)
        tensor([0.2741, 0.4519, 0.2741])
    """
    return (-0.5 * (offsets / sigma) ** 2).softmax(dim=dim)


def blur(images: Tensor, kernel_size: int, sigma: float, mean: Tensor) -> Tensor:
    """Gaussian blur of images (B, C, H, W) that fades to `mean` (1, C, 1, 1) at the border."""
    taps = torch.arange(kernel_size, device=images.device, dtype=images.dtype) - kernel_size // 2
    channels = images.shape[1]
    kernel = gaussian(taps, sigma).expand(channels, 1, 1, -1)
    across = F.conv2d(images - mean, kernel, padding="same", groups=channels)
    return F.conv2d(across, kernel.mT, padding="same", groups=channels) + mean


def kernel_blur(images: Tensor, mean: Tensor, kernel_size: int = 11, sigma: float = 5.0) -> Tensor:
    """RISE's blur of images (B, 3, H, W), which fades to `mean` (1, 3, 1, 1) at the border.

    The images are zero-padded in normalized space. The kernel is a unit impulse in a square of side
    `kernel_size`, filtered by a Gaussian whose tails are mirrored at the edges of the square. It is
    nearly a box: its values are 0.0088 at the center and 0.0077 at the corners.

    Source: Petsiuk et al., "RISE", BMVC 2018, the released evaluation code.
    """
    kernel = _mirrored_gaussian(kernel_size, sigma).to(images).expand(3, 1, 1, -1)
    across = F.conv2d(images - mean.to(images), kernel, padding="same", groups=3)
    return F.conv2d(across, kernel.mT, padding="same", groups=3) + mean.to(images)


def _mirrored_gaussian(size: int, sigma: float) -> Tensor:
    """Centered impulse of odd length `size`, filtered by a Gaussian with mirrored borders.

    The Gaussian is cut off at 4 sigma.

    Example:
        >>> _mirrored_gaussian(11, 5.0)[[0, 5]].square().mul(1e5).round().tolist()
        [774.0, 883.0]
    """
    radius = int(4 * sigma + 0.5)
    taps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = gaussian(taps, sigma)
    reach = torch.arange(size)[:, None] + taps.long()  # (size, taps): inputs of each output
    folded = reach.remainder(2 * size)
    folded = torch.minimum(folded, 2 * size - 1 - folded)
    return (weights * (folded == size // 2)).sum(dim=1).float()


def smooth_inside(maps: Tensor, size: int, sigma: float | None = None) -> Tensor:
    """Smooths maps (B, H, W) by a box of odd side `size`, or by a Gaussian that is cut to it.

    The result is a weighted mean over the pixels inside the image. Pixels outside do not count.

    Example:
        >>> smooth_inside(torch.tensor([[[0.0, 0.0, 6.0]]]), size=3)
        tensor([[[0.0000, 2.0000, 3.0000]]])
    """
    taps = torch.arange(size, device=maps.device) - size // 2
    kernel = gaussian(taps, sigma or math.inf).to(maps)

    def weighted(values: Tensor) -> Tensor:
        across = F.conv2d(values, kernel.view(1, 1, 1, -1), padding="same")
        return F.conv2d(across, kernel.view(1, 1, -1, 1), padding="same")

    return (weighted(maps[:, None]) / weighted(torch.ones_like(maps[:1, None])))[:, 0]


def smooth_mirrored(maps: Tensor, sigma: float) -> Tensor:
    """Smooths maps (..., h, w) by a Gaussian cut off at 2 sigma, with mirrored borders.

    Constant maps stay as they are, and `sigma` = 0 changes nothing.
    """
    if sigma == 0:
        return maps
    down, across = (_mirroring(length, sigma).to(maps) for length in maps.shape[-2:])
    return down @ maps @ across.mT


def _mirroring(length: int, sigma: float) -> Tensor:
    """Matrix (length, length) that smooths a row, mirrored at its first and last position."""
    radius, period = round(2 * sigma), max(1, 2 * (length - 1))
    taps = torch.arange(-radius, radius + 1)
    folded = (torch.arange(length)[:, None] + taps).remainder(period)
    places = F.one_hot(torch.minimum(folded, period - folded), length)  # (length, taps, length)
    weights = gaussian(taps, sigma)
    return (weights[:, None] * places).sum(dim=1)
