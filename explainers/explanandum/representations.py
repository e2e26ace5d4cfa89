"""Vectors that a layer of a classifier makes of images, and how alike they are."""

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum, taps


def representation(explanandum: Explanandum, images: Tensor, layer: int | str) -> Tensor:
    """Output (B, C) of a layer for given images, averaged over positions.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        layer: Level of the feature pyramid, with -1 for the deepest, or name of a module whose
            output is a vector (B, C), tokens (B, N, C) or maps (B, C, h, w). For a plain ViT, whose
            levels are resized copies, a named layer is cheaper.

    Raises:
        ValueError: If there is no such module or level, or its output has another shape.
    """
    if isinstance(layer, str):
        with taps.recorded(explanandum.model, [layer]) as outputs:
            explanandum(images)
        known = explanandum.layers.get(layer)
        if known and known.layout and known.layout.kind == "channels_last":
            return pooled(outputs[layer].movedim(-1, 1))
        return pooled(outputs[layer])
    pyramid = explanandum.features(images)
    if not -len(pyramid) <= layer < len(pyramid):
        raise ValueError(f"layer {layer} is none of the {len(pyramid)} levels of the pyramid")
    return pooled(pyramid[layer])


def pooled(output: Tensor) -> Tensor:
    """Vectors (B, C): the mean over tokens (B, N, C) or over maps (B, C, h, w)."""
    if output.ndim not in (2, 3, 4):
        raise ValueError(f"expected (B, C), (B, N, C) or (B, C, h, w), got {tuple(output.shape)}")
    return output if output.ndim == 2 else output.mean(dim=1 if output.ndim == 3 else (2, 3))


def similarity(found: Tensor, wanted: Tensor) -> Tensor:
    """Similarity (N,) in [0, 1] of pairs of representations (N, C): (1 + cosine) / 2."""
    wide = torch.promote_types(found.dtype, torch.float32)
    return (1 + F.cosine_similarity(found.to(wide), wanted.to(wide), dim=1)) / 2
