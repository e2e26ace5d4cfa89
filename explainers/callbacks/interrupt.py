"""A fit that is interrupted can be resumed."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

NAME = "interrupted.ckpt"


class Interrupted(SystemExit):
    """Ends the program with the exit status of a signal: 130 for Ctrl-C, 143 for SIGTERM.

    It is 138 for SIGUSR1.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class SaveOnInterrupt(Callback):
    """Saves a checkpoint and stops a fit on Ctrl-C or SIGTERM, and says how to resume it.

    The fit stops at the end of the current batch of training or validation, with several processes
    at the same batch in all of them. A second signal stops it at once. The checkpoint is
    `interrupted.ckpt` beside the other checkpoints. It is removed when a later fit in this folder
    is finished.

    In a SLURM job, SIGUSR1 does the same and puts the job back into the queue. Lightning's own
    handler, which this one replaces, saves in the middle of a batch. The job that starts anew goes
    on from that checkpoint, see `folder.newest_checkpoint`.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # received so far
        self.process = 0
        self.path: str | None = None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens from here on, see `on_train_start`."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens from here on, until Lightning restores the handlers that it found."""
        if self._interrupted(trainer):
            self._stop()
        self._listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and stops after a signal. A fit that is at its last step is finished instead."""
        if not self._interrupted(trainer):
            return
        if trainer.global_step == trainer.max_steps:
            self._save(trainer)
            return
        for callback in trainer.checkpoint_callbacks:  # their turn would be later
            callback.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._save(trainer)
        self._stop()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops after a signal; a resumed fit validates anew."""
        if self._interrupted(trainer) and trainer.global_step != trainer.max_steps:
            if not trainer.sanity_checking:
                self._save(trainer)
            self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Says how to resume, or puts the job back into the queue."""
        if isinstance(exception, Interrupted) and exception.code == 128 + signal.SIGUSR1:
            if trainer.is_global_zero:
                print(_requeue(), file=sys.stderr)
            return
        if isinstance(exception, Interrupted) and trainer.is_global_zero:
            print(
                f"interrupted after {trainer.global_step} steps; {self._resume()}", file=sys.stderr
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the checkpoint of an earlier interruption if there is a later one."""
        saved = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        if trainer.is_global_zero and any(Path(c.best_model_path).is_file() for c in saved):
            Path(_path(trainer)).unlink(missing_ok=True)

    def _listen(self) -> None:
        # After Lightning has installed its own, which it would otherwise put back at the end.
        if threading.current_thread() is threading.main_thread():
            self.signal, self.path, self.process = None, None, os.getpid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)
            handled = signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN)
            if SLURMEnvironment.detect() and handled:  # Lightning requeues jobs
                signal.signal(signal.SIGUSR1, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            return  # a process that loads data is ended by the one that trains
        if self.signal is not None:
            raise Interrupted(number)
        self.signal = number
        os.write(2, b"\nstopping at the end of this batch; a second signal stops at once\n")

    def _interrupted(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self.signal is not None
        if not trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False):
            return False
        # Another process may have received it, or another one of them.
        again = self.signal == signal.SIGUSR1
        again = trainer.strategy.reduce_boolean_decision(again, all=False)
        self.signal = signal.SIGUSR1 if again else self.signal or signal.SIGTERM
        return True

    def _save(self, trainer: Trainer) -> None:
        self.path = _path(trainer)
        trainer.save_checkpoint(self.path)

    def _stop(self) -> None:
        raise Interrupted(self.signal or signal.SIGTERM)

    def _resume(self) -> str:
        if self.path is None:
            return "nothing was saved"
        path = self.path.removeprefix(os.path.join(os.getcwd(), ""))
        if "fit" not in sys.argv[1:]:
            return f"resume with trainer.fit(..., ckpt_path={path!r})"
        program, *words = sys.argv
        for i, word in reversed(list(enumerate(words))):
            if word.startswith("--ckpt_path"):
                del words[i : i + 1 + ("=" not in word)]
        start = ["python", program] if program.endswith(".py") else [Path(program).name]
        return f"resume with: {shlex.join([*start, *words, '--ckpt_path', path])}"


def _requeue() -> str:
    """Puts the SLURM job of this process back into the queue; returns what happened."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"job {job} was saved, but is not back in the queue: {error}"
    return f"job {job} is back in the queue"


def _path(trainer: Trainer) -> str:
    folders = [getattr(c, "dirpath", None) for c in trainer.checkpoint_callbacks]
    return os.path.join(next(filter(None, folders), trainer.default_root_dir), NAME)
