import csv
import json
import math

import pytest
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger

from explainers.callbacks.score import Score
from explainers.evaluation.measure import default_metrics
from explainers.evaluation.sanity import SANITY
from explainers.evaluation.scorefile import read
from explainers.evaluation.scores import load
from explainers.evaluation.summary import summarize
from explainers.explanandum.features import NotDefinedError
from explainers.methods.constant import CentredGaussian, Constant, Random
from explainers.methods.rise import RISE
from explainers.metrics.classification import ClassSpecificity
from explainers.metrics.localization import MAE, SoftIoU
from explainers.metrics.saliency import MaskSaliency
from explainers.metrics.seconds import Seconds
from tests import planted
from tests.support import Mass, Scenes, Truth, trainer

METHODS = ["truth", "wide", *SANITY]


def run(tmp_path, data=None, multi_label=False, module=None, changes=None, **arguments):
    defaults = {
        "name": "truth",
        "output_dir": str(tmp_path),
        "target": "label",
        "bootstrap": 50,
        "panels": 2,
    }
    defaults["methods"] = {"wide": lambda explanandum: CentredGaussian(explanandum, sigma=0.5)}
    score = Score(**{**defaults, **arguments})
    module = module or Truth(planted.explanandum(multi_label=multi_label))
    trainer(tmp_path, score, **(changes or {})).test(module, data or Scenes(), verbose=False)
    return read(tmp_path / "scores.csv")


def value(rows, method, index, name, target=None):
    found = [
        r
        for r in rows
        if (r["method"], int(r["index"])) == (method, index) and target in (None, r["target"])
    ]
    assert len(found) == 1
    return float(found[0][name] or "nan")


def test_end_to_end(tmp_path, capsys):
    rows = run(tmp_path)
    assert list(rows[0]) == [
        *("index", "name", "target", "method", "SoftAccuracy", "SoftIoU", "MAE", "MaskSaliency"),
        *("masked_tp", "masked_fp", "masked_fn", "clean_tp", "clean_fp", "clean_fn", "seconds"),
        *("identity", "error"),
    ]
    assert [r["method"] for r in rows] == [m for m in METHODS for _ in range(5)]
    assert [r["index"] for r in rows[:5]] == ["10", "11", "12", "13", "14"]
    assert [r["target"] for r in rows[:5]] == ["0", "1", "2", "3", "0"]
    assert rows[0]["name"] == "folder/0.jpg"
    for index in range(10, 15):
        for method in ("truth", "ground_truth"):  # the maps 0 and 3 are min-maxed
            assert value(rows, method, index, "SoftIoU") == 1
            assert value(rows, method, index, "MAE") == 0
        void = 0 if index in (12, 13) else 4  # the void row lies in the upper quadrants
        assert value(rows, "constant_1", index, "SoftIoU") == pytest.approx((16 - void) / 56)
        assert value(rows, "constant_05", index, "MAE") == 0.5
        assert value(rows, "constant_0", index, "MaskSaliency") == pytest.approx(
            math.log(0.05) - math.log(0.25)
        )

    summary = json.loads((tmp_path / "summary.json").read_text())
    about = ["explanandum", "classifier", "data", "target", "precision", "precision_check"]
    found = ["images", "methods", "families", "paired", "verdicts", "ranks", "agreement"]
    notes = ["masks", "costs", "left_out", "unread"]
    assert list(summary) == [*about, *found, *notes, "versions"]
    assert (summary["explanandum"], summary["data"], summary["images"]) == (
        "tests.planted:PlantedCNN",
        "Scenes",
        5,
    )
    assert summary["methods"]["truth"]["SoftIoU"] == {
        "mean": 1,
        "ci95": [1, 1],
        "n": 5,
        "higher_is_better": True,
    }
    assert summary["methods"]["truth"]["CleanF1"]["mean"] == 1
    assert not summary["methods"]["truth"]["seconds"]["higher_is_better"]
    (equal,) = [t for t in summary["paired"] if (t["metric"], t["b"]) == ("MAE", "ground_truth")]
    assert (equal["a"], equal["difference"], equal["p"], equal["nonzero"]) == ("truth", 0, 1, 0)
    again = summarize(load(tmp_path / "scores.csv"), default_metrics(), METHODS, bootstrap=50)
    assert {key: summary[key] for key in again} == again

    text = (tmp_path / "table.md").read_text()
    printed = capsys.readouterr().out
    assert text.split("|")[0] in printed
    assert text.split("|")[-1] in printed
    assert max(len(line) for line in printed.splitlines() if line.startswith("|")) <= 100
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[1:6] == ["method", "|", "SoftAccuracy", "↑", "|"]
    assert [line.split()[1] for line in lines[2:]] == METHODS
    assert lines[2].startswith("| truth *")
    assert (
        "min-maxed one by one for SoftAccuracy, SoftIoU, MAE, MaskSaliency, MaskedClassification"
        in text
    )
    assert (tmp_path / "panels.png").exists()


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, capsys):
    whole = run(tmp_path)
    file = tmp_path / "scores.csv"
    lines = sorted(file.read_text().splitlines()[1:])  # as streamed: image by image
    header = file.read_text().splitlines()[0]
    file.write_text(
        "\n".join([header, *lines])[: -len(lines[-1]) - len(lines[-2]) // 2]
    )  # image 14 is cut off
    Truth.calls = 0
    resumed = run(tmp_path)
    assert Truth.calls == 1
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in whole]
    kept = {(r["method"], r["index"]): r["seconds"] for r in whole if r["index"] != "14"}
    assert kept.items() <= {(r["method"], r["index"]): r["seconds"] for r in resumed}.items()
    Truth.calls = 0
    assert run(tmp_path) == resumed
    assert Truth.calls == 0


