"""Stops a fit before numbers that are not finite reach its weights."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer


class NotFiniteError(ArithmeticError, ValueError):
    """A loss, gradient or weight that is infinite or not a number; its message says which."""


class StayFinite(Callback):
    """Stops a fit with one line before a loss or gradient that is not finite reaches the weights.

    A module may keep the terms of its last loss in a dict `terms`, whose names are then told.
    Losses and gradients are read together, once for each step of the optimizer, because reading
    waits for the GPU. With several processes, all of them stop. Gradients are left to the gradient
    scaler of precision 16-mixed, which skips such a step. A validation loss that is not a number is
    only told: `ModelCheckpoint` takes any other value as better.
    """

    def __init__(self) -> None:
        self.losses: list[dict[str, Tensor]] = []  # terms of the batches since the last step
        self.warned = False

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Keeps the terms of the loss, or the loss itself."""
        self.losses.append(getattr(pl_module, "terms", {"loss": loss.detach()}))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Raises `NotFiniteError` if a loss or a gradient of this step is not finite."""
        losses, self.losses = self.losses, []
        values = [value.detach().float() for terms in losses for value in terms.values()]
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            # The largest size, because a sum of squares overflows earlier.
            values.append(torch.nn.utils.get_total_norm(gradients, float("inf")).float())
        fine = bool(torch.stack([value.isfinite().all() for value in values]).all())
        if trainer.world_size > 1:
            fine = trainer.strategy.reduce_boolean_decision(fine)
        if not fine:
            rate = optimizer.param_groups[0]["lr"]
            raise NotFiniteError(
                f"{_what(losses, pl_module)} after {trainer.global_step} steps, with the learning "
                f"rate {rate:g}; {_rescue(trainer)}"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warns once of a validation loss that is not a number."""
        loss = trainer.callback_metrics.get("val/loss")
        told = self.warned or trainer.sanity_checking
        if loss is not None and not told and bool(loss.isnan()):
            self.warned = True
            rank_zero_warn(
                f"val/loss is nan after {trainer.global_step} steps; the fit goes on, and "
                "ModelCheckpoint takes any other value as better"
            )


def check_weights(module: LightningModule) -> None:
    """Refuses to save a module whose trained weights are not finite.

    Args:
        module: Module that is about to be saved.

    Raises:
        NotFiniteError: If a weight that requires gradients is not finite.
    """
    weights = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    if weights and not bool(torch.stack([w.isfinite().all() for w in weights.values()]).all()):
        bad = [name for name, weight in weights.items() if not weight.isfinite().all()]
        raise NotFiniteError(
            f"weights are not finite ({_few(bad)}), so no checkpoint of them is saved; "
            "lower model.init_args.optimizer.lr"
        )


def _what(losses: list[dict[str, Tensor]], module: LightningModule) -> str:
    """The first terms that are not finite, or else the gradients."""
    for terms in losses:
        bad = [f"{name} is {v.item():g}" for name, v in terms.items() if not v.isfinite()]
        if bad:
            return f"the loss is not finite: {_few(bad)}"
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    return f"the gradients are not finite: {_few(bad) or 'those of another process'}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _rescue(trainer: Trainer) -> str:
    """What can be done, which depends on whether there is a checkpoint."""
    advice = "start again with a lower model.init_args.optimizer.lr"
    saved = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    paths = [path for c in saved for path in (c.last_model_path, c.best_model_path) if path]
    if not paths:
        return f"no checkpoint was saved so far; {advice}"
    # A resumed fit takes its learning rate from the checkpoint.
    return (
        f"the last good checkpoint is {paths[0]}; {advice}, or go on from it with "
        f"--ckpt_path {paths[0]} --trainer.gradient_clip_val 1"
    )
