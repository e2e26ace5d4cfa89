"""Makes a fit that is resumed from any checkpoint go on exactly as if it had not stopped."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from explainers.trainingstate import check_like, check_schedulers, settle_optimizer


class ResumeExactly(Callback):
    """Puts the loops of Lightning where the run was when a checkpoint was saved.

    Lightning 2.6 alone loses its place after a checkpoint that was saved at the last batch of an
    epoch, by the end of an epoch if `max_steps` is given, or within an epoch that `max_steps` cut
    short. A checkpoint says after which batch of which epoch it was saved; from this, the counters
    are set anew. Validation that was due and not finished is run first. Gradients that wait
    for more batches (`accumulate_grad_batches`) are saved and restored, with a single process.

    Errors until the end of the first batch get a note that the checkpoint may be damaged.
    """

    def __init__(self) -> None:
        self.finished = False  # the epoch of the checkpoint was over
        self.cut = False  # it was not, but the fit was
        self.pending = False  # validation after the last batch was due and not over
        self.gradients: dict[str, Tensor] = {}
        # Their states, which Lightning loads later.
        self.optimizers: list[dict[str, Any]] = []
        self.schedules: list[dict[str, Any]] = []
        self.moved = False  # a batch is done

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the gradients that wait for more batches."""
        if trainer.world_size == 1 and trainer.fit_loop._should_accumulate():
            named = pl_module.named_parameters()
            checkpoint["gradients"] = {n: p.grad for n, p in named if p.grad is not None}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sets the counters to the last batch that was finished."""
        path = str(trainer.ckpt_path)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if (state := checkpoint["callbacks"].get(callback.state_key)) is not None:
                check_like(state, callback.state_dict(), f"{path}: {type(callback).__name__}")
        place = {"fit_loop": trainer.fit_loop.state_dict()}
        check_like(checkpoint.get("loops", {}), place, f"{path}: loops")
        self.gradients = checkpoint.get("gradients", {})
        check_like(self.gradients, {}, f"{path}: gradients")
        self.optimizers = checkpoint.get("optimizer_states", [])
        self.schedules = checkpoint.get("lr_schedulers", [])
        if (loops := checkpoint.get("loops", {}).get("fit_loop")) is None:
            return
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        validation = loops["epoch_loop.val_loop.batch_progress"]
        loaders = loops["state_dict"].get("combined_loader", [])
        # The epoch counts as processed before the checkpoints of its end are saved.
        processed = epochs["current"]["processed"]
        ended = processed == epochs["current"]["started"]
        epoch = loaders[0].get("epoch") if loaders else None
        epoch = processed - ended if epoch is None else epoch
        self.finished = processed > epoch and batches["is_last_batch"]
        self.cut = processed > epoch and not self.finished
        validated = validation["current"]
        self.pending = (
            batches["current"]["completed"] < batches["current"]["processed"]
            or validated["completed"] < validated["ready"]
        )
        for name in ("current", "total"):
            _count(epochs[name], epoch + 1)
            epochs[name]["processed"] = epochs[name]["completed"] = epoch + self.finished
            _count(batches[name], batches[name]["processed"])
            if self.pending:
                _count(validation[name], 0)
        for loader in loaders:
            if "batches" in loader:
                loader["batches"] = batches["current"]["completed"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the states of the optimizers before they are loaded."""
        if trainer.ckpt_path is None:
            return
        path = str(trainer.ckpt_path)
        check_like(self.optimizers, [{}] * len(trainer.optimizers), f"{path}: optimizer_states")
        for i, own in enumerate(trainer.optimizers):
            self.optimizers[i] = settle_optimizer(self.optimizers[i], own, path)
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        check_schedulers(self.schedules, schedules, path)
        shapes = {n: list(p.shape) for n, p in pl_module.named_parameters()}
        for name, value in self.gradients.items():
            if list(getattr(value, "shape", "?")) != shapes.get(name):
                raise ValueError(f"{path}: gradients is damaged: {name} is none of this network")
        self.optimizers, self.schedules = [], []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on behind the last batch: with its validation, the next batch or the next epoch."""
        # A schedule that asks for the number of steps has the loaders made before their place is
        # known.
        trainer.fit_loop._load_combined_loader_states()
        loop = trainer.fit_loop.epoch_loop
        if not loop.restarting:
            return
        for name, parameter in pl_module.named_parameters():
            if name in self.gradients:
                parameter.grad = self.gradients[name].to(parameter)
        self.gradients = {}
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        if self.finished:
            loop.restarting = False
        elif not loop._should_check_val_fx(fetcher):
            # The number of the next row of a logger, counted after the callbacks of a batch.
            loop._batches_that_stepped += not (self.cut or loop._should_accumulate())
            loop.val_loop._has_run = loop.batch_progress.is_last_batch
        elif self.pending:
            loop.val_loop._restart_stage = "restarted_mid_evaluation"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes that the fit goes on."""
        self.moved = True

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Adds a note to what Python or torch raise as they take up a state that makes no sense."""
        faults = (AttributeError, LookupError, TypeError, ValueError, RuntimeError)
        if trainer.ckpt_path and not self.moved and isinstance(exception, faults):
            text = " ".join(str(exception).split())
            exception.add_note(
                f"the fit did not go on from {trainer.ckpt_path} ({type(exception).__name__}: "
                f"{text[:200]}): if it starts without it, the file's state of training is damaged"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the next epoch as usual, also if nothing was left of a resumed one."""
        trainer.fit_loop.epoch_loop.restarting = False


def _count(counter: dict[str, int], number: int) -> None:
    for name in counter:
        counter[name] = number
