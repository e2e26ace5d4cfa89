"""What a run is called, and what two runs must have in common."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch

from explainers import Explainer, Explanandum
from explainers.callbacks.score import Score
from explainers.evaluation.provenance import (
    arguments,
    data_name,
    describe,
    describe_run,
    explanandum_name,
)
from explainers.explanandum.weights import fingerprint
from explainers.methods.constant import Constant
from explainers.methods.extremal import ExtremalPerturbation
from explainers.methods.rise import RISE
from explainers.metrics.faithfulness import CurveAUC, RISECurves
from explainers.metrics.localization import MAE
from explainers.metrics.saliency import MaskSaliency
from explainers.metrics.seconds import Seconds
from tests import planted
from tests.support import Scenes, Truth, trainer


class Nested(Explainer):
    speed_only = ("batch_size",)

    def __init__(self, explanandum, network=None, depth=None, batch_size=4, change=None, seed=0):
        super().__init__(explanandum, seed)

    def attribute(self, images, targets):
        return images[:, 0]


def test_a_method_is_its_class_and_its_plain_arguments():
    network = {"widths": [8, 8], "block": {"kernel": 3}}
    method = Nested(planted.explanandum(), network=network, batch_size=2, change=math.sin)
    assert describe(method) == {
        "class": "tests.evaluation.test_provenance.Nested",
        "network": network,
        "depth": None,
        "change": "math.sin",
        "seed": 0,
    }


def test_functions_and_modules_among_the_arguments_are_settings():
    def inpainter(seed):
        torch.manual_seed(seed)
        with pytest.warns(UserWarning, match="instance of `nn.Module`"):
            return Nested(planted.explanandum(), change=torch.nn.Linear(2, 2))

    assert describe(inpainter(0)) == describe(inpainter(0))
    assert describe(inpainter(0)) != describe(inpainter(1))
    small, large = (
        Nested(planted.explanandum(), change=functools.partial(torch.clamp, max=m)) for m in (1, 2)
    )
    assert describe(small) != describe(large)


def test_what_changes_only_the_cost_is_no_setting():
    fast = RISE(planted.explanandum(), batch_size=1, channels_last=True)
    assert describe(fast) == describe(RISE(planted.explanandum()))
    assert describe(fast) != describe(RISE(planted.explanandum(), masks=9))
    assert arguments(RISECurves(batch_size=1)) == arguments(RISECurves())
    assert arguments(RISECurves(steps=5)) != arguments(RISECurves())


def test_settings_hold_tuples_as_well():
    explainer = ExtremalPerturbation(planted.explanandum(), areas=(0.2, 0.1))
    assert describe(explainer)["areas"] == [0.2, 0.1]


def test_arguments_of_metrics_are_their_own_attributes():
    assert arguments(Seconds()) == arguments(MAE()) == {}
    assert arguments(MaskSaliency("model")) == {"activation": "model"}
    metric = RISECurves(steps=5, draws=None, insertion_fill="mean", channels_last=False)
    others = {"deletion_fill": "mean", "insertion_fill": "mean"}
    others |= {"response": {"kind": "class", "layer": -1, "ties": "order"}}
    assert arguments(metric) == {"steps": 5, "draws": None, "pixels": None, **others}
    nested = arguments(CurveAUC(area={"scale": 100.0}))["area_options"]
    assert nested["scale"] == 100


def test_a_run_is_its_methods_metrics_and_classifier():
    explanandum = planted.explanandum()
    methods = {"truth": Truth(explanandum, seed=3), "half": Constant(explanandum)}
    metrics = [Seconds(), CurveAUC("A", steps=2), CurveAUC("B", steps=3), MAE(), MAE()]
    run = describe_run(methods, metrics)
    assert list(run) == ["methods", "columns", "metrics", "explanandum", "versions"]
    own = {name: value for name, value in run["methods"]["truth"].items() if name != "weights"}
    assert own == {"class": "tests.support.Truth", "seed": 3}
    assert run["methods"]["half"]["value"] == 0.5
    assert run["columns"] == ["A", "B", "MAE", "seconds"]
    assert list(run["metrics"]) == ["Seconds", "CurveAUC A", "CurveAUC B", "MAE MAE"]
    assert run["metrics"]["CurveAUC B"]["steps"] == 3
    assert run["explanandum"] == {
        "name": "tests.planted:PlantedCNN",
        "weights": fingerprint(explanandum),
        "classes": None,
        "class_names": explanandum.class_names,
        "multi_label": False,
        "mean": explanandum.config["mean"],
        "std": explanandum.config["std"],
        "model_args": {},
        "feature_layers": [f"stages.{i}" for i in range(4)],
    }


def test_weights_of_method_and_classifier_are_told_apart():
    before = describe_run({"truth": Truth(planted.explanandum())}, [])
    other = planted.explanandum()
    other.model.stem.weight.data.mul_(2)
    after = describe_run({"truth": Truth(other)}, [])
    assert after["methods"] == before["methods"]
    assert after["explanandum"]["weights"] != before["explanandum"]["weights"]
    trained = Truth(planted.explanandum())
    trained.weight.data.fill_(7)
    learned = describe_run({"truth": trained}, [])
    assert learned["explanandum"] == before["explanandum"]
    assert learned["methods"]["truth"]["weights"] != before["methods"]["truth"]["weights"]


def test_a_classifier_is_called_by_its_architecture_or_its_class():
    assert explanandum_name(planted.explanandum()) == "tests.planted:PlantedCNN"
    assert explanandum_name(Explanandum(planted.PlantedCNN())) == "PlantedCNN"


def test_data_are_called_by_their_module_or_their_data_set(tmp_path):
    assert data_name(SimpleNamespace(datamodule=Scenes())) == "Scenes"
    score = Score(output_dir=str(tmp_path), metrics=[], sanity=False, panels=0)
    test = trainer(tmp_path, score)
    module = Constant(planted.explanandum())
    test.test(module, dataloaders=Scenes().test_dataloader(), verbose=False)
    assert data_name(test) == "list"
    assert "5 images, tests.planted:PlantedCNN, list" in (tmp_path / "table.md").read_text()