def test_a_file_of_another_run_is_refused(tmp_path):
    run(tmp_path)
    before = (tmp_path / "scores.csv").read_text()
    with pytest.raises(ValueError, match=r"target was label, is predicted\. Choose another folder"):
        run(tmp_path, target="predicted")
    with pytest.raises(ValueError, match=r"methods\.constant_0 was there, is not there; methods"):
        run(tmp_path, sanity=False)
    with pytest.raises(ValueError, match=r"columns was .*, is \['MAE', 'seconds'\]"):
        run(tmp_path, metrics=[MAE()])
    with pytest.raises(ValueError, match=r"methods\.wide\.sigma was 0\.5, is 0\.25"):
        run(tmp_path, methods={"wide": CentredGaussian})
    with pytest.raises(
        ValueError, match=r"metrics\.MaskSaliency\.activation was softmax, is model"
    ):
        run(
            tmp_path,
            metrics=[
                MaskSaliency("model") if isinstance(m, MaskSaliency) else m
                for m in default_metrics()
            ],
        )
    assert (tmp_path / "scores.csv").read_text() == before
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"no settings\.json"):
        run(tmp_path)


def test_a_run_goes_on_with_another_batch_size_but_not_with_other_masks(tmp_path):
    def rise(**arguments):
        return {"rise": lambda explanandum: RISE(explanandum, **arguments)}

    settings = {"sanity": False, "metrics": [MAE()]}
    whole = run(tmp_path, methods=rise(masks=8, batch_size=2), **settings)
    assert run(tmp_path, methods=rise(masks=8, batch_size=4), **settings) == whole
    with pytest.raises(ValueError, match=r"run: methods\.rise\.masks was 8, is 9\. Choose"):
        run(tmp_path, methods=rise(masks=9, batch_size=2), **settings)
    path = tmp_path / "settings.json"
    old = json.loads(path.read_text())
    assert "batch_size" not in old["methods"]["rise"]
    del old["methods"]["rise"]["fill"]
    path.write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"run: methods\.rise\.fill was not there, is mean\. C"):
        run(tmp_path, methods=rise(masks=8), **settings)


