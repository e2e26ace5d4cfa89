"""The harmonic fill: missing pixels as a smooth membrane that is held by the kept ones."""

import torch
from torch import Tensor
from torch.nn import functional as F

SWEEPS = 8
SMOOTH = 0.99  # the Chebyshev acceleration reaches errors that a sweep multiplies by up to this


def harmonic(
    images: Tensor, masks: Tensor, sweeps: int = SWEEPS, mean: Tensor | None = None
) -> Tensor:
    """Images (B, 3, H, W) whose missing pixels are about the mean of their direct neighbors.

    This approximates the solution of the discrete Laplace equation. Neighbors outside the image do
    not count, so that the border reflects. The kept pixels are averaged to a pyramid of halved
    resolutions, down to a single pixel. On the way back, each level starts from the interpolated
    coarser one and is relaxed by a few Jacobi sweeps with Chebyshev acceleration. Kept pixels stay
    as they are, and an image does not depend on the others of its batch. Everything runs on the
    device of the images, at least in float32.

    Args:
        images: Images in [0, 1], of any size. Their missing pixels are not read.
        masks: Keep masks (B, H, W). Pixels of at least 0.5 are kept, the others are missing.
        sweeps: Number of Jacobi sweeps at each level of the pyramid. More of them come closer to
            the solution.
        mean: Color (1, 3, 1, 1) of images that keep no pixel. By default, they become gray, 0.5.

    Raises:
        ValueError: If `masks` have another size than the images, or `sweeps` is negative.

    Example:
        >>> image = torch.tensor([[0.2, 0.0, 0.0, 0.8]]).expand(1, 3, 1, 4)
        >>> harmonic(image, torch.tensor([[[1, 0, 0, 1]]]), sweeps=100)[0, 0]
        tensor([[0.2000, 0.4000, 0.6000, 0.8000]])
    """
    if masks.shape != (len(images), *images.shape[-2:]):
        raise ValueError(
            f"masks must be (B, H, W) of the images {tuple(images.shape)}, got {tuple(masks.shape)}"
        )
    if sweeps < 0:
        raise ValueError(f"sweeps must be at least 0, got {sweeps}")
    kept = (masks >= 0.5)[:, None]
    dtype = torch.promote_types(images.dtype, torch.float32)
    # A missing pixel may be NaN, which a product with 0 would keep.
    known = images.to(dtype).where(kept, 0)
    shares = kept.to(dtype)
    levels = [(known, shares)]
    while max(known.shape[-2:]) > 1:
        sums, shares = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (known * shares, shares))
        # The last row or column of an odd size averages fewer pixels, in sums and shares alike.
        known, shares = sums / shares.clamp_min(1e-6), shares.gt(0).to(dtype)
        levels.append((known, shares))
    color = torch.full_like(known, 0.5) if mean is None else mean.to(known)
    filled = known.where(shares > 0, color)
    for known, shares in reversed(levels[:-1]):
        height, width = known.shape[-2:]
        finer = F.interpolate(filled, scale_factor=2, mode="bilinear")[..., :height, :width]
        filled = _relaxed(known, shares, finer, sweeps)
    # Acceleration may overshoot slightly.
    return images.where(kept, filled.clamp(0, 1).to(images.dtype))


def _relaxed(known: Tensor, shares: Tensor, start: Tensor, sweeps: int) -> Tensor:
    """Known pixels, and the others after accelerated Jacobi sweeps from `start`."""
    weights = (1 - shares) / _neighbors(torch.ones_like(shares[:1])).clamp_min(1)
    filled = before = known + (1 - shares) * start
    step = 1.0
    for sweep in range(sweeps):
        swept = torch.addcmul(known, weights, _neighbors(filled))
        filled, before = before.lerp(swept, step), filled
        step = 1 / (1 - SMOOTH**2 * step / (2 if sweep == 0 else 4))
    return filled


def _neighbors(planes: Tensor) -> Tensor:
    """Sum over the direct neighbors inside the image."""
    sums = torch.zeros_like(planes)
    sums[..., 1:, :] += planes[..., :-1, :]
    sums[..., :-1, :] += planes[..., 1:, :]
    sums[..., 1:] += planes[..., :-1]
    sums[..., :-1] += planes[..., 1:]
    return sums
