"""A fit resumed from any checkpoint ends as the uninterrupted one, to the bit."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from datamodules.sampling import EpochSampler, ResumableLoader
from explainers.messages import one_line
from explainers.resuming import ResumeExactly

BATCHES = 4  # of an epoch


class Points(Dataset):
    """Random points, new ones in every epoch."""

    def __len__(self):
        return 2 * BATCHES

    def __getitem__(self, key):
        epoch, index = key
        generator = torch.Generator().manual_seed(100 * epoch + index)
        return torch.randn(3, generator=generator), torch.tensor(key)


class Line(LightningModule):
    """Its weights depend on every batch, on the epoch, and on schedules by step and by epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.events = []

    def training_step(self, batch, batch_idx):
        points, keys = batch
        self.events.append(("batch", self.current_epoch, batch_idx, keys.tolist()))
        return (points @ self.weight).square().mean() + 0.1 * self.current_epoch * self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.events.append(("validation", self.current_epoch, batch_idx))

    def on_train_epoch_start(self):
        self.events.append(("epoch", self.current_epoch))

    def on_train_epoch_end(self):
        self.events.append(("end", self.trainer.fit_loop.epoch_progress.current.processed))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam([self.weight], lr=0.01)
        schedules = [
            {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, rate), "interval": name}
            for name, rate in (("step", 0.99), ("epoch", 0.9))
        ]
        return [optimizer], schedules

    def configure_callbacks(self):
        return [ResumeExactly()]


class SaveOften(Callback):
    """Saves wherever a callback may, and remembers how many events came before."""

    def __init__(self, folder):
        self.folder, self.saved = folder, {}

    def save(self, trainer, module, where):
        path = str(self.folder / f"{len(self.saved)}-{where}-{trainer.global_step}.ckpt")
        trainer.save_checkpoint(path)
        self.saved[path] = len(module.events)

    def on_train_batch_end(self, trainer, module, *_):
        self.save(trainer, module, "batch")

    def on_validation_batch_end(self, trainer, module, *_):
        self.save(trainer, module, "validating")

    def on_validation_end(self, trainer, module):
        self.save(trainer, module, "validated")

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, module, "epoch")

    def on_train_end(self, trainer, module):
        self.save(trainer, module, "end")


def fit(folder, path=None, workers=0, callbacks=(), **arguments):
    folder.mkdir(exist_ok=True)
    points = Points()
    train = ResumableLoader(
        points,
        batch_size=2,
        sampler=EpochSampler(points, seed=0),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    module = Line()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **arguments,
    )
    trainer.fit(module, train, DataLoader(torch.zeros(2, 1)), ckpt_path=path)
    return module, trainer


def rest(events, start, path):
    """What is left to do after a checkpoint. A validation that was cut short is begun again."""
    if "validating" in path:
        while events[start - 1][0] == "validation":
            start -= 1
    # The events of an end of an epoch are those of callbacks and module; the hook had begun.
    return events[start + ("epoch" in path) :]


def check(whole, trainer, module, resumed, start, path):
    assert resumed.global_step == trainer.global_step, path
    assert module.weight.tolist() == whole.weight.tolist(), path
    if resumed.global_step == trainer.max_steps and not module.events:
        return  # nothing was left but the end of the epoch
    left = rest(whole.events, start, path)
    assert module.events == left, path
    if left:
        stepped = [t.fit_loop.epoch_loop._batches_that_stepped for t in (trainer, resumed)]
        assert stepped[0] == stepped[1], path


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_epochs": 2},
        {"max_steps": 10},
        {"max_epochs": 2, "accumulate_grad_batches": 3},
        {"max_steps": 4, "accumulate_grad_batches": 2, "val_check_interval": 3},
        {"max_steps": 8, "val_check_interval": 0.5},
        {"max_epochs": 2, "val_check_interval": 3, "check_val_every_n_epoch": None},
        {"max_epochs": 3, "check_val_every_n_epoch": 2},
        {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 0},
        {"max_epochs": 2, "limit_train_batches": 3},
    ],
    ids=str,
)
def test_every_checkpoint_resumes_exactly(tmp_path, arguments):
    """The checkpoints of a resumed fit do so as well: its counters are right, too."""
    save = SaveOften(tmp_path)
    whole, trainer = fit(tmp_path, callbacks=[save], **arguments)
    for number, (path, start) in enumerate(save.saved.items()):
        again = SaveOften(tmp_path / str(number))
        module, resumed = fit(again.folder, path, callbacks=[again], **arguments)
        check(whole, trainer, module, resumed, start, path)
        if again.saved and number % 2:
            later, more = list(again.saved.items())[number % len(again.saved)]
            module, resumed = fit(again.folder, later, **arguments)
            done = len(whole.events) - len(rest(whole.events, start, path))
            check(whole, trainer, module, resumed, done + more, later)


