"""Intermediate features of a classifier as a pyramid of maps, for CNNs and for ViTs."""

import itertools
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Level = TypeVar("Level")


def as_map(features: Tensor, aspect: float) -> Tensor:
    """Tokens (B, prefix + h * w, C) as maps (B, C, h, w) with h / w close to the given aspect.

    The number of prefix tokens, at most 5, is found from the number of tokens. Maps are returned
    unchanged.

    Raises:
        ValueError: If no such grid exists.
    """
    if features.ndim == 4:
        return features
    count = features.shape[1]
    for prefix in range(6):  # class, distillation and register tokens
        height = round(((count - prefix) * aspect) ** 0.5)
        if (
            height
            and (count - prefix) % height == 0
            and abs(height**2 / (count - prefix) / aspect - 1) < 0.05
        ):
            return features[:, prefix:].mT.reshape(*features[:, 0].shape, height, -1)
    raise ValueError(f"cannot lay {count} tokens out as a grid of aspect {aspect:.2f}")


def stages(model: nn.Module, named: list[str] | None) -> list[str]:
    """Names of the modules whose outputs make the pyramid: `named`, or else timm's stages.

    The list is empty if the stages are not known.
    """
    info = [level for level in getattr(model, "feature_info", []) if level["reduction"] >= 2]
    names = [str(level["module"]) for level in info]
    plain = len(names) > 5 and len({level["reduction"] for level in info}) == 1
    return named or (five_of(names) if plain else names)


def five_of(blocks: list[Level]) -> list[Level]:
    """Blocks 2, 4, 6, 8 and 10 of a plain ViT's 12, as published, scaled to other depths."""
    return [blocks[min(len(blocks) - 1, round(len(blocks) * i / 12))] for i in (2, 4, 6, 8, 10)]


def pyramid(levels: list[Tensor], size: torch.Size) -> list[Tensor]:
    """Feature pyramid for images of `size` (H, W): one map per resolution, from shallow to deep.

    See `Explanandum.features_and_logits`.
    """
    if all(a.shape[-1] > b.shape[-1] for a, b in itertools.pairwise(levels)):
        return levels
    if len({f.shape[-2:] for f in levels}) > 1:  # keep the last map of each resolution
        return [
            a
            for a, b in zip(levels, [*levels[1:], None], strict=True)
            if b is None or a.shape != b.shape
        ]
    chosen = five_of(levels)
    sizes = [(-(-size[0] // s), -(-size[1] // s)) for s in (2, 4, 8, 16, 32)]
    return [F.interpolate(f, size=s, mode="nearest") for f, s in zip(chosen, sizes, strict=True)]


class NotDefinedError(ValueError):
    """The method cannot explain this classifier. A comparison shows its figures as missing."""
