"""The folder of a fit, which belongs to one fit."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from explainers.base import Explainer
from explainers.evaluation.provenance import (
    describe,
    describe_classifier,
    describe_data,
    plain,
    versions,
)
from explainers.evaluation.runfolder import RunFolder

# Arguments of the trainer that decide the numbers. The number of steps may change.
TRAINER = ("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")


def newest_checkpoint(folder: str) -> str | None:
    """Checkpoint from which a SLURM job that was put back into the queue goes on.

    Its command line is that of its first start, which had none.

    Args:
        folder: Folder of the fit.

    Returns:
        Path of the newest checkpoint in the folder. None if there is none, or if this is no SLURM
        job or one that has not run before (`SLURM_RESTART_COUNT`).
    """
    found = list(Path(folder).glob("*.ckpt"))
    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not found:
        return None
    return str(max(found, key=lambda file: file.stat().st_mtime))


class FitFolder(Callback):
    """Refuses to fit into the folder of another fit, or of one that another process goes on with.

    What decides the numbers of a fit is stored in `fit.json`: the module with its arguments, the
    classifier, the data and the trainer's precision. A fit that is resumed there must agree.

    Args:
        ckpt_path: Checkpoint that the fit is resumed from, if any.
    """

    def __init__(self, ckpt_path: str | None = None) -> None:
        super().__init__()
        self.ckpt_path = ckpt_path
        self._run: RunFolder | None = None

    def take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the folder. The trainer calls its first hook after its loggers write, too late.

        Raises:
            ValueError: If the folder holds another fit, another process writes it, or the last
                epoch would not be saved.
        """
        _check_last_epoch(trainer)
        folder = Path(trainer.default_root_dir)
        written = [getattr(each, "dirpath", None) for each in trainer.checkpoint_callbacks]
        found = [file for own in {*written, folder} if own for file in Path(own).glob("*.ckpt")]
        resumed = self.ckpt_path is not None and Path(self.ckpt_path).resolve() in {
            file.resolve() for file in found
        }
        if found and not resumed:
            newest = max(found, key=lambda file: file.stat().st_mtime)
            raise ValueError(
                f"{newest.parent} holds another fit: resume it, --ckpt_path {newest}, or choose "
                "another folder, --out FOLDER"
            )
        holds_results = bool(found) and (folder / "fit.json").exists()
        settings = _settings(trainer, pl_module)
        self._run = RunFolder(folder, settings, holds_results, "fit.json", trainer.global_rank)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Lets other fits write the folder."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets other fits write the folder."""
        if self._run is not None:
            self._run.release()
            self._run = None


def _check_last_epoch(trainer: Trainer) -> None:
    """Refuses a fit that ends between two validations, after which alone checkpoints are saved."""
    epochs, every = trainer.max_epochs or 0, trainer.check_val_every_n_epoch or 1
    own = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    late = [
        not (
            each._save_on_train_epoch_end or each._every_n_train_steps or each._train_time_interval
        )
        for each in own
    ]
    if epochs > 0 and epochs % every and own and all(late) and trainer.max_steps < 0:
        raise ValueError(
            f"the {epochs} epochs end between two validations, after which checkpoints are saved: "
            f"max_epochs must be a multiple of check_val_every_n_epoch, {every}; "
            f"--trainer.check_val_every_n_epoch {epochs} validates at the end"
        )


def _settings(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "data": {
            **describe_data(trainer, "train"),
            "batch_size": getattr(getattr(trainer, "datamodule", None), "batch_size", None),
        },
        "trainer": {name: plain(getattr(trainer, name, None)) for name in TRAINER},
        "versions": versions(),
    }
    if isinstance(module, Explainer):
        own = {"model": describe(module), "explanandum": describe_classifier(module.explanandum)}
        return {**own, **settings}
    arguments = {name: plain(value) for name, value in module.hparams.items()}
    return {"model": {"class": type(module).__qualname__, **arguments}, **settings}