def test_a_fit_goes_on_when_its_last_step_is_raised(tmp_path):
    """Also from a checkpoint that Lightning saves at an "end" of the epoch in its middle."""
    whole, trainer = fit(tmp_path, max_steps=10)
    save = SaveOften(tmp_path)
    fit(tmp_path, callbacks=[save], max_steps=6)
    for path in list(save.saved)[-3:]:  # after the last batch, the epoch and the fit
        module, resumed = fit(tmp_path, path, max_steps=10)
        assert module.events[0][1:3] == (1, 2), path
        check(whole, trainer, module, resumed, whole.events.index(module.events[0]), "")


def test_workers_resume_exactly(tmp_path):
    save = SaveOften(tmp_path)
    whole, trainer = fit(tmp_path, callbacks=[save], workers=2, max_epochs=2)
    for path, start in list(save.saved.items())[2:7]:  # around the end of an epoch
        module, resumed = fit(tmp_path, path, workers=2, max_epochs=2)
        check(whole, trainer, module, resumed, start, path)


class Kept(Callback):
    def state_dict(self):
        return {"count": 1}


def last_of(tmp_path):
    save = SaveOften(tmp_path)
    fit(tmp_path, callbacks=[save], max_steps=6)
    path = list(save.saved)[-1]
    return path, torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("key", "junk"),
    [
        ("loops", "junk"),
        ("optimizer_states", []),
        ("lr_schedulers", [{}]),
        ("lr_schedulers", [{"last_epoch": "x"}, {}]),
        ("gradients", "junk"),
        ("callbacks", {"Kept": {"count": "many"}}),
        ("loops", {"fit_loop": {"epoch_progress": 3}}),
        ("optimizer_states", [{}]),
        ("optimizer_states", [{"state": {0: {}}, "param_groups": [{"params": [0]}]}]),
        ("lr_schedulers", [{"step": "junk"}, {"get_lr": "junk"}]),
        ("gradients", {"weight": torch.zeros(7)}),
        ("callbacks", 5),
    ],
)
def test_a_state_that_makes_no_sense_is_told(tmp_path, key, junk):
    path, content = last_of(tmp_path)
    torch.save({**content, key: junk}, path)
    with pytest.raises(Exception) as told:  # noqa: PT011
        fit(tmp_path / "again", path, callbacks=[Kept()], max_steps=10)
    line = one_line(told.value, "train.py")
    assert path in line
    assert "damaged" in line


def test_an_error_after_the_first_batch_is_not_that_of_the_checkpoint(tmp_path):
    path, _ = last_of(tmp_path)

    class Fails(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 7:
                raise KeyError("x")

    with pytest.raises(KeyError) as told:
        fit(tmp_path / "again", path, callbacks=[Fails()], max_steps=10)
    assert not hasattr(told.value, "__notes__")


def test_a_state_of_a_wrong_size_never_reaches_a_fused_kernel(tmp_path):
    path, content = last_of(tmp_path)
    (state,) = content["optimizer_states"]
    state["param_groups"][0] |= {"fused": True, "foreach": False}
    state["state"][0]["exp_avg"] = torch.zeros(1).expand(3)
    torch.save(content, path)
    fit(tmp_path / "again", path, max_steps=10)
    state["state"][0]["exp_avg_sq"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"exp_avg_sq has the shape \[1\], expected \[3\]"):
        fit(tmp_path / "again", path, max_steps=10)


def test_a_schedule_may_ask_for_the_number_of_steps(tmp_path, monkeypatch):
    """Lightning then makes the loaders before it knows their place."""
    own = Line.configure_optimizers

    def asks(module):
        assert module.trainer.estimated_stepping_batches == 2 * BATCHES
        return own(module)

    monkeypatch.setattr(Line, "configure_optimizers", asks)
    saver = SaveOften(tmp_path)
    whole, _ = fit(tmp_path, callbacks=[saver], max_epochs=2)
    for path, start in saver.saved.items():
        resumed, _ = fit(tmp_path / "resumed", path, max_epochs=2)
        assert torch.equal(resumed.weight, whole.weight)
        if "batch" in path:
            assert resumed.events == rest(whole.events, start, path)
