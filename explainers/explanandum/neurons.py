"""A layer's features as channels by places, whatever its layout, and their statistics."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from explainers.explanandum import features
from explainers.functional.planes import resize

Grid = tuple[int, int]  # rows and columns of a layer's map


def to_neurons(output: Tensor, aspect: float, channels_last: bool) -> tuple[Tensor, Grid]:
    """Copy of maps or tokens as (B, C, P) float32, and the grid (h, w) of the last h * w places.

    Args:
        output: Maps (B, C, h, w), or (B, h, w, C) if `channels_last`, or tokens (B, P, C), of which
            the first ones may be no places of the image.
        aspect: Height of the images by their width, which tells the grid of tokens.
        channels_last: Of the maps.

    Raises:
        ValueError: If it is neither maps nor tokens.
    """
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the layer must give maps (B, C, h, w) or tokens (B, N, C), got {shape}")
    if output.ndim == 3:
        neurons, maps = output.mT, features.as_map(output[:1], aspect)
    else:
        maps = output.movedim(-1, 1) if channels_last else output
        neurons = maps.flatten(2)
    return neurons.to(torch.float32, copy=True), (maps.shape[-2], maps.shape[-1])


def from_neurons(neurons: Tensor, output: Tensor, channels_last: bool) -> Tensor:
    """Neurons (B, C, P) as what the layer gave, `output`; undoes `to_neurons`."""
    last = output.ndim == 3 or channels_last
    return (neurons.mT if last else neurons).reshape(output.shape).to(output)


def on_map(neurons: Tensor, grid: Grid, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the maps (B, C, h, w) in neurons (B, C, P), and leave the places before them."""
    first = neurons.shape[2] - grid[0] * grid[1]
    maps = change(neurons[:, :, first:].reshape(*neurons.shape[:2], *grid))
    return torch.cat([neurons[:, :, :first], maps.flatten(2)], dim=2)


class FeatureStatistics(nn.Module):
    """Mean and standard deviation of a layer's features over images, batch after batch.

    In float64, by the updates of Welford, for batches those of Chan, Golub and LeVeque (1979).
    Features are neurons (B, C, P), see `to_neurons`.
    """

    images: Tensor  # how many were seen
    mean: Tensor  # (C, P)
    squares: Tensor  # summed squared distances to the mean, (C, P)
    nonzero: Tensor  # how many images had another feature than 0, (C, P)
    lowest: Tensor  # smallest feature of all
    grid: Tensor  # rows and columns

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("images", torch.tensor(0))
        for name in ("mean", "squares", "nonzero"):
            self.register_buffer(name, torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("lowest", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("grid", torch.zeros(2, dtype=torch.int64))

    def update(self, neurons: Tensor, grid: Grid) -> None:
        """Add the neurons (B, C, P) of a batch.

        Raises:
            ValueError: If they are of another shape than those before.
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
        """Mean, standard deviation and activity (C, P) on a grid, float32; at least two images.

        The deviation is unbiased and at least `least_std`. Activity is 1 for neurons that were not
        0 in more than 1 % of the images, else 0. Another grid than the images' is reached by
        bilinear interpolation.
        """
        std = (self.squares / (self.images - 1)).sqrt()
        known = torch.stack([self.mean, std, self.nonzero / self.images])
        if grid != tuple(self.grid.tolist()):
            own = (int(self.grid[0]), int(self.grid[1]))
            known = on_map(known, own, lambda maps: resize(maps, grid))
        mean, std, active = known.float()
        return mean, std.clamp(min=least_std), (active > 0.01).float()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, own in list(self.named_buffers()):  # make room: the size is the layer's
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, own.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
