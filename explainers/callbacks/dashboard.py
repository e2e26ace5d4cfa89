"""What dashboards show of an evaluation beside its pictures."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from explainers.callbacks.loggers import OfflineFirstWandbLogger
from explainers.evaluation import scorefile
from explainers.evaluation.runfolder import write_atomically
from explainers.evaluation.scorefile import ERROR, IDENTITY, KEYS
from explainers.monitor import hyper_parameters

TEXTS = ("name", "target", "method", ERROR)


class HoldConfig(SaveConfigCallback):
    """Holds the configuration of an evaluation for its callbacks, and writes no file itself."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Does nothing."""


def log_results(trainer: Trainer, folder: Path, means: Mapping[str, float]) -> None:
    """Sends settings and means of an evaluation to all loggers, its scores to Weights & Biases.

    `test/scores` is a table with one row for each image, target and method: the numbers of
    scores.csv. The report is sent as an artifact if the logger says so, see
    `OfflineFirstWandbLogger`.

    Args:
        trainer: Trainer of the evaluation.
        folder: Its folder, with settings.json, scores.csv and, for the artifact, report.html.
        means: Figures of the methods, see `report.write`.
    """
    if not trainer.loggers:
        return
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    values = {**hyper_parameters(trainer, trainer.lightning_module), "evaluation": settings}
    for logger in trainer.loggers:
        logger.log_hyperparams(values)
        logger.log_metrics(dict(means), step=trainer.global_step)
        if isinstance(logger, WandbLogger):
            logger.log_table("test/scores", *_table(folder / "scores.csv"))
        if isinstance(logger, OfflineFirstWandbLogger) and logger.artifacts:
            name = f"report-{logger.experiment.id}"
            logger.experiment.log_artifact(str(folder / "report.html"), name=name, type="report")


def write_origin(trainer: Trainer, folder: Path) -> None:
    """Writes what is needed to run an evaluation again: `command.txt` and `config.yaml`.

    The latter is written if the command line has given the trainer its configuration.
    """
    write_atomically(folder / "command.txt", f"{shlex.join(['python', *sys.argv])}\n")
    config = hyper_parameters(trainer, trainer.lightning_module).get("config")
    if config is not None:
        write_atomically(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))


def _table(path: Path) -> tuple[list[str], list[list[str | float | None]]]:
    """Columns and rows of a scores file. What has no value is None."""
    rows = scorefile.read(path)
    figures = [name for name in (rows[0] if rows else {}) if name not in (*KEYS, IDENTITY, ERROR)]
    columns = ["name", "target", "method", *figures, ERROR]
    return columns, [[_value(name, row[name]) for name in columns] for row in rows]


def _value(column: str, text: str) -> str | float | None:
    return text if column in TEXTS else float(text) if text else None
