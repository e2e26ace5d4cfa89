"""Features of a layer as channels by positions, whatever the layout, and their statistics."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from explainers.explanandum.layouts import Layout
from explainers.functional.planes import resize

Grid = tuple[int, int]  # rows and columns of a layer's map


def to_neurons(output: Tensor, layout: Layout, shape: tuple[int, ...]) -> tuple[Tensor, Grid]:
    """Copy (B, C, P) of maps or tokens in float32, and the grid (h, w) of its last h * w positions.

    Args:
        output: Output of a layer: maps (B, C, h, w) or (B, h, w, C), or tokens (B, P, C), the first
            of which may not belong to a position of the image.
        layout: Layout of the layer.
        shape: Shape (B, 3, H, W) of the images.

    Raises:
        ValueError: If the output does not have this layout.
    """
    maps = layout.to_maps(output, shape)
    neurons = output.mT if layout.kind == "tokens" else maps.flatten(2)
    return neurons.to(torch.float32, copy=True), (maps.shape[-2], maps.shape[-1])


def from_neurons(neurons: Tensor, output: Tensor, layout: Layout) -> Tensor:
    """Neurons (B, C, P) in the form of the layer's `output`: the inverse of `to_neurons`."""
    last = layout.kind != "maps"
    return (neurons.mT if last else neurons).reshape(output.shape).to(output)


def on_map(neurons: Tensor, grid: Grid, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Neurons (B, C, P) after `change` is applied to their maps (B, C, h, w).

    Positions in front of the maps, such as those of a class token, are left unchanged.
    """
    first = neurons.shape[2] - grid[0] * grid[1]
    maps = change(neurons[:, :, first:].reshape(*neurons.shape[:2], *grid))
    return torch.cat([neurons[:, :, :first], maps.flatten(2)], dim=2)


class FeatureStatistics(nn.Module):
    """Mean and standard deviation of a layer's features over images, updated batch by batch.

    They are computed in float64 by Welford's updates, in the form of Chan, Golub and LeVeque (1979)
    for batches. Features are neurons (B, C, P), see `to_neurons`.
    """

    images: Tensor  # number of images seen
    mean: Tensor  # (C, P)
    squares: Tensor  # sums of the squared distances to the mean, (C, P)
    nonzero: Tensor  # number of images in which the feature was not 0, (C, P)
    lowest: Tensor  # smallest of all features
    grid: Tensor  # rows and columns of the maps

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("images", torch.tensor(0))
        for name in ("mean", "squares", "nonzero"):
            self.register_buffer(name, torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("lowest", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("grid", torch.zeros(2, dtype=torch.int64))

    def update(self, neurons: Tensor, grid: Grid) -> None:
        """Adds the neurons (B, C, P) of a batch.

        Raises:
            ValueError: If their shape or grid differs from those of earlier batches.
        """
        values = neurons.double()
        if not self.images:
            self.mean, self.squares, self.nonzero = values.new_zeros(3, *values.shape[1:])
            self.grid = torch.tensor(grid, device=values.device)
        elif self.mean.shape != values.shape[1:] or tuple(self.grid.tolist()) != grid:
            raise ValueError(
                f"the statistics are of {tuple(self.mean.shape)} features on a grid of "
                f"{tuple(self.grid.tolist())}, got {tuple(values.shape[1:])} on {grid}: "
                "take images of one size"
            )
        seen, mean = int(self.images), values.mean(dim=0)
        change, weight = mean - self.mean, len(values) / (seen + len(values))
        self.mean = self.mean + weight * change
        own = (values - mean).square().sum(dim=0)
        self.squares = self.squares + own + weight * seen * change.square()
        self.nonzero = self.nonzero + (values != 0).sum(dim=0)
        self.lowest = torch.minimum(self.lowest, values.min())
        self.images = self.images + len(values)

    def read(self, grid: Grid, least_std: float) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation and activity (C, P) on a grid, in float32.

        At least two images are needed. The standard deviation is the unbiased one, and at least
        `least_std`. The activity is 1 for neurons that were not 0 in more than 1 % of the images,
        and 0 for the others. If the grid differs from that of the images, the statistics are
        resized bilinearly.
        """
        std = (self.squares / (self.images - 1)).sqrt()
        known = torch.stack([self.mean, std, self.nonzero / self.images])
        if grid != tuple(self.grid.tolist()):
            own = (int(self.grid[0]), int(self.grid[1]))
            known = on_map(known, own, lambda maps: resize(maps, grid))
        mean, std, active = known.float()
        return mean, std.clamp(min=least_std), (active > 0.01).float()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, own in list(self.named_buffers()):  # allocate: the sizes depend on the layer
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, own.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
