"""Ordered dither patterns."""

import torch
from torch import Tensor

BAYER = ((0, 8, 2, 10), (12, 4, 14, 6), (3, 11, 1, 9), (15, 7, 13, 5))


def bayer(height: int, width: int) -> Tensor:
    """The 4 x 4 Bayer matrix, repeated over (height, width), with values from -0.5 to 0.5.

    Added to a map, it spreads the pixels of equal values that are ranked first: of each 4 x 4
    pixels, no two that are neighbors come one after the other.

    Example:
        >>> (15 * (bayer(2, 5) + 0.5)).round().int().tolist()
        [[0, 8, 2, 10, 0], [12, 4, 14, 6, 12]]
    """
    pattern = torch.tensor(BAYER) / 15 - 0.5
    return pattern.repeat(-(-height // 4), -(-width // 4))[:height, :width]
