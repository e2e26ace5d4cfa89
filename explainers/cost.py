"""What a training cost, as part of its result."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class CountCost(Callback):
    """Counts the seconds, steps and images of a fit, over all its parts if it is resumed.

    A checkpoint holds them as `cost`: wall-clock `seconds` of the training batches and what is
    between them, without validation; `steps` of the optimizer; and `images` of all processes.
    """

    def __init__(self) -> None:
        self.seconds, self.images = 0.0, 0
        self._since: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """The counts, from which a resumed fit goes on."""
        return {"seconds": self.seconds, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the counts of a checkpoint."""
        self.seconds, self.images = float(state_dict["seconds"]), int(state_dict["images"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, after what came between the epochs."""
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds a batch."""
        self._stop()
        self._since = time.perf_counter()
        self.images += len(batch["image"]) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock, which the next batch or epoch starts again."""
        self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock again after a validation within an epoch."""
        self._since = time.perf_counter()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the cost."""
        checkpoint["cost"] = {
            "seconds": self.seconds,
            "steps": trainer.global_step,
            "images": self.images,
        }

    def _stop(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None
