"""Optimizers and learning-rate schedules."""

from typing import Literal, TypedDict

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler


class OptimizerOptions(TypedDict, total=False):
    """How a network is trained.

    Args:
        name: Optimizer. "adamw", which is Adam if the weight decay is 0, or "prodigy", which finds
            its own learning rate.
        lr: Learning rate of AdamW: the highest one of a schedule.
        weight_decay: Decoupled weight decay.
        schedule: Learning-rate schedule. "constant"; "cosine": linear warm-up over the first 5 % of
            the steps, then cosine to 0, step by step; "annealing": cosine over `anneal_epochs`
            epochs to 1e-6 (for Prodigy to 1e-6 of the rate it finds), epoch by epoch.
        anneal_epochs: Epochs of the schedule "annealing".
    """

    name: Literal["adamw", "prodigy"]
    lr: float
    weight_decay: float
    schedule: Literal["constant", "cosine", "annealing"]
    anneal_epochs: int


ADAM: OptimizerOptions = {
    "name": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "anneal_epochs": 20,
}
# As Ra-NEM and NEMt are trained: for 10 epochs, so that the rate ends at half its highest value.
PRODIGY: OptimizerOptions = {
    "name": "prodigy",
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "schedule": "annealing",
    "anneal_epochs": 20,
}


def configure(module: LightningModule, options: OptimizerOptions) -> OptimizerLRScheduler:
    """An optimizer of all parameters that require gradients, and its schedule.

    Args:
        module: Module that learns; its trainer knows the number of steps.
        options: Complete options.
    """
    learned = [p for p in module.parameters() if p.requires_grad]
    lr, weight_decay = options["lr"], options["weight_decay"]
    optimizer: torch.optim.Optimizer
    if options["name"] == "prodigy":
        from prodigyopt import Prodigy

        optimizer = Prodigy(learned, lr=1.0, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=weight_decay)
    scheduler: LRScheduler
    if options["schedule"] == "constant":
        return {"optimizer": optimizer}
    if options["schedule"] == "cosine":
        total = int(module.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda step: warmup_cosine(step, total))
        interval = "step"
    else:
        scheduler = CosineAnnealingLR(optimizer, options["anneal_epochs"], eta_min=1e-6)
        interval = "epoch"
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


def warmup_cosine(step: int, total: int, warmup: float = 0.05) -> float:
    """Learning-rate factor: linear to 1 over the first `warmup` of `total` steps, then cosine to 0.

    Example:
        >>> [round(warmup_cosine(s, 100), 2) for s in (0, 4, 5, 52, 100)]
        [0.2, 1.0, 1.0, 0.51, 0.0]
    """
    start = max(1, int(warmup * total))
    if step < start:
        return (step + 1) / start
    progress = min(1.0, (step - start) / max(1, total - start))
    return 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))
