"""The network of the evidence explainer: small, on features and gradients of every stage."""

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum.gradients import Evidence, stage_maps, standardise
from explainers.functional.dither import bayer
from explainers.functional.losses import widen

FINER = 4  # the last map is predicted on a grid finer than the features by this factor


class EvidenceOptions(TypedDict, total=False):
    """Options of `EvidenceNetwork`, which documents them."""

    width: int
    tile: int


class EvidenceNetwork(nn.Module):
    """Scores (B, H, W) from the evidence of one or more looks at an image.

    They are the sum of what a `Look` makes of each, divided by the square root of their number. A
    learned periodic pattern, which begins as an ordered dither, is added at the end: it spreads the
    pixels that are shown first over an object.

    Args:
        channels: Number of channels of each stage, from shallow to deep.
        looks: Number of looks.
        width: Number of channels inside.
        tile: Side of the periodic pattern in pixels, a multiple of 4. 0 adds none.

    Raises:
        ValueError: If `width` is no multiple of 4, or `tile` is none.
    """

    def __init__(
        self, channels: Sequence[int], looks: int = 1, width: int = 64, tile: int = 16
    ) -> None:
        super().__init__()
        if width < 4 or width % 4 or tile < 0 or tile % 4:
            raise ValueError(f"expected multiples of 4, got width {width} and tile {tile}")
        self.looks = nn.ModuleList(Look(channels, width) for _ in range(looks))
        self.tile = nn.Parameter(bayer(tile, tile)) if tile else None

    def forward(self, seen: Sequence[Evidence], size: torch.Size) -> Tensor:
        """Scores (B, *size), at least in float32.

        Args:
            seen: Evidence of each look.
            size: Height and width of the images.
        """
        each = [look(evidence, size) for look, evidence in zip(self.looks, seen, strict=True)]
        scores: Tensor = torch.stack(each).sum(dim=0) / math.sqrt(len(each))
        return scores if self.tile is None else scores + _repeated(self.tile, size)


class Look(nn.Module):
    """Scores (B, H, W) from features A, gradients G and their products A * G at five stages.

    The sum over the channels of A * G is the evidence of a stage. Its positive part, standardized,
    is the map of the stage. The scores start as the weighted sum of these maps, which with equal
    weights is `PyramidCAM`, and the network learns what to add, from deep to shallow stages. The
    shallowest stage takes part by its map alone.

    Args:
        channels: Number of channels of each stage, from shallow to deep.
        width: Number of channels inside, a multiple of 4.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        used = list(channels)[1:] or list(channels)
        self.first = len(channels) - len(used)
        self.weights = nn.Parameter(torch.ones(len(channels)))
        self.maps = nn.ModuleList(nn.Conv2d(2, width, 1) for _ in used)
        # The features of a classifier may have any scale; so may those of another data set.
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, affine=False, momentum=0.02) for c in used)
        self.features = nn.ModuleList(nn.Conv2d(c, width, 1) for c in used)
        self.products = nn.ModuleList(_projection(c, width) for c in used)
        self.first_blocks = nn.ModuleList(_block(width) for _ in used)
        self.second_blocks = nn.ModuleList(_block(width) for _ in used)
        self.head = nn.Conv2d(width, 1 + FINER**2, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, evidence: Evidence, size: torch.Size) -> Tensor:
        """Scores (B, *size), at least in float32.

        Args:
            evidence: Features and products of all stages.
            size: Height and width of the images.
        """
        maps = stage_maps(evidence)
        large = [F.interpolate(each, size=size, mode="bilinear") for each in maps]
        start = standardise((torch.cat(large, dim=1) * self.weights[:, None, None]).sum(1, True))
        hidden: Tensor | None = None
        dtype = self.head.weight.dtype
        for i in reversed(range(len(self.maps))):
            stage = i + self.first
            values, products = evidence.values[stage], evidence.products[stage]
            seen = F.adaptive_avg_pool2d(start, (values.shape[-2], values.shape[-1]))
            power = products.square().sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
            scaled = products * (products.shape[1] / power.clamp(min=1e-20)).sqrt()
            z = (
                self.maps[i](torch.cat([maps[stage], seen], dim=1).to(dtype))
                + 0.5 * self.features[i](self.norms[i](values.to(dtype)))
                + self.products[i](scaled.to(dtype))
            )
            if hidden is not None:
                z = z + F.interpolate(hidden, size=z.shape[-2:], mode="bilinear")
            hidden = self.first_blocks[i](z)
            hidden = hidden + self.second_blocks[i](hidden)
        coarse, fine = self.head(hidden).split((1, FINER**2), dim=1)
        for change in (coarse, F.pixel_shuffle(fine, FINER)):
            start = start + F.interpolate(widen(change), size=size, mode="bilinear")
        return start.squeeze(1)


def _projection(channels: int, width: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, width, 1, bias=False)
    nn.init.normal_(layer.weight, std=channels**-0.5)
    return layer


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate", groups=width),
        nn.Conv2d(width, width, 1),
        nn.GroupNorm(4, width),
        nn.SiLU(),
    )


def _repeated(tile: Tensor, size: torch.Size) -> Tensor:
    height, width = size
    side = tile.shape[0]
    return tile.repeat(-(-height // side), -(-width // side))[:height, :width]