def test_the_module_under_test_may_be_a_sanity_row(tmp_path):
    module = Random(planted.explanandum(), seed=3)
    rows = run(tmp_path, name=None, module=module, methods={}, metrics=[MAE()])
    assert list(dict.fromkeys(row["method"] for row in rows)) == [
        "random",
        *(name for name in SANITY if name != "random"),
    ]
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["methods"]["random"]["seed"] == 3


def test_a_method_that_is_not_defined_for_the_classifier_is_missing(tmp_path, capsys):
    def undefined(explanandum):
        raise NotDefinedError("no spatial features")

    with pytest.warns(UserWarning, match="elsewhere is left out: no spatial features"):
        rows = run(tmp_path, methods={"elsewhere": undefined}, sanity=False, metrics=[SoftIoU()])
    assert {row["method"] for row in rows} == {"truth"}
    figures = json.loads((tmp_path / "summary.json").read_text())["methods"]
    assert figures["elsewhere"]["SoftIoU"]["mean"] is None
    assert "| elsewhere |" in capsys.readouterr().out


@pytest.mark.parametrize("one_by_one", [True, False])
def test_several_classes_merge_and_per_class_metrics_follow_each(tmp_path, one_by_one):
    data = Scenes(count=4, two=[1], batch_size=4)
    settings = {"multi_label": True, "sanity": False, "one_by_one": one_by_one}
    rows = run(tmp_path, data, **settings, metrics=[SoftIoU(), Mass()])
    own = [(r["index"], r["target"]) for r in rows if r["method"] == "truth"]
    assert own == [("10", "0"), ("11", "1"), ("11", "1|2"), ("11", "2"), ("12", "2"), ("13", "3")]
    assert value(rows, "truth", 11, "SoftIoU", "1|2") == 1
    assert math.isnan(value(rows, "truth", 11, "SoftIoU", "2"))
    assert value(rows, "truth", 11, "Mass", "2") == 1
    assert math.isnan(value(rows, "truth", 11, "Mass", "1|2"))
    assert value(rows, "wide", 11, "Mass", "1") == pytest.approx(0.25)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["methods"]["truth"]["Mass"]["n"] == summary["images"] == 4
    Truth.calls = 0
    run(tmp_path, data, **settings, metrics=[SoftIoU(), Mass()])
    assert Truth.calls == 0


def test_unlabelled_images_explain_the_prediction(tmp_path):
    data = Scenes(leave_out=("target", "mask", "void"))
    with pytest.warns(
        UserWarning,
        match="no labels or mask: left out SoftAccuracy, SoftIoU, MAE, MaskedClassification",
    ):
        rows = run(tmp_path, data, target="predicted")
    assert {r["method"] for r in rows} == set(METHODS) - {"ground_truth"}
    assert [r["target"] for r in rows[:5]] == ["0", "1", "2", "3", "0"]
    assert "SoftIoU" not in rows[0]
    assert value(rows, "truth", 10, "MaskSaliency") < 0
    with (
        pytest.raises(ValueError, match="needs labelled data"),
        pytest.warns(UserWarning, match="left out"),
    ):
        run(tmp_path / "label", data)


def test_the_runner_up_can_be_explained(tmp_path):
    explanandum = planted.explanandum()
    data = Scenes(count=4)
    rows = run(tmp_path, data, target="second", metrics=[SoftIoU()], sanity=False)
    second = [explanandum(s["image"][None]).topk(2).indices[0, 1].item() for s in data.samples]
    assert [int(r["target"]) for r in rows[:4]] == second
    assert math.isnan(
        value(rows, "truth", 10, "SoftIoU")
    )  # the image does not show it: missing, not 0
    assert "-" in (tmp_path / "table.md").read_text().split("truth")[1].split("|")[1]
    with pytest.raises(ValueError, match="single-label"):
        run(tmp_path / "multi", data, target="second", multi_label=True)


