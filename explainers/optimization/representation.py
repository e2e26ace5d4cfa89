"""Representations and class scores that the methods of the NEM family share."""

import warnings
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum.representations import pooled, representation, similarity

__all__ = [
    "asks_for_another_class",
    "pooled",
    "representation",
    "similarity",
    "target_probabilities",
]


def target_probabilities(
    probabilities: Tensor, classes: Tensor, loss: Literal["row", "crossed"] = "row"
) -> Tensor:
    """Probabilities that enter the losses, from probabilities (N, K) and one class (N,) per image.

    Args:
        probabilities: Probabilities (N, K) of all classes.
        classes: Class of each image, (N,) int64.
        loss: Selection of the probabilities. "row": that of each image's own class, (N,).
            "crossed": those of the classes of all images, for every image, (N, N). This is what the
            released code of Ra-NEM and NEMt does. An image is then also pushed toward every other
            class of the batch.
    """
    if loss == "crossed":
        return probabilities[:, classes]
    return probabilities.gather(1, classes.unsqueeze(1)).squeeze(1)


def asks_for_another_class(method: str, logits: Tensor, targets: Tensor) -> bool:
    """Whether targets (B, K) differ from the top class of logits (B, K), with a warning if so."""
    predicted = F.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
    if other := bool((targets != predicted).any()):
        warnings.warn(
            f"{method} explains the predicted class only: it was asked for another class, or for "
            "several, and gives the map of the predicted one",
            stacklevel=4,  # the caller of attribute, beyond the door
        )
    return other
