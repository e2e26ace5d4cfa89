"""Optimizers and learning-rate schedules."""

import math
from typing import Literal, TypedDict

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, StepLR


class OptimizerOptions(TypedDict, total=False):
    """How a network is trained.

    Args:
        name: Optimizer. "adamw", which is Adam if the weight decay is 0; "sgd", with a momentum of
            0.9; or "prodigy", which finds its own learning rate.
        lr: Learning rate of AdamW and SGD: the highest one of a schedule.
        weight_decay: Weight decay, decoupled from the gradient except for SGD.
        schedule: Learning-rate schedule. "constant"; "cosine": linear warm-up over the first 5 % of
            the steps, then cosine to 0, step by step; "linear": linear warm-up over the first 20 %
            of the steps, then linear to 0, step by step; "step": a tenth of the rate after every
            `anneal_epochs` epochs; "annealing": cosine over `anneal_epochs` epochs to 1e-6 (for
            Prodigy to 1e-6 of the rate it finds), epoch by epoch.
        anneal_epochs: Epochs of the schedule "annealing", and of each step of "step".
    """

    name: Literal["adamw", "sgd", "prodigy"]
    lr: float
    weight_decay: float
    schedule: Literal["constant", "cosine", "linear", "step", "annealing"]
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

    Raises:
        ValueError: If an option is out of range.
    """
    _check(options)
    learned = [p for p in module.parameters() if p.requires_grad]
    lr, weight_decay = options["lr"], options["weight_decay"]
    optimizer: torch.optim.Optimizer
    if options["name"] == "prodigy":
        from prodigyopt import Prodigy

        optimizer = Prodigy(learned, lr=1.0, weight_decay=weight_decay)
    elif options["name"] == "sgd":
        optimizer = torch.optim.SGD(learned, lr=lr, momentum=0.9, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=weight_decay)
    schedule, epochs = options["schedule"], options["anneal_epochs"]
    if schedule == "constant":
        return {"optimizer": optimizer}
    scheduler: LRScheduler
    if schedule in ("cosine", "linear"):
        total = int(module.trainer.estimated_stepping_batches)
        factor = warmup_cosine if schedule == "cosine" else warmup_linear
        scheduler = LambdaLR(optimizer, lambda step: factor(step, total))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
    if schedule == "step":
        scheduler = StepLR(optimizer, epochs, gamma=0.1)
    else:
        scheduler = CosineAnnealingLR(optimizer, epochs, eta_min=1e-6)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


def _check(options: OptimizerOptions) -> None:
    """Checks the numbers, for which torch raises errors of other names, or divides by zero."""
    for name, least in (("lr", 0.0), ("weight_decay", 0.0), ("anneal_epochs", 1)):
        value = options[name]  # type: ignore[literal-required]
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not (known and math.isfinite(value) and value >= least):
            raise ValueError(f"optimizer.{name} must be at least {least:g}, got {value!r}")
    if not isinstance(options["anneal_epochs"], int):
        epochs = options["anneal_epochs"]
        raise ValueError(f"optimizer.anneal_epochs must be a whole number, got {epochs!r}")


def warmup_linear(step: int, total: int, warmup: float = 0.2) -> float:
    """Learning-rate factor: linear to 1 over the first `warmup` of `total` steps, then to 0.

    Example:
        >>> [round(warmup_linear(s, 100), 2) for s in (0, 19, 20, 60, 100)]
        [0.05, 1.0, 1.0, 0.5, 0.0]
    """
    start = max(1, int(warmup * total))
    if step < start:
        return (step + 1) / start
    return max(0.0, (total - step) / max(1, total - start))


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
