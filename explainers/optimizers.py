"""Optimisers, learning-rate schedules and the seed of a step."""

from typing import Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn


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


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of a step's randomness on one process: a resumed fit draws what it would have drawn."""
    return hash((seed, step, rank)) & (2**63 - 1)


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
