"""Runs of an array job, merged."""

import json

import pytest
import yaml
from scipy import stats

from explainers.cli import EvaluateCLI, main
from explainers.evaluation.merging import _judged, merge
from tests.support import untrained_classifier

PHOTOS = {"image_size": [32, 32], "batch_size": 2, "test_images": 5, "val_images": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of three shards and of the single run."""
    folder = tmp_path_factory.mktemp("runs")
    classifier = {"model": untrained_classifier(folder)}
    subject = {"class_path": "explainers.Explanandum", "init_args": classifier}
    score = {"bootstrap": 10, "sanity": False, "panels": 0}
    score["metrics"] = [
        {"class_path": "explainers.metrics.localization.MAE"},
        {"class_path": "explainers.metrics.complexity.Complexity"},
    ]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    config = {
        "trainer": quiet | {"accelerator": "cpu"},
        "model": {
            "class_path": "explainers.methods.constant.CentredGaussian",
            "init_args": {"explanandum": subject},
        },
        "data": {"class_path": "datamodules.shapes.Shapes", "init_args": PHOTOS},
        "score": score,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    for name, flags in [
        ("whole", []),
        *((str(i), [f"--data.init_args.shard=[{i},3]"]) for i in range(3)),
    ]:
        words = ["test", "-c", str(folder / "run.yaml"), "--out", str(folder / name), *flags]
        assert main(EvaluateCLI, words) == 0
    return folder


def test_the_parts_of_an_array_job_make_the_single_run(runs, tmp_path, capsys):
    shards = [str(runs / str(i)) for i in range(3)]
    assert main(EvaluateCLI, ["merge", *shards, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    for name in ("settings.json", "summary.json"):
        whole, merged = (
            json.loads((folder / name).read_text()) for folder in (runs / "whole", tmp_path)
        )
        for each in (whole, merged):
            each["classifier"] = None  # its F1 is no mean over images
            without_seconds(each)
        assert merged == whole
    for name in ("table.md", "table.csv"):
        whole, merged = (
            (folder / name).read_text().split("\n") for folder in (runs / "whole", tmp_path)
        )
        assert len(merged) == len(whole)
    whole, merged = (
        [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()]
        for folder in (runs / "whole", tmp_path)
    )
    at = whole[0].index("seconds")
    assert [row[:at] + row[at + 1 :] for row in merged] == [r[:at] + r[at + 1 :] for r in whole]
    assert len(list((tmp_path / "kept").glob("images-*.npz"))) == 1
    again = (tmp_path / "scores.csv").read_bytes()
    assert main(EvaluateCLI, ["merge", *shards, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "scores.csv").read_bytes() == again


def without_seconds(values):
    """Leaves out the time, which differs from run to run."""
    for part in ("verdicts", "ranks", "agreement"):
        values.pop(part, None)
    values["paired"] = [test for test in values.get("paired", ()) if test["metric"] != "seconds"]
    for figures in values.get("methods", {}).values():
        figures.pop("seconds", None)


def test_the_accuracy_of_the_parts_is_that_of_the_whole():
    parts = [(0.5, 4), (1.0, 6)]
    told = [
        {"figure": "top-1", "value": v, "ci95": [0, 1], "images": n, "problem": None}
        for v, n in parts
    ]
    found = _judged(told)
    assert (found["value"], found["images"]) == (0.8, 10)
    interval = stats.binomtest(8, 10).proportion_ci(0.95, method="wilson")
    assert found["ci95"] == [interval.low, interval.high]
    assert _judged([*told, None]) is None
    assert _judged([each | {"figure": "F1"} for each in told]) is None


def test_what_is_no_array_job_is_refused(runs, tmp_path):
    shards = [runs / str(i) for i in range(3)]
    with pytest.raises(ValueError, match="of 3 shards, 1 are missing"):
        merge([shards[0], shards[2]], tmp_path)
    with pytest.raises(ValueError, match="whole is no part of an array job"):
        merge([runs / "whole", *shards], tmp_path)
    with pytest.raises(ValueError, match="different folders"):
        merge([shards[0], shards[0]], tmp_path)
    with pytest.raises(ValueError, match="different folders"):
        merge(shards, shards[0])
    with pytest.raises(FileNotFoundError, match=r"holds no summary\.json"):
        merge([tmp_path], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
