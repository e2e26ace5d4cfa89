"""Score given in Python, in a list of callbacks, and as a group: three forms of the same run."""

import json

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from datamodules.shapes import Shapes
from explainers import Explainer, Explanandum
from explainers.callbacks.accuracy import CheckClassifier
from explainers.callbacks.score import Score
from explainers.cli import EvaluateCLI, main
from explainers.evaluation.scorefile import read
from explainers.methods.constant import CentredGaussian
from explainers.methods.rise import RISE
from explainers.metrics.faithfulness import RISECurves
from explainers.metrics.localization import MAE
from tests.support import trainer, untrained_classifier

IMAGES = {"image_size": [32, 32], "batch_size": 3, "test_images": 4}
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}


def entry(class_path, **arguments):
    return {"class_path": class_path, "init_args": arguments}


SETTINGS = {
    "target": "label",
    "sanity": False,
    "bootstrap": 10,
    "panels": 1,
    "methods": {
        "wide": entry("explainers.methods.constant.CentredGaussian", sigma=0.5),
        "few": {"init_args": {"masks": 4}},  # without a class: the one under test, changed
    },
    "metrics": [
        entry("explainers.metrics.localization.MAE"),
        entry("explainers.metrics.faithfulness.RISECurves", steps=4),
    ],
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return untrained_classifier(tmp_path_factory.mktemp("classifier"))


def in_python(folder, classifier):
    score = Score(
        methods={
            "wide": lambda explanandum: CentredGaussian(explanandum, sigma=0.5),
            "few": lambda explanandum: RISE(explanandum, masks=4, grid=3),
        },
        metrics=[MAE(), RISECurves(steps=4)],
        target="label",
        sanity=False,
        output_dir=str(folder),
        bootstrap=10,
        panels=1,
    )
    module = RISE(Explanandum(classifier), masks=6, grid=3)
    trainer(folder, CheckClassifier(), score).test(module, Shapes(**IMAGES), verbose=False)


def evaluate(command, folder, classifier, *callbacks, **groups):
    """Run a command of the program with a configuration file."""
    explanandum = entry("explainers.Explanandum", model=classifier)
    config = {
        "model": entry("explainers.methods.rise.RISE", explanandum=explanandum, masks=6, grid=3),
        "data": entry("datamodules.shapes.Shapes", **IMAGES),
        "trainer": QUIET | {"callbacks": list(callbacks), "default_root_dir": str(folder)},
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config | groups, sort_keys=False))
    assert main(EvaluateCLI, [command, "-c", str(folder / "config.yaml")]) == 0


def results(folder):
    """All that a run has measured, but for the time it took."""
    rows = [{**row, "seconds": ""} for row in read(folder / "scores.csv")]
    summary, settings = (
        json.loads((folder / name).read_text()) for name in ("summary.json", "settings.json")
    )
    return rows, summary, settings


def test_three_forms_give_the_same_scores(tmp_path, classifier):
    plain, listed, group = (tmp_path / name for name in ("plain", "listed", "group"))
    in_python(plain, classifier)
    score = entry("explainers.callbacks.score.Score", **SETTINGS)
    evaluate("test", listed, classifier, score)
    evaluate("test", group, classifier, score=SETTINGS)
    rows, summary, settings = results(plain)
    assert list(summary["methods"]) == ["rise", "wide", "few"]
    assert [row["index"] for row in rows if row["MAE"]] == ["0", "1", "2", "3"] * 3
    assert len({row["MAE"] for row in rows}) == 12  # no two alike
    for other in (listed, group):
        assert results(other) == (rows, summary, settings)
        assert (other / "panels.png").read_bytes() == (plain / "panels.png").read_bytes()


def test_a_listed_callback_goes_before_the_group_of_its_class(tmp_path, classifier):
    score = entry("explainers.callbacks.score.Score", name="listed", **SETTINGS)
    evaluate("test", tmp_path, classifier, score, score={"name": "group", "panels": 0})
    methods = list(json.loads((tmp_path / "summary.json").read_text())["methods"])
    assert methods == ["listed", "wide", "few"]


def test_each_group_belongs_to_one_command(tmp_path, classifier):
    predicted, tested = tmp_path / "predict", tmp_path / "test"
    refused = SETTINGS | {"bootstrap": 0}  # by a Score, if there were one
    save = {"output_dir": str(predicted / "maps")}
    evaluate("predict", predicted, classifier, score=refused, save=save)
    assert len(list((predicted / "maps").rglob("*.npy"))) == 4
    save = {"output_dir": str(tested / "maps")}
    evaluate("test", tested, classifier, score=SETTINGS, save=save)
    assert (tested / "scores.csv").exists()
    assert not (tested / "maps").exists()


@pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",  # jsonargparse about LightningCLI
    "ignore:LightningCLI's args parameter.*",  # pytest has a command line of its own
)
def test_rows_in_a_file_become_factories_of_methods(tmp_path):
    planted = {"model": "tests.planted:PlantedCNN", "feature_layers": ["stages.0"]}
    methods = {
        "wide": entry("explainers.methods.constant.CentredGaussian", sigma=0.4),
        "noise": {"class_path": "explainers.methods.constant.Random"},
    }
    specific = entry("explainers.metrics.classification.ClassSpecificity", classes=[1, "cat"])
    score = entry("explainers.callbacks.score.Score", methods=methods, metrics=[specific])
    config = {
        "model": entry("explainers.methods.constant.Constant", explanandum=planted),
        "trainer": {"logger": False, "callbacks": [score]},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    cli = LightningCLI(
        Explainer,
        subclass_mode_model=True,
        run=False,
        args=["-c", str(tmp_path / "config.yaml")],
        save_config_callback=None,
        seed_everything_default=False,
    )
    built = next(c for c in cli.trainer.callbacks if isinstance(c, Score))
    wide = built.methods["wide"](cli.model.explanandum)
    assert (type(wide), wide.sigma) == (CentredGaussian, 0.4)
    assert wide.explanandum is cli.model.explanandum
    assert built.methods["noise"](cli.model.explanandum).seed == 0
    assert built.metrics[0].classes == [1, "cat"]
