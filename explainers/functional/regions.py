"""Partitions of an image into regions: the cells of a grid, and superpixels."""

import numpy as np
import torch
from torch import Tensor


def cell_numbers(height: int, width: int, grid: int) -> Tensor:
    """The cell of each pixel, (height, width) in 0 to grid^2 - 1, row by row.

    Example:
        >>> cell_numbers(2, 5, 2)
        tensor([[0, 0, 0, 1, 1],
                [2, 2, 2, 3, 3]])
    """
    rows, columns = (torch.arange(side) * grid // side for side in (height, width))
    return rows[:, None] * grid + columns


def superpixels(
    image: Tensor, segments: int = 100, compactness: float = 10.0, sigma: float = 0.0
) -> Tensor:
    """The superpixel of each pixel, (H, W) int64 counted from 0, found by SLIC in CIELAB.

    Args:
        image: Image (3, H, W) in [0, 1].
        segments: Approximate number of superpixels.
        compactness: Weight of distances in space against distances in color.
        sigma: Width of the Gaussian that smooths the image first; 0 does not smooth.
    """
    from skimage.segmentation import slic

    labels = slic(
        image.detach().float().permute(1, 2, 0).cpu().numpy(),
        n_segments=segments,
        compactness=compactness,
        sigma=sigma,
        start_label=0,
    )
    numbered = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    return torch.from_numpy(numbered).to(image.device)


def region_means(maps: Tensor, regions: Tensor) -> Tensor:
    """Mean of a map (H, W) in each region, (n,) float64 on the CPU.

    Args:
        maps: Map (H, W).
        regions: Number of the region of each pixel, (H, W) int64 from 0 to n - 1, none left out.

    Example:
        >>> region_means(torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[0, 0, 1]]))
        tensor([2., 5.], dtype=torch.float64)
    """
    places, values = regions.flatten().cpu(), maps.detach().flatten().cpu().double()
    counts = places.bincount()
    return torch.zeros(len(counts), dtype=torch.float64).index_add(0, places, values) / counts
