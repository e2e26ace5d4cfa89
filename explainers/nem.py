"""What the methods of the NEM family share: representations, class scores, optimisers."""

import warnings
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from explainers import features
from explainers.explanandum import Explanandum


def check_choices(module: LightningModule) -> None:
    """Raise a ValueError unless every Literal argument of a method has one of its values."""
    given: dict[str, Any] = dict(module.hparams)
    for name, hint in get_type_hints(type(module).__init__).items():
        if get_origin(hint) is Literal and given[name] not in get_args(hint):
            raise ValueError(f"{name} must be one of {get_args(hint)}, got {given[name]!r}")


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
        with features.recorded(explanandum.model, [layer]) as outputs:
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


def pick(probabilities: Tensor, classes: Tensor, loss: Literal["row", "crossed"] = "row") -> Tensor:
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


def optimizers(
    module: nn.Module,
    name: Literal["prodigy", "adamw"],
    lr: float,
    weight_decay: float,
    anneal_epochs: int,
) -> OptimizerLRScheduler:
    """An optimiser of what learns, and cosine annealing by epoch.

    Args:
        module: Its parameters that require gradients learn.
        name: "prodigy", which finds its own learning rate, or "adamw".
        lr: Learning rate of AdamW; Prodigy does not use it.
        weight_decay: Decoupled weight decay.
        anneal_epochs: Epochs until the rate has fallen to 1e-6 (for Prodigy: to 1e-6 of what it
            finds). The papers train for 10 and anneal over 20, so they end at half the rate.

    Raises:
        ValueError: If the name is unknown.
    """
    learned = [p for p in module.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if name == "prodigy":
        from prodigyopt import Prodigy

        optimizer = Prodigy(learned, lr=1.0, weight_decay=weight_decay)
    elif name == "adamw":
        optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=weight_decay)
    else:
        raise ValueError(f"optimizer must be 'prodigy' or 'adamw', got {name!r}")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, anneal_epochs, eta_min=1e-6)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}
