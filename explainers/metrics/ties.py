"""Orders of the pixels of a map in which no two are equal."""

import torch
from torch import Tensor

from explainers.metrics.base import exact


def gaussian_ranks(maps: Tensor) -> Tensor:
    """Ranks 0 to HW - 1 of the pixels of maps (B, H, W); equal pixels rank higher near the center.

    The order is that of the map plus an infinitesimally small Gaussian at the center of the image.
    """
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in maps.shape[1:])
    distance = ((rows / maps.shape[1]) ** 2)[:, None] + (columns / maps.shape[2]) ** 2
    outer = distance.flatten().argsort(descending=True, stable=True)
    flat = exact(maps).flatten(1)
    order = outer[flat[:, outer].argsort(dim=1, stable=True)]
    places = torch.arange(flat.shape[1], dtype=torch.float64).expand_as(flat)
    return torch.zeros_like(flat).scatter_(1, order, places).view(maps.shape)
