"""The cost of a training: over all parts of a fit, and back from its checkpoint."""

import torch

import explainers
from explainers.methods.rtis import RTIS
from tests import planted
from tests.support import Scenes, fit_trainer


class Clock:
    """A second passes at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_it_adds_up_over_the_parts_of_a_fit(tmp_path, monkeypatch):
    monkeypatch.setattr("explainers.cost.time.perf_counter", Clock())
    torch.manual_seed(0)
    method = RTIS(planted.explanandum(), **RTIS.quick)
    first = fit_trainer(tmp_path)
    first.fit(method, Scenes(4, batch_size=2))
    first.save_checkpoint(tmp_path / "a.ckpt")
    loaded = explainers.load(tmp_path / "a.ckpt")
    # Two batches, and what lies between the last one and the validation: one second each.
    assert loaded.cost == {"seconds": 3.0, "steps": 2, "images": 4}
    again = fit_trainer(tmp_path, max_steps=4)
    resumed = RTIS(planted.explanandum(), **RTIS.quick)
    again.fit(resumed, Scenes(4, batch_size=2), ckpt_path=tmp_path / "a.ckpt")
    again.save_checkpoint(tmp_path / "b.ckpt")
    assert explainers.load(tmp_path / "b.ckpt").cost == {"seconds": 6.0, "steps": 4, "images": 8}


def test_what_was_not_trained_costs_nothing():
    assert RTIS(planted.explanandum()).cost is None