def test_class_specificity_prints_its_table(tmp_path, capsys):
    metric = ClassSpecificity([0, "top right"])
    rows = run(tmp_path, metrics=[metric, Seconds()], methods={}, checkpoints={})
    assert "ClassSpecificity/top right/none" in rows[0]
    printed = capsys.readouterr().out
    assert "ground_truth: softmax %" in printed
    figures = json.loads((tmp_path / "summary.json").read_text())["methods"]
    assert (
        figures["truth"]["ClassSpecificity/own"] == figures["ground_truth"]["ClassSpecificity/own"]
    )
    assert figures["truth"]["ClassSpecificity/own"]["n"] == 3  # images 0, 1 and 4
    assert figures["truth"]["ClassSpecificity/other"]["mean"] < 0.3


def test_checkpoints_of_the_same_explanandum_are_rows(tmp_path):
    module = Constant(planted.explanandum(), value=0.75)
    fit = trainer(tmp_path)
    fit.strategy.connect(module)
    fit.save_checkpoint(tmp_path / "constant.ckpt")
    other = tmp_path / "constant.ckpt"
    rows = run(tmp_path / "a", checkpoints={"loaded": str(other)}, sanity=False, metrics=[MAE()])
    assert value(rows, "loaded", 12, "MAE") == pytest.approx((16 * 0.25 + 40 * 0.75) / 56)
    different = planted.explanandum()
    different.model.stem.weight.data.mul_(2)
    with pytest.raises(ValueError, match="explains another classifier"):
        run(tmp_path / "b", module=Truth(different), checkpoints={"loaded": str(other)})


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="two rows are called 'random'"):
        Score(methods={"random": CentredGaussian})
    with pytest.raises(ValueError, match="bootstrap must be >= 1"):
        Score(bootstrap=0)
    with pytest.raises(ValueError, match="target must be"):
        Score(target="first")
    with pytest.raises(ValueError, match="two rows are called 'truth'"):
        run(tmp_path, name=None, methods={"truth": CentredGaussian})
    with pytest.raises(ValueError, match=r"lack \['index'\]"):
        run(tmp_path, Scenes(leave_out=("index",)))
    explanandum = planted.explanandum()
    explanandum.classes, explanandum.num_classes = [0, 1], 2
    with pytest.raises(ValueError, match="4 classes, the explanandum 2"):
        run(tmp_path, module=Truth(explanandum))


def test_only_explainers_are_scored(tmp_path):
    with pytest.raises(ValueError, match="Score tests an Explainer, got LightningModule"):
        Score().setup(trainer(tmp_path), LightningModule(), "test")


def test_the_logger_gets_the_means_and_names_the_folder(tmp_path):
    logger = CSVLogger(tmp_path, name="log")
    score = Score(target="label", metrics=[SoftIoU()], bootstrap=5, panels=0)
    module = Constant(planted.explanandum(), value=1.0)
    trainer(tmp_path, score, logger=logger, enable_progress_bar=True).test(
        module, Scenes(), verbose=False
    )
    folder = tmp_path / "log" / "version_0"
    with (folder / "metrics.csv").open() as file:
        logged = next(csv.DictReader(file))
    assert float(logged["test/ground_truth/SoftIoU"]) == 1
    assert logged["test/constant/SoftIoU"] == logged["test/constant_1/SoftIoU"]
    assert (folder / "summary.json").exists()
    assert not (folder / "panels.png").exists()


def test_intervals_of_either_kind(tmp_path):
    found = []
    for kind in ("percentile", "bca"):
        run(tmp_path / kind, interval=kind)
        summary = json.loads((tmp_path / kind / "summary.json").read_text())
        figures = summary["methods"]["random"]
        found.append((figures["SoftIoU"]["mean"], figures["SoftIoU"]["ci95"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
