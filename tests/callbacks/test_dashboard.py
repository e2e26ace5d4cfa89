"""Offline runs of Weights & Biases, read back with its own reader."""

import csv
import json
import os
import subprocess

import numpy as np
import pytest
import wandb
import yaml
from PIL import Image
from wandb.util import get_core_path

from explainers.callbacks.dashboard import log_results
from explainers.callbacks.loggers import OfflineFirstWandbLogger
from explainers.cli import CLI, EvaluateCLI, main
from tests import planted
from tests.support import Truth, trainer, untrained_classifier

LOGGER = "explainers.callbacks.loggers.OfflineFirstWandbLogger"
SHAPES = {
    "image_size": [32, 32], "batch_size": 4, "train_images": 12, "val_images": 4, "test_images": 3,
}  # fmt: skip
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def records(folder):
    """What the one run below a folder holds, as `wandb leet inspect` says it."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    reader = [get_core_path(), "leet", "inspect"]
    known = subprocess.run([*reader, "-h"], capture_output=True, text=True)
    if "-run-file" not in known.stdout + known.stderr:
        pytest.skip(f"wandb {wandb.__version__} has no reader of offline runs")
    reader += ["-no-observability", "-json", "-run-file"]
    done = subprocess.run([*reader, file], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()], file.parent / "files"


def merged(lines, kind):
    """All updates of a kind of record: the last value of each key."""
    found = {}
    for line in lines:
        if line["type"] == kind:
            found |= line[kind].get("update", {})
    return found


def history(lines, key):
    return [
        line["history"]["item"] for line in lines if key in line.get("history", {}).get("item", {})
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a fit of two steps and of the evaluation of its checkpoint, both logged."""
    folder = tmp_path_factory.mktemp("runs")
    explanandum = {"model": untrained_classifier(folder)}
    config = {
        "trainer": QUIET
        | {"max_steps": 2, "val_check_interval": 1, "limit_val_batches": 1, "log_every_n_steps": 1}
        | {"num_sanity_val_steps": 0, "limit_test_batches": 1}
        | {
            "logger": {"class_path": LOGGER, "init_args": {"artifacts": True}},
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"filename": "last"},
                },
                {
                    "class_path": "explainers.callbacks.maps.LogMaps",
                    "init_args": {"images": 2, "topk": 2},
                },
            ],
        },
        "score": {
            "bootstrap": 10, "sanity": False, "panels": 1, "target": "label",
            "metrics": [{"class_path": "explainers.metrics.localization.MAE"}],
            "methods": {"random": {"class_path": "explainers.methods.constant.Random"}},
        },
        "model": {
            "class_path": "explainers.methods.deeplab.DeepLabExplainer",
            "init_args": {
                "explanandum": {"class_path": "explainers.Explanandum", "init_args": explanandum},
                "optimizer": {"lr": 0.001},
                "network": {
                    "backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]
                },
            },
        },
        "data": {"class_path": "datamodules.shapes.Shapes", "init_args": SHAPES},
    }  # fmt: skip
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    quiet = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false"}
    places = {name: str(folder / "own") for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("NETRC", str(folder / "netrc"))
        patch.setenv("WANDB_MODE", "offline")  # Lightning changes it
        for name, value in {**quiet, **places}.items():
            patch.setenv(name, value)
        try:
            fit, test = folder / "fit", folder / "test"
            assert main(CLI, ["fit", "-c", str(file), "--out", str(fit)]) == 0
            wandb.finish()
            words = ["test", "-c", str(file), "--ckpt_path", str(fit / "last.ckpt")]
            assert main(EvaluateCLI, [*words, "--out", str(test)]) == 0
            wandb.finish()
        finally:
            wandb.teardown()
    return fit, test


@pytest.mark.slow
def test_a_fit_has_its_configuration_its_figures_and_its_pictures(runs):
    lines, files = records(runs[0])
    config = merged(lines, "config")
    assert config["optimizer"]["lr"] == config["config"]["model"]["init_args"]["optimizer"]["lr"]
    assert config["optimizer"]["name"] == "adamw"  # a default
    assert config["config"]["trainer"]["max_steps"] == 2
    assert config["config"]["data"]["init_args"]["train_images"] == 12
    steps = history(lines, "optimizer/lr")
    assert [step["trainer/global_step"] for step in steps] == [0, 1]
    for step in steps:
        assert step["optimizer/lr"] == pytest.approx(0.001)
        assert step["optimizer/gradient_norm"] > 0
        assert step["speed/images_per_second"] > 0
        terms = [step[f"train/{name}"] for name in ("classification", "entropy", "tv")]
        terms += [step[f"train/{name}"] for name in ("area_bounds", "mask_area", "other_area")]
        assert step["train/loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert len(history(lines, "val/loss")) == 2
    maps = history(lines, "val/maps.filenames")
    assert [each["trainer/global_step"] for each in maps] == [1, 2]
    for each in maps:
        (name,) = each["val/maps.filenames"]
        with Image.open(files / name) as shown:
            assert shown.size[0] == 5 * 160
    drawn = runs[0] / "maps" / "val-epoch-000.png"
    with Image.open(drawn) as own, Image.open(files / name) as shown:
        np.testing.assert_array_equal(np.asarray(own), np.asarray(shown))


@pytest.mark.slow
def test_the_labels_over_a_picture_are_whole_numbers_with_names(runs):
    lines, files = records(runs[0])
    last = history(lines, "val/masks.filenames")[-1]
    names = merged(lines, "config")["_wandb"]["mask/class_labels"]
    (key,) = names
    numbers = {int(number) for number in names[key]["value"]}
    assert names[key]["value"]["0"] == "none"
    assert len(last["val/masks.filenames"]) == len(last["val/masks.all_masks"]) == 2
    found = set()
    for each in last["val/masks.all_masks"]:
        with Image.open(files / each["classes"]["path"]) as labels:
            assert labels.size == (32, 32)
            found |= set(np.unique(np.asarray(labels)).tolist())
    assert found <= numbers
    assert found - {0}  # an untrained mask is near 0.5, so above it somewhere


@pytest.mark.slow
def test_the_artifacts_are_the_checkpoint_and_the_report(runs):
    for folder, kind, file in zip(
        runs, ("model", "report"), ("last.ckpt", "report.html"), strict=True
    ):
        artifacts = [line["artifact"] for line in records(folder)[0] if line["type"] == "artifact"]
        (found,) = [each for each in artifacts if each["type"] == kind]
        (entry,) = found["manifest"]["contents"]
        assert int(entry["size"]) == os.path.getsize(folder / file)


@pytest.mark.slow
def test_an_evaluation_has_its_settings_and_a_table_of_all_scores(runs):
    lines, files = records(runs[1])
    config = merged(lines, "config")
    assert config["evaluation"] == json.loads((runs[1] / "settings.json").read_text())
    (shown,) = history(lines, "test/scores.path")
    table = json.loads((files / shown["test/scores.path"]).read_text())
    with (runs[1] / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(table["data"]) > 3
    assert {row["method"] for row in rows} == {"deeplab", "random"}
    for row, values in zip(rows, table["data"], strict=True):
        for name, value in zip(table["columns"], values, strict=True):
            expected = row[name]
            if name not in ("name", "target", "method", "error"):
                expected = float(expected) if expected else None
            assert value == expected
    assert {"name", "target", "method", "MAE", "seconds", "error"} <= set(table["columns"])
    assert "identity" not in table["columns"]
    assert history(lines, "test/random/MAE")
    assert history(lines, "test/panels.filenames")


def test_a_table_has_the_numbers_of_the_file_and_nothing_for_those_that_are_missing(
    tmp_path, monkeypatch
):
    (tmp_path / "settings.json").write_text('{"target": "label"}')
    lines = (
        "index,name,target,method,MAE,seconds,identity,error",
        "3,7,1;2,a,0.5,,x,",
        "4,b,,a,,1e-3,y,no",
    )
    (tmp_path / "scores.csv").write_text("".join(f"{line}\n" for line in lines))
    logger, sent = OfflineFirstWandbLogger(save_dir=str(tmp_path), offline=True), {}
    for name in ("log_table", "log_hyperparams", "log_metrics"):
        monkeypatch.setattr(
            logger, name, lambda *given, _name=name, **_: sent.update({_name: given})
        )
    run = trainer(tmp_path, logger=logger)
    run.strategy.connect(Truth(planted.explanandum(), seed=5))
    log_results(run, tmp_path, {"test/a/MAE": 0.5})
    assert sent["log_metrics"] == ({"test/a/MAE": 0.5},)
    assert sent["log_table"] == (
        "test/scores",
        ["name", "target", "method", "MAE", "seconds", "error"],
        [["7", "1;2", "a", 0.5, None, ""], ["b", "", "a", None, 0.001, "no"]],
    )
    (values,) = sent["log_hyperparams"]
    assert (values["seed"], values["evaluation"]) == (5, {"target": "label"})


def test_without_a_logger_nothing_is_read(tmp_path):
    log_results(trainer(tmp_path), tmp_path, {})  # the folder is empty
