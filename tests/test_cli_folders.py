"""Runs from the command line never mix, are never overwritten, and never hijacked."""

import json

import pytest
import torch
import yaml

from explainers.cli import CLI, EvaluateCLI, main
from tests.support import untrained_classifier

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
SHAPES = {
    "image_size": [32, 32], "batch_size": 4, "train_images": 8, "val_images": 4, "test_images": 3,
}  # fmt: skip
DEEPLAB = "explainers.methods.deeplab.DeepLabExplainer"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The configuration of a fit with two checkpoints and a log, and of its evaluation."""
    folder = tmp_path_factory.mktemp("files")
    explanandum = {"model": untrained_classifier(folder)}
    keep = "lightning.pytorch.callbacks.ModelCheckpoint"
    log = "lightning.pytorch.loggers.CSVLogger"
    fit = {
        "trainer": QUIET
        | {"accelerator": "cpu", "max_steps": 2, "log_every_n_steps": 1}
        | {"callbacks": [{"class_path": keep, "init_args": {"filename": "last"}}]}
        | {"logger": {"class_path": log, "init_args": {"name": "logs"}}},
        "model": {
            "class_path": DEEPLAB,
            "init_args": {
                "explanandum": {"class_path": "explainers.Explanandum", "init_args": explanandum},
                "network": {
                    "backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]
                },
            },
        },
        "data": {"class_path": "datamodules.shapes.Shapes", "init_args": SHAPES},
    }  # fmt: skip
    score = {"bootstrap": 10, "sanity": False, "panels": 0, "target": "label"}
    score["metrics"] = [{"class_path": "explainers.metrics.localization.MAE"}]
    (folder / "fit.yaml").write_text(yaml.safe_dump(fit | {"score": score}))
    evaluation = {"trainer": QUIET | {"accelerator": "cpu"}, "score": score, "data": fit["data"]}
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(evaluation))
    return folder


@pytest.fixture(scope="module")
def fitted(files):
    folder = files / "fitted"
    assert main(CLI, ["fit", "-c", str(files / "fit.yaml"), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # default folders lie below it


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, program, *words):
    assert main(program, list(words)) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_second_fit_is_refused_and_changes_nothing(files, fitted, capsys):
    before = content(fitted)
    words = ["fit", "-c", str(files / "fit.yaml"), "--out", str(fitted)]
    assert refused(capsys, CLI, *words) == (
        f"error: {fitted} holds another fit: resume it, --ckpt_path {fitted}/last.ckpt, or choose "
        "another folder, --out FOLDER"
    )
    other = refused(capsys, CLI, *words, "--ckpt_path", str(files / "classifier.ckpt"))
    assert "is a checkpoint of explainers.explanandum.classifier.Classifier, not of" in other
    changed = ["--data.init_args.seed", "3", "--ckpt_path", str(fitted / "last.ckpt")]
    assert "data.arguments.seed was 0, is 3" in refused(capsys, CLI, *words, *changed)
    assert content(fitted) == before


def test_a_fit_goes_on_from_its_checkpoint(files, tmp_path):
    words = ["fit", "-c", str(files / "fit.yaml"), "--out", str(tmp_path / "run")]
    assert main(CLI, words) == 0
    more = ["--trainer.max_steps", "3", "--ckpt_path", str(tmp_path / "run" / "last.ckpt")]
    assert main(CLI, [*words, *more]) == 0
    kept = max((tmp_path / "run").glob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    assert torch.load(kept, weights_only=True)["global_step"] == 3


def test_runs_without_a_folder_are_named_after_what_runs(files, fitted, tmp_path):
    assert main(CLI, ["fit", "-c", str(files / "fit.yaml")]) == 0
    assert (tmp_path / "runs/deeplab-classifier-shapes/last.ckpt").exists()
    rise = ["--model", "explainers.methods.rise.RISE", "--model.init_args.masks", "2"]
    rise += ["--model.init_args.explanandum", "explainers.Explanandum"]
    rise += ["--model.init_args.explanandum.init_args.model", str(files / "classifier.ckpt")]
    assert main(EvaluateCLI, ["test", "-c", str(files / "evaluate.yaml"), *rise]) == 0
    assert (tmp_path / "runs/rise-classifier/test-shapes/table.md").exists()
    assert main(EvaluateCLI, ["predict", "-c", str(files / "evaluate.yaml"), *rise]) == 0
    assert len(list((tmp_path / "runs/rise-classifier/predict-shapes").rglob("*.npy"))) == 3


def test_a_test_goes_below_the_fit_and_leaves_it_as_it_was(files, fitted):
    before = content(fitted)
    checkpoint = ["--ckpt_path", str(fitted / "last.ckpt")]
    assert main(EvaluateCLI, ["test", "-c", str(files / "evaluate.yaml"), *checkpoint]) == 0
    own = ["test", "-c", str(files / "fit.yaml"), *checkpoint, "--out", str(fitted)]
    assert main(EvaluateCLI, own) == 0  # the same run, with the fit's own configuration
    after = content(fitted)
    assert {path: after[path] for path in before} == before
    new = {path.relative_to(fitted).parts[0] for path in after.keys() - before.keys()}
    assert new == {"test-shapes"}
    assert not (fitted / "test-shapes" / "logs").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--data.init_args.seed", "1"], "data.arguments.seed was 0, is 1"),
        (["--data.init_args.resize", "crop"], "data.arguments.resize was squash, is crop"),
        (["--data.init_args.limit", "2"], "data.arguments.limit was None, is 2"),
        (["--trainer.limit_test_batches", "2", "--data.init_args.batch_size", "1"], "data.images"),
        (["--score.target", "predicted"], "target was label, is predicted"),
        (["--model.init_args.explanandum.init_args.mean", "[0.4, 0.4, 0.4]"], "explanandum.mean"),
        (["--model.init_args.explanandum.init_args.std", "[0.4, 0.4, 0.4]"], "explanandum.std"),
        (["--model.init_args.seed", "7"], "methods.deeplab.seed was 0, is 7"),
        (["--trainer.precision", "bf16-mixed"], "precision was 32-true, is bf16-mixed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_another_run_in_the_same_folder_is_refused(files, fitted, tmp_path, capsys, change, told):
    words = ["test", "-c", str(files / "evaluate.yaml"), "--ckpt_path", str(fitted / "last.ckpt")]
    words += ["--out", str(files / "scores")]
    assert main(EvaluateCLI, words) == 0
    before = content(files / "scores")
    assert told in (line := refused(capsys, EvaluateCLI, *words, *change))
    assert "Choose another folder (--out FOLDER)" in line
    assert content(files / "scores") == before


def test_rows_are_those_of_a_name(files, fitted, tmp_path, capsys):
    """Foreign files stay, and a run that goes on is the run of its name."""
    words = ["test", "-c", str(files / "evaluate.yaml"), "--ckpt_path", str(fitted / "last.ckpt")]
    words += ["--out", str(tmp_path / "scores")]
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "scores-old.csv").write_text("index,name,target,method,MAE\n")
    assert main(EvaluateCLI, words) == 0
    assert "resuming" not in capsys.readouterr().err
    assert (tmp_path / "scores" / "scores-old.csv").exists()
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["images"] == 3


def test_what_learns_is_not_tested_untrained(files, tmp_path, capsys):
    words = ["-c", str(files / "fit.yaml"), "--out", str(tmp_path / "x")]
    told = "DeepLabExplainer has not been trained: give --ckpt_path FILE, or --untrained"
    assert told in refused(capsys, EvaluateCLI, "test", *words)
    assert told in refused(capsys, EvaluateCLI, "predict", *words)
    assert told in refused(capsys, CLI, "validate", *words)
    assert main(EvaluateCLI, ["test", *words, "--untrained"]) == 0
    assert main(EvaluateCLI, ["validate", *words]) == 0  # of the classifier
    constant = ["--model", "explainers.methods.constant.Constant"]
    rows = {"score": {"methods": {"mine": {"class_path": DEEPLAB}}}}
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(rows))
    row = refused(capsys, EvaluateCLI, "test", *words, "-c", "rows.yaml", *constant)
    assert "mine of score.methods has not been trained: name its checkpoint in score.check" in row


def test_a_classifiers_checkpoint_is_measured(files, tmp_path, capsys):
    words = ["-c", str(files / "evaluate.yaml"), "--ckpt_path", str(files / "classifier.ckpt")]
    assert main(EvaluateCLI, ["validate", *words]) == 0
    assert "val/f1" in capsys.readouterr().out


def test_two_words_of_trust(files, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_method.py").write_text(
        "from explainers.methods.constant import CentredGaussian\n"
        "class Mine(CentredGaussian):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_method

    from explainers import Explanandum
    from tests.support import save

    own = own_method.Mine(Explanandum(str(files / "classifier.ckpt")))
    path = save(own, tmp_path / "mine.ckpt")
    words = ["test", "-c", str(files / "evaluate.yaml"), "--ckpt_path", path, "--out", "x"]
    assert "add --trust own_method" in refused(capsys, EvaluateCLI, *words)
    assert main(EvaluateCLI, [*words, "--trust", "other", "--trust=own_method"]) == 0
    (tmp_path / "mine.yaml").write_text("model: {class_path: own_method.Mine}\n")
    assert main(EvaluateCLI, [*words, "-c", "mine.yaml", "--score.panels", "0"]) == 0
    (tmp_path / "trust.yaml").write_text("trust: [own_method]\n")
    assert main(EvaluateCLI, [*words, "-c", "trust.yaml"]) == 0
