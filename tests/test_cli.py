"""The two programs as a user runs them, in process, on tiny data."""

import csv
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from explainers.cli import CLI, EvaluateCLI, main
from explainers.explanandum.classifier import Classifier
from tests.support import fit_trainer as trainer
from tests.support import untrained_classifier

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
    folder, other = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("classifier")
    fit = trainer(other)
    fit.strategy.connect(Classifier("test_resnet", 6, multi_label=True))
    fit.save_checkpoint(other / "classifier.ckpt")
    keep = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": str(folder), "filename": "last"},
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
                    "init_args": {"model": str(other / "classifier.ckpt")},
                },
                "network": {
                    "backbone": "tu-test_resnet",
                    "decoder_channels": 16,
                    "atrous_rates": [1, 2, 3],
                },
            },
        },
        "data": SHAPES,
    }
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    (folder / "data.yaml").write_text(yaml.safe_dump({"data": SHAPES}))
    assert main(CLI, ["fit", "-c", str(folder / "fit.yaml")]) == 0
    (other / "classifier.ckpt").unlink()  # from here on the explainer's checkpoint must be enough
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


def test_a_fit_does_not_resume_without_its_classifier(run, capsys):
    arguments = ["fit", "-c", str(run / "fit.yaml"), "--ckpt_path", str(run / "last.ckpt")]
    assert main(CLI, arguments) == 2
    assert "classifier.ckpt' does not exist" in capsys.readouterr().err


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
def test_what_is_misspelt_is_named_in_one_line(run, tmp_path, capsys, change, told):
    text = (run / "fit.yaml").read_text()
    assert change[0] in text
    (tmp_path / "bad.yaml").write_text(text.replace(*change))
    flags = []
    if "nothing" in change[1]:
        flags = ["--model.init_args.explanandum.init_args.model", untrained_classifier(tmp_path)]
    assert main(CLI, ["fit", "-c", str(tmp_path / "bad.yaml"), *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert told in error


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"model.init_args.network.decoder_channels": "wide"},
            "model.DeepLabExplainer.network.decoder_channels must be int, got wide",
        ),
        (
            {"model.init_args.network.atrous_rates": "[1, x]"},
            "model.DeepLabExplainer.network.atrous_rates must be list[int], got [1, 'x']",
        ),
        (
            {"model.init_args.optimizer.schedule": "exponential"},
            "model.DeepLabExplainer.optimizer.schedule must be "
            "one of ['constant', 'cosine', 'linear', 'step', 'annealing'], got exponential",
        ),
        (
            {"model.init_args.explanandum.init_args.pretrained": "perhaps"},
            "model.DeepLabExplainer.explanandum.Explanandum.pretrained must be bool, got perhaps",
        ),
        (
            {"model.init_args.optimizer.schedul": "cosine"},
            "model.DeepLabExplainer.optimizer has no option 'schedul'; did you mean 'schedule'?",
        ),
        ({"data.init_args.batch_size": "4.5"}, "data.Shapes.batch_size must be int, got 4.5"),
        ({"trainer.max_steps": "many"}, "trainer.max_steps must be int, got many"),
        (
            {"trainer.limit_val_batches": "few"},
            "trainer.limit_val_batches must be float or int or null, got few",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("in_file", [True, False])
def test_a_value_of_a_wrong_type_is_told_with_its_place(
    run, tmp_path, capsys, change, told, in_file
):
    arguments = ["fit", "-c", str(run / "fit.yaml")]
    for place, value in change.items():
        nested = yaml.safe_load(value)
        for key in reversed(place.split(".")):
            nested = {key: nested}
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(nested))
        arguments += ["-c", str(tmp_path / "wrong.yaml")] if in_file else [f"--{place}", value]
    assert main(CLI, arguments) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"error: {told}"


def test_a_wrong_type_within_a_callback_is_told_with_its_place(run, tmp_path, capsys):
    score = {"class_path": "explainers.callbacks.score.Score", "init_args": {}}
    rise = {"class_path": "explainers.methods.rise.RISE", "init_args": {"masks": "few"}}
    curves = {"class_path": "explainers.metrics.faithfulness.RISECurves"}
    for arguments, told in (
        ({"bootstrap": "lots"}, "Score.bootstrap must be int, got lots"),
        ({"methods": {"few": rise}}, "Score.methods.few.RISE.masks must be int, got few"),
        (
            {"metrics": [curves | {"init_args": {"steps": "many"}}]},
            "Score.metrics.RISECurves.steps must be int or null, got many",
        ),
    ):
        score["init_args"] = arguments
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [score]}}))
        arguments = ["fit", "-c", str(run / "fit.yaml"), "-c", str(tmp_path / "wrong.yaml")]
        assert main(CLI, arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error == f"error: trainer.callbacks.{told}"


def test_a_late_error_begins_on_a_line_of_its_own(run, tmp_path, capsys, monkeypatch):
    arguments = ["test", *score_config(tmp_path), "--ckpt_path", str(run / "last.ckpt")]
    (tmp_path / "data.yaml").write_text((run / "data.yaml").read_text())
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "scores.csv").write_text("index,name\n0,a\n")  # without its settings
    monkeypatch.setattr("sys.stderr", sys.stdout)
    assert main(EvaluateCLI, [*arguments, "--trainer.enable_progress_bar", "true"]) == 2
    before, _, error = capsys.readouterr().out.rpartition("error: ")
    assert before.splitlines()[-1].startswith("Testing")
    assert before.endswith("\n")
    assert "no settings.json" in error
    assert error.endswith("or delete this one\n")


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


@pytest.mark.filterwarnings("ignore:.*tensorboardX.*:UserWarning")
def test_validate_needs_no_method_and_names_the_expectation(tmp_path, capsys, caplog):
    few = ["--data.init_args.val_images", "4", "--data.init_args.num_workers", "0"]
    with caplog.at_level(logging.INFO):
        assert main(EvaluateCLI, ["validate", *FILES, *few, "--out", str(tmp_path)]) == 0
    assert "val/f1" in capsys.readouterr().out
    assert "% measured, 95.0 % expected (" in caplog.text


@pytest.mark.filterwarnings("ignore:.*tensorboardX.*:UserWarning")
def test_validate_takes_the_input_size_of_the_classifier(tmp_path, caplog):
    for name in "abcdef":
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "val" / name / "black.png")
    data = ["-c", "configs/data/imagefolder.yaml", "--data.init_args.root", str(tmp_path)]
    words = ["-c", "configs/explananda/shapes.yaml", *data, "--data.init_args.num_workers", "0"]
    with caplog.at_level(logging.INFO):
        assert main(EvaluateCLI, ["validate", *words, "--out", str(tmp_path / "run")]) == 0
    assert "image_size: 96 x 96, the input size of the classifier" in caplog.text


def test_evaluate_refuses_other_files(tmp_path, capsys):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name, told in (("other.ckpt", "not a checkpoint of our"), ("none", "not exist")):
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
