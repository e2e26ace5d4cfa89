"""An interrupted fit leaves a checkpoint, says how to resume it, and ends as if never stopped."""

import os
import signal
import sys
import threading

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from datamodules.sampling import EpochSampler, ResumableLoader
from explainers.callbacks.folder import newest_checkpoint
from explainers.callbacks.interrupt import Interrupted, SaveOnInterrupt
from explainers.resuming import ResumeExactly
from tests.support import fit_trainer

# Resuming into the folder of the interrupted fit is meant.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, key):
        return torch.randn(3, generator=torch.Generator().manual_seed(10 * key[0] + key[1]))


class Line(LightningModule):
    """Its weights depend on the order of all batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def training_step(self, batch, batch_idx):
        return (batch @ self.weight).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam([self.weight], lr=0.1)

    def configure_callbacks(self):
        return [ResumeExactly()]


class Send(Callback):
    """Sends signals to its own process in a hook, once the fit has done so many steps."""

    def __init__(self, hook, steps, *numbers):
        self.seen = []
        setattr(self, hook, lambda trainer, *_: self.send(trainer, steps, numbers))

    def send(self, trainer, steps, numbers):
        if trainer.global_step == steps and not self.seen:
            for number in numbers:
                self.seen.append(number)
                os.kill(os.getpid(), number)


def fit(folder, *callbacks, path=None, **arguments):
    points = Points()
    train = ResumableLoader(points, batch_size=2, sampler=EpochSampler(points, seed=0))
    module = Line()
    keep = ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
    trainer = fit_trainer(
        folder,
        **{
            "callbacks": [*callbacks, SaveOnInterrupt(), keep],
            "enable_checkpointing": True,
            "max_steps": 10,
            "num_sanity_val_steps": 0,
        }
        | arguments,
    )
    trainer.fit(module, train, DataLoader(torch.zeros(2, 1)), ckpt_path=path)
    return module, trainer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("hook", "steps"),
    [
        ("on_train_batch_start", 0),  # before the first step
        ("on_before_optimizer_step", 2),
        ("on_before_optimizer_step", 3),  # the last batch of an epoch
        ("on_validation_batch_start", 4),
        ("on_train_epoch_end", 4),
    ],
)
def test_an_interrupted_fit_is_resumed_exactly(tmp_path, capfd, number, hook, steps):
    whole, _ = fit(tmp_path / "whole")
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, Send(hook, steps, number))
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    path = tmp_path / "interrupted.ckpt"
    done = steps if hook == "on_validation_batch_start" else steps + 1
    assert torch.load(path, weights_only=True)["global_step"] == done
    told = capfd.readouterr().err
    assert "stopping at the end of this batch; a second signal stops at once\n" in told
    assert f"interrupted after {done} steps; resume with trainer.fit(..., ckpt_path='" in told
    resumed, _ = fit(tmp_path, path=str(path))
    assert resumed.weight.tolist() == whole.weight.tolist()
    assert not path.exists()  # last.ckpt is later
    assert (tmp_path / "last.ckpt").exists()


def test_validation_that_was_cut_short_is_done_by_the_resumed_fit(tmp_path):
    with pytest.raises(Interrupted):
        fit(tmp_path, Send("on_before_optimizer_step", 3, signal.SIGINT))
    assert not (tmp_path / "last.ckpt").exists()
    seen = []
    count = Callback()
    count.on_validation_end = lambda trainer, module: seen.append(trainer.global_step)
    fit(tmp_path, count, path=str(tmp_path / "interrupted.ckpt"))
    assert seen == [4, 8]


def test_a_second_signal_stops_at_once(tmp_path, capfd):
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, Send("on_before_optimizer_step", 2, signal.SIGTERM, signal.SIGINT))
    assert stopped.value.code == 130
    assert list(tmp_path.glob("*.ckpt")) == []
    assert "interrupted after 2 steps; nothing was saved" in capfd.readouterr().err


def test_the_last_step_is_finished(tmp_path):
    """Else its validation and `last.ckpt` would be lost: there is no step to resume for."""
    _, trainer = fit(tmp_path, Send("on_before_optimizer_step", 7, signal.SIGTERM), max_steps=8)
    assert trainer.global_step == 8
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_the_only_checkpoint_is_kept(tmp_path):
    with pytest.raises(Interrupted):
        fit(tmp_path, Send("on_before_optimizer_step", 2, signal.SIGINT))
    path = tmp_path / "interrupted.ckpt"
    callbacks = [SaveOnInterrupt()]
    fit(tmp_path, path=str(path), callbacks=callbacks, enable_checkpointing=False)
    assert path.exists()


def test_a_signal_before_training_leaves_nothing_to_resume(tmp_path, capfd):
    send = Send("on_sanity_check_end", 0, signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, send, num_sanity_val_steps=1)
    assert stopped.value.code == 130
    assert "interrupted after 0 steps; nothing was saved" in capfd.readouterr().err
    assert list(tmp_path.glob("*.ckpt")) == []


def test_checkpoints_that_are_due_at_this_step_are_saved_as_well(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    send = Send("on_before_optimizer_step", 2, signal.SIGINT)
    with pytest.raises(Interrupted):
        fit(tmp_path, callbacks=[send, SaveOnInterrupt(), keep])
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert names == ["interrupted.ckpt", "step=3.ckpt"]


def test_another_thread_leaves_the_handlers_alone(tmp_path):
    before, seen = signal.getsignal(signal.SIGTERM), []
    look = Callback()
    look.on_train_batch_start = lambda *_: seen.append(signal.getsignal(signal.SIGTERM))
    thread = threading.Thread(target=fit, args=(tmp_path, look))
    thread.start()
    thread.join()
    assert seen == [before] * 10


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["train.py", "fit", "-c", "my config.yaml"], "python train.py fit -c 'my config.yaml'"),
        (["/bin/learned-explainers", "fit", "--ckpt_path", "x", "--out", "y"],
         "learned-explainers fit --out y"),
        (["train.py", "fit", "--ckpt_path=x"], "python train.py fit"),
    ],
)  # fmt: skip
def test_the_command_that_resumes_is_told(tmp_path, capfd, monkeypatch, words, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Interrupted):
        fit(tmp_path / "runs", Send("on_before_optimizer_step", 2, signal.SIGINT))
    told = capfd.readouterr().err
    assert f"interrupted after 3 steps; resume with: {command} --ckpt_path runs/i" in told


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A job of one task, and the calls of a `scontrol` that notes them."""
    task = {"NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in {**task, "JOB_ID": 42, "JOB_NAME": "fit"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    calls = tmp_path / "calls"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return calls


@pytest.mark.parametrize("array", [False, True])
def test_a_slurm_job_is_saved_requeued_and_resumed_exactly(
    tmp_path, monkeypatch, capfd, slurm, array
):
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    whole, _ = fit(tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, Send("on_before_optimizer_step", 2, signal.SIGUSR1))
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert slurm.read_text() == f"requeue {'7_3' if array else '42'}\n"
    assert "is back in the queue" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["interrupted.ckpt"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    resumed, _ = fit(tmp_path, path=newest_checkpoint(str(tmp_path)))
    assert resumed.weight.tolist() == whole.weight.tolist()


def test_a_job_that_cannot_be_requeued_is_told(tmp_path, monkeypatch, capfd, slurm):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Interrupted):
        fit(tmp_path, Send("on_before_optimizer_step", 2, signal.SIGUSR1))
    assert "job 42 was saved, but is not back in the queue: " in capfd.readouterr().err


def test_only_a_job_that_starts_again_goes_on_by_itself(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    for age, name in enumerate(["last.ckpt", "interrupted.ckpt", "best.ckpt"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100 - age, 100 - age))
    assert newest_checkpoint(str(tmp_path)) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert newest_checkpoint(str(tmp_path)) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "last.ckpt")
    assert newest_checkpoint(str(tmp_path / "new")) is None


@pytest.mark.parametrize(
    ("own", "answers", "code"),  # whether any process has a signal, and whether SLURM's
    [
        (None, [False], None),
        (None, [True, False], 128 + signal.SIGTERM),
        (None, [True, True], 128 + signal.SIGUSR1),
        (signal.SIGINT, [True, False], 128 + signal.SIGINT),
        (signal.SIGTERM, [True, True], 128 + signal.SIGUSR1),
    ],
)
def test_all_processes_stop_at_the_same_batch_for_the_same_reason(
    tmp_path, monkeypatch, own, answers, code
):
    left, callback, trainer = list(answers), SaveOnInterrupt(), fit_trainer(tmp_path)
    callback.signal = own
    monkeypatch.setattr(type(trainer), "world_size", 2)
    trainer.strategy.reduce_boolean_decision = lambda mine, all: left.pop(0)
    if code is None:
        callback.on_train_batch_end(trainer, Line(), None, None, 0)
    else:
        with pytest.raises(Interrupted) as stopped:
            callback.on_train_start(trainer, Line())
        assert stopped.value.code == code
    assert not left
