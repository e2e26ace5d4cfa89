"""The two programs as a user runs them, in process, on tiny data."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from explainers.classifier import Classifier
from explainers.cli import CLI, EvaluateCLI, main
from tests.test_base import trainer

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
SHAPES = {
    "class_path": "datamodules.shapes.Shapes",
    "init_args": {
        "image_size": [32, 32],
        "batch_size": 4,
        "train_images": 8,
        "val_images": 4,
        "test_images": 5,
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained classifier, and an explainer of it trained from a config file."""
    folder = tmp_path_factory.mktemp("run")
    fit = trainer(folder)
    fit.strategy.connect(Classifier("test_resnet", 6, multi_label=True))
    fit.save_checkpoint(folder / "classifier.ckpt")
    keep = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": str(folder), "save_last": True, "save_top_k": 0},
    }
    config = {
        "trainer": QUIET
        | {"accelerator": "cpu", "max_steps": 2, "callbacks": [keep]}
        | {"default_root_dir": str(folder)},
        "model": {
            "class_path": "explainers.methods.deeplab.DeepLabExplainer",
            "init_args": {
                "explanandum": {
                    "class_path": "explainers.Explanandum",
                    "init_args": {"model": str(folder / "classifier.ckpt")},
                },
                "backbone": "tu-test_resnet",
                "decoder_channels": 16,
                "atrous_rates": [1, 2, 3],
            },
        },
        "data": SHAPES,
    }
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    (folder / "data.yaml").write_text(yaml.safe_dump({"data": SHAPES}))
    assert main(CLI, ["fit", "-c", str(folder / "fit.yaml")]) == 0
    (folder / "classifier.ckpt").unlink()  # from here on the explainer's checkpoint must be enough
    return folder


def score_config(folder):
    score = {
        "class_path": "explainers.callbacks.score.Score",
        "init_args": {"output_dir": str(folder / "scores"), "target": "label", "bootstrap": 10},
    }
    save = {
        "class_path": "explainers.callbacks.save.SaveMaps",
        "init_args": {"output_dir": str(folder / "maps")},
    }
    options = QUIET | {"accelerator": "cpu", "inference_mode": False, "callbacks": [score, save]}
    (folder / "evaluate.yaml").write_text(yaml.safe_dump({"trainer": options}))
    return ["-c", str(folder / "evaluate.yaml"), "-c", str(folder / "data.yaml")]


def test_a_checkpoint_alone_is_scored(run, capsys):
    arguments = ["test", *score_config(run), "--ckpt_path", str(run / "last.ckpt")]
    assert main(EvaluateCLI, arguments) == 0
    with (run / "scores" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} >= {"deeplab", "constant_1", "ground_truth"}
    assert len([row for row in rows if row["method"] == "deeplab"]) == 5
    summary = json.loads((run / "scores" / "summary.json").read_text())
    own = [float(row["SoftIoU"]) for row in rows if row["method"] == "deeplab"]
    assert summary["methods"]["deeplab"]["SoftIoU"]["mean"] == pytest.approx(np.mean(own))
    assert summary["methods"]["ground_truth"]["SoftIoU"]["mean"] == 1
    assert "deeplab" in capsys.readouterr().out


def test_predict_writes_a_map_and_two_pictures_an_image(run):
    arguments = ["predict", *score_config(run), "--ckpt_path", str(run / "last.ckpt")]
    assert main(EvaluateCLI, arguments) == 0
    maps = sorted((run / "maps").rglob("*.npy"))
    assert len(maps) == 5
    assert np.load(maps[0]).shape == (32, 32)
    assert len(list((run / "maps").rglob("*.png"))) == 10


def test_validate_measures_the_explanandum(run, capsys):
    arguments = ["validate", *score_config(run), "--ckpt_path", str(run / "last.ckpt")]
    assert main(EvaluateCLI, arguments) == 0
    assert "val/f1" in capsys.readouterr().out


def test_a_fit_resumes_from_its_checkpoint(run):
    arguments = ["fit", "-c", str(run / "fit.yaml"), "--trainer.max_steps", "3"]
    assert main(CLI, [*arguments, "--ckpt_path", str(run / "last.ckpt")]) == 2  # no classifier left


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("max_steps", "maxsteps"), "did you mean 'max_steps'?"),
        (("decoder_channels", "decoder_chanels"), "did you mean 'decoder_channels'?"),
        (("data:", "dta:"), "did you mean 'data'?"),
        (("DeepLabExplainer", "DeepLabExplaner"), "has no attribute 'DeepLabExplaner'"),
        (("tu-test_resnet", "tu-nothing"), "no encoder 'tu-nothing'"),
        (("classifier.ckpt", "none.ckpt"), "none.ckpt"),
    ],
)
def test_what_is_misspelt_is_named_in_one_line(run, capsys, change, told):
    text = (run / "fit.yaml").read_text()
    assert change[0] in text
    (run / "bad.yaml").write_text(text.replace(*change))
    if "nothing" in change[1]:
        fit = trainer(run)
        fit.strategy.connect(Classifier("test_resnet", 6, multi_label=True))
        fit.save_checkpoint(run / "classifier.ckpt")
    assert main(CLI, ["fit", "-c", str(run / "bad.yaml")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert told in error


def test_without_a_subcommand_it_says_what_to_do(capsys):
    assert main(EvaluateCLI, []) == 2
    assert "configs/quickstart.yaml" in capsys.readouterr().err


FILES = ["-c", "configs/explananda/shapes.yaml", "-c", "configs/data/shapes.yaml"]


@pytest.mark.filterwarnings("ignore:.*tensorboardX.*:UserWarning")
def test_what_has_nothing_to_learn_is_not_fitted(capsys):
    assert main(CLI, ["fit", "-c", "configs/methods/rise.yaml", *FILES]) == 2
    assert "RISE needs no training" in capsys.readouterr().err


def test_a_forgotten_method_is_named(capsys):
    assert main(EvaluateCLI, ["test", *FILES, "-c", "configs/evaluate.yaml"]) == 2
    assert "no method given" in capsys.readouterr().err


def test_evaluate_refuses_other_files(tmp_path, capsys):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name, told in (("other.ckpt", "not a checkpoint of an explainer"), ("none", "not exist")):
        assert main(EvaluateCLI, ["test", "--ckpt_path", str(tmp_path / name)]) == 2
        assert told in capsys.readouterr().err


def test_help_does_not_load_what_it_does_not_use():
    """The one subprocess: a help text must not wait for libraries that no command has asked for."""
    code = (
        "import sys; sys.argv = ['train.py', '--help']\n"
        "from explainers.cli import CLI, main\n"
        "try: main(CLI)\n"
        "except SystemExit: pass\n"
        "heavy = {'wandb', 'captum', 'quantus', 'segmentation_models_pytorch', 'timm', 'skimage'}\n"
        "sys.exit(','.join(heavy & set(sys.modules)) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
