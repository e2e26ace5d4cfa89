"""What dashboards show of a fit beside its losses."""

import time
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from explainers.naming import class_path


class Monitor(Callback):
    """Logs the hyper-parameters of a fit, its learning rate, gradient norm and speed.

    The hyper-parameters are the module's complete arguments and, on the command line, the whole
    resolved configuration as `config`. At each logged step there are `optimizer/lr`, the rate of
    that step (of Prodigy: times its own estimate), `optimizer/gradient_norm`, before any clipping,
    and `speed/images_per_second` of all processes, without validation.
    """

    def __init__(self) -> None:
        self._due = False  # whether the figures of this batch reach the loggers
        self._images, self._since = 0, 0.0

    def _restart(self, trainer: Trainer) -> None:
        if trainer.loggers:
            self._images, self._since = 0, time.perf_counter()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the hyper-parameters."""
        if trainer.is_global_zero and trainer.loggers:
            values = hyper_parameters(trainer, pl_module)
            for logger in trainer.loggers:
                logger.log_hyperparams(values)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._restart(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock again after a validation within an epoch."""
        self._restart(trainer)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Logs what the step is made with."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self._due = bool(trainer.loggers) and every > 0 and (trainer.global_step + 1) % every == 0
        if not self._due:
            return
        group = optimizer.param_groups[0]
        rate = float(group["lr"]) * float(group.get("d", 1.0))
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.log_dict(
            {"optimizer/lr": rate, "optimizer/gradient_norm": norm}, on_step=True, on_epoch=False
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the images."""
        self._images += len(batch["image"]) * trainer.world_size
        if self._due:
            speed = self._images / max(time.perf_counter() - self._since, 1e-9)
            pl_module.log("speed/images_per_second", speed, on_step=True, on_epoch=False)
            self._due = False
            self._restart(trainer)


def hyper_parameters(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Class and complete arguments of a module, its classifier's, and the resolved configuration.

    Args:
        trainer: Trainer of the run. The command line has given it its configuration.
        module: Module that runs.
    """
    from lightning.pytorch.cli import SaveConfigCallback

    values = {"class_path": class_path(type(module)), **module.hparams}
    if (explanandum := getattr(module, "explanandum", None)) is not None:
        values["explanandum"] = dict(explanandum.config)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for each in callbacks:
        if isinstance(each, SaveConfigCallback):
            values["config"] = yaml.safe_load(each.parser.dump(each.config, skip_none=False))
    return values
