"""What loggers receive of a fit beside its losses, against figures by hand."""

from typing import ClassVar

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger

from explainers.methods.rtis import RTIS
from explainers.monitor import Monitor
from tests import planted
from tests.support import Scenes, Truth, fit_trainer

FIGURES = ("optimizer/lr", "optimizer/gradient_norm", "speed/images_per_second")


class Recorder(Logger):
    """Keeps what it is sent."""

    name, version = "recorder", 0

    def __init__(self):
        super().__init__()
        self.rows, self.values = [], {}

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, [metrics.get(figure) for figure in FIGURES]))

    def log_hyperparams(self, params, *args, **kwargs):
        self.values.update(params)


class Halving(Truth):
    """The loss w^2 from w = 1 by SGD with the rates 0.1, 0.05, 0.025, ..."""

    estimate: ClassVar = {}  # of the optimizer

    def configure_optimizers(self):
        optimizer = torch.optim.SGD([{"params": [self.weight], **self.estimate}], lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Clock:
    """Half a second passes at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.5
        return self.now


def fit(tmp_path, module, **changes):
    recorder = Recorder()
    quick = {"logger": recorder, "log_every_n_steps": 1, "limit_val_batches": 0}
    trainer = fit_trainer(tmp_path, **quick | {"callbacks": [Monitor()]} | changes)
    trainer.fit(module, Scenes(8, batch_size=2))
    return recorder


def test_rate_gradient_and_speed_of_each_step(tmp_path, monkeypatch):
    monkeypatch.setattr("explainers.monitor.time.perf_counter", Clock())
    found = fit(tmp_path, Halving(planted.explanandum()), max_steps=3)
    w = (1.0, 1.0 * (1 - 0.2), 0.8 * (1 - 0.1))
    expected = [[0.1, 2 * w[0], 4], [0.05, 2 * w[1], 4], [0.025, 2 * w[2], 4]]
    assert [step for step, _ in found.rows] == [0, 1, 2]
    torch.testing.assert_close(torch.tensor([row for _, row in found.rows]), torch.tensor(expected))


def test_the_norm_is_that_before_clipping_and_the_rate_is_prodigys(tmp_path, monkeypatch):
    monkeypatch.setattr(Halving, "estimate", {"d": 3.0})
    found = fit(tmp_path, Halving(planted.explanandum()), max_steps=1, gradient_clip_val=0.5)
    assert found.rows[0][1][:2] == pytest.approx([0.3, 2.0])


def test_steps_of_several_batches_count_all_their_images(tmp_path, monkeypatch):
    monkeypatch.setattr("explainers.monitor.time.perf_counter", Clock())
    module = Halving(planted.explanandum())
    changes = {"max_steps": 2, "accumulate_grad_batches": 2, "log_every_n_steps": 2}
    found = fit(tmp_path, module, **changes)
    assert [step for step, _ in found.rows] == [1]
    assert found.rows[0][1][2] == 8 / 0.5  # four batches of two images


def test_the_hyper_parameters_are_complete(tmp_path):
    torch.manual_seed(0)
    module = RTIS(planted.explanandum(), optimizer={"lr": 0.5})  # brings its Monitor
    found = fit(tmp_path, module, callbacks=[])
    assert found.values["class_path"] == "explainers.methods.rtis.RTIS"
    assert found.values["optimizer"] == module.optimizer
    assert {"lr", "name", "schedule"} <= module.optimizer.keys()
    assert found.values["destroyer"] == module.destroyer
    assert found.values["explanandum"]["class_names"] == planted.NAMES
    assert all(None not in row for _, row in found.rows)
    fit(tmp_path, module, callbacks=[], logger=CSVLogger(tmp_path, name="logs"))
    assert "destroyer" in (tmp_path / "logs" / "version_0" / "hparams.yaml").read_text()


def test_nothing_is_logged_without_a_logger_or_a_period(tmp_path):
    fit_trainer(tmp_path, callbacks=[Monitor()]).fit(Halving(planted.explanandum()), Scenes())
    assert fit(tmp_path, Halving(planted.explanandum()), log_every_n_steps=0).rows == []
