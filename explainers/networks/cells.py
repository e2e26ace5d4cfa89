"""A small network on the features of all stages, with one output for each cell of a grid."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import Explanandum, layouts
from explainers.functional.losses import widen
from explainers.networks.unet import in_dtype_of

HEADS = 4


class CellOptions(TypedDict, total=False):
    """Options of `CellNetwork`, which documents them."""

    width: int
    depth: int


class CellNetwork(nn.Module):
    """Values (B, outputs, grid^2) of the cells of a grid, from the explanandum's feature pyramid.

    The features of every level are averaged over the cells, scaled by a batch norm and reduced to
    the same number of channels. Their sum and an embedding of the position are the tokens of a
    small transformer, so that the value of a cell can depend on all others. The values are all 0 at
    first.

    Args:
        channels: Number of channels of each level of the pyramid.
        grid: Number of rows and of columns of the grid.
        outputs: Number of values of each cell.
        width: Number of channels inside, a multiple of 4.
        depth: Number of blocks of the transformer.

    Raises:
        ValueError: If `width` is no multiple of 4, or `depth` is negative.
    """

    def __init__(
        self, channels: Sequence[int], grid: int, outputs: int, width: int = 64, depth: int = 2
    ) -> None:
        super().__init__()
        if width < HEADS or width % HEADS or depth < 0:
            raise ValueError(
                f"expected a width that is a multiple of {HEADS} and a depth >= 0, "
                f"got {width} and {depth}"
            )
        self.grid = grid
        # The features of a classifier may have any scale.
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in channels)
        self.reduce = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.positions = nn.Parameter(0.5 * torch.randn(grid * grid, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Values (B, outputs, grid^2), row by row, at least in float32.

        Args:
            features: Levels (B, C_i, h_i, w_i) of the feature pyramid, from shallow to deep.
        """
        tokens: Tensor = self.positions
        for norm, reduce, level in zip(self.norms, self.reduce, features, strict=True):
            pooled = F.adaptive_avg_pool2d(level, (self.grid, self.grid))
            tokens = tokens + reduce(norm(in_dtype_of(self.head.weight, pooled))).flatten(2).mT
        for block in self.blocks:
            tokens = block(tokens)
        return widen(self.head(self.norm(tokens))).mT


class Block(nn.Module):
    """A block of a transformer, with norms in front of the attention and of the layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the shape of the input (B, N, width)."""
        seen = self.first_norm(tokens)
        tokens = tokens + self.attention(seen, seen, seen, need_weights=False)[0]
        changed: Tensor = tokens + self.layers(self.second_norm(tokens))
        return changed


def cell_network(
    explanandum: Explanandum, grid: int, outputs: int, options: CellOptions
) -> CellNetwork:
    """A network that fits the feature pyramid of an explanandum, found with one blank image."""
    with layouts.trying(explanandum):
        blank = explanandum.mean.expand(1, 3, *explanandum.input_size)
        pyramid = explanandum.features(blank)
    return CellNetwork([level.shape[1] for level in pyramid], grid, outputs, **options)
