"""What the methods of the NEM family share: representations and class scores."""

import warnings
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum, taps


def representation(explanandum: Explanandum, images: Tensor, layer: int | str) -> Tensor:
    """What a layer makes of images: its output (B, C), averaged over positions.

    Args:
        explanandum: The classifier.
        images: (B, 3, H, W) in [0, 1].
        layer: A level of the feature pyramid, -1 the deepest, or the name of a module whose output
            is (B, C), tokens (B, N, C) or a map (B, C, h, w). A named layer is cheaper: the levels
            of a plain ViT are resized copies.

    Raises:
        ValueError: If there is no such module or level, or its output has another form.
    """
    if isinstance(layer, str):
        with taps.recorded(explanandum.model, [layer]) as outputs:
            explanandum(images)
        return pooled(outputs[layer])
    pyramid = explanandum.features(images)
    if not -len(pyramid) <= layer < len(pyramid):
        raise ValueError(f"layer {layer} is none of the {len(pyramid)} levels of the pyramid")
    return pooled(pyramid[layer])


def pooled(output: Tensor) -> Tensor:
    """A vector (B, C), the mean of tokens (B, N, C), or of a map (B, C, h, w)."""
    if output.ndim not in (2, 3, 4):
        raise ValueError(f"expected (B, C), (B, N, C) or (B, C, h, w), got {tuple(output.shape)}")
    return output if output.ndim == 2 else output.mean(dim=1 if output.ndim == 3 else (2, 3))


def similarity(found: Tensor, wanted: Tensor) -> Tensor:
    """Similarity (N,) in [0, 1] of representations (N, C): (1 + cosine) / 2."""
    wide = torch.promote_types(found.dtype, torch.float32)
    return (1 + F.cosine_similarity(found.to(wide), wanted.to(wide), dim=1)) / 2


def target_probabilities(
    probabilities: Tensor, classes: Tensor, loss: Literal["row", "crossed"] = "row"
) -> Tensor:
    """What the losses read off probabilities (N, K) for one class (N,) an image.

    "row": each image's own class, (N,). "crossed": the released code of Ra-NEM and NEMt, which
    takes the columns of all images' classes in every row, (N, N), so that an image is also pushed
    towards every other class of the batch.
    """
    if loss == "crossed":
        return probabilities[:, classes]
    return probabilities.gather(1, classes.unsqueeze(1)).squeeze(1)


def asks_for_another_class(method: str, logits: Tensor, targets: Tensor) -> bool:
    """Whether targets (B, K) are not the top class of logits (B, K), with a warning if so."""
    predicted = F.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
    if other := bool((targets != predicted).any()):
        warnings.warn(
            f"{method} explains the predicted class only: it was asked for another class, or for "
            "several, and gives the map of the predicted one",
            stacklevel=3,
        )
    return other
