"""Losses and scores of completed images, compared with the originals."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure


def hole_l1(images: Tensor, originals: Tensor, masks: Tensor, scales: int = 1) -> Tensor:
    """Mean absolute difference in the holes of images (B, 3, H, W), summed over resolutions.

    Each image counts alike, whatever the size of its hole. An image without a hole counts 0.

    Args:
        images: Completed images (B, 3, H, W), equal to the originals where pixels are kept.
        originals: Original images (B, 3, H, W).
        masks: Keep masks (B, H, W) of 0 and 1.
        scales: Number of resolutions: the full one, and each of the others half the one before.

    Example:
        >>> masks = torch.tensor([[[1.0, 0.0]]])
        >>> hole_l1(torch.full((1, 3, 1, 2), 0.75), torch.full((1, 3, 1, 2), 0.5), masks)
        tensor(0.2500)
    """
    missing = (1 - masks)[:, None].to(images)
    gaps, total = (images - originals) * missing, images.new_zeros(())
    for scale in range(scales):
        if scale and min(gaps.shape[-2:]) > 1:
            gaps, missing = F.avg_pool2d(gaps, 2), F.avg_pool2d(missing, 2)
        counts = gaps.shape[1] * missing.sum(dim=(1, 2, 3))
        total = total + (gaps.abs().sum(dim=(1, 2, 3)) / counts.clamp_min(1e-6)).mean()
    return total


def gradient_l1(images: Tensor, originals: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute difference of the gradients of images (B, 3, H, W), per pixel of the holes.

    The gradients are differences of direct neighbors. The arguments are those of `hole_l1`.
    """
    gaps = images - originals
    slopes = sum(gaps.diff(dim=dim).abs().sum(dim=(1, 2, 3)) for dim in (2, 3))
    counts = images.shape[1] * (1 - masks).sum(dim=(1, 2)).clamp_min(1)
    mean: Tensor = (slopes / counts.to(images)).mean()
    return mean


def spectrum_l1(images: Tensor, originals: Tensor) -> Tensor:
    """Mean absolute difference of the Fourier magnitudes of images (B, 3, H, W).

    It asks for as much texture as the original has, but not at the same place.
    """
    sizes = [torch.fft.rfft2(x.float(), norm="ortho").abs() for x in (images, originals)]
    mean: Tensor = (sizes[0] - sizes[1]).abs().mean()
    return mean


def hole_psnr(images: Tensor, originals: Tensor, masks: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in decibels inside the holes, for values in [0, 1].

    It is at most 100 dB, and 100 dB for an image without a hole. The arguments are those of
    `hole_l1`.

    Example:
        >>> masks = torch.tensor([[[1.0, 0.0]]])
        >>> hole_psnr(torch.full((1, 3, 1, 2), 0.6), torch.full((1, 3, 1, 2), 0.5), masks).round()
        tensor([20.])
    """
    missing = (1 - masks)[:, None].to(images)
    squares = ((images - originals).square() * missing).sum(dim=(1, 2, 3))
    counts = images.shape[1] * missing.sum(dim=(1, 2, 3)).clamp_min(1)
    return -10 * (squares / counts).clamp_min(1e-10).log10()


def hole_ssim(images: Tensor, originals: Tensor, masks: Tensor) -> Tensor:
    """Structural similarity (B,), averaged over the pixels of the holes, for values in [0, 1].

    The index of each pixel is that of a Gaussian window of width 1.5 around it, which also contains
    kept pixels. It is 1 for an image without a hole. The arguments are those of `hole_l1`.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity",
    IEEE TIP 2004, by torchmetrics.

    Raises:
        ValueError: If a side has fewer than 6 pixels, half of the window.
    """
    if min(images.shape[-2:]) < 6:
        raise ValueError(
            "structural similarity needs images of at least 6 x 6 pixels, "
            f"got {tuple(images.shape[-2:])}: set a larger image_size"
        )
    _, indices = structural_similarity_index_measure(
        images.float(), originals.float(), data_range=1.0, return_full_image=True
    )
    missing = (1 - masks).to(indices)
    sums = (indices.mean(dim=1) * missing).sum(dim=(1, 2))
    counts = missing.sum(dim=(1, 2))
    return (sums / counts.clamp_min(1)).where(counts > 0, 1)
