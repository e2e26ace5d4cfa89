import csv
import json

from explainers.evaluation import report
from explainers.evaluation.scores import of_records
from explainers.evaluation.summary import summarize
from explainers.metrics.faithfulness import RISECurves, SLOCCurves
from explainers.metrics.localization import MAE
from explainers.metrics.localization_boxes import CropSaliency
from explainers.metrics.seconds import Seconds

ABOUT = {"explanandum": "net", "classifier": None, "data": "Photos", "target": "label"}
ABOUT |= {"masks": [], "costs": {"truth": None}, "left_out": {}, "unread": 0}


def page(metrics, **about):
    columns = [name for metric in metrics for name in metric.names]
    rows = [
        {"index": str(i), "name": f"{i}", "target": "0", "method": "truth"}
        | dict.fromkeys(columns, "0.5")
        for i in range(12)
    ]
    rows = of_records(rows)
    summary = {**ABOUT, "precision": "32-true", **about}
    summary |= summarize(rows, metrics, ["truth"], bootstrap=5)
    return report.page(summary, rows, metrics, (8, 8))


def test_the_caption_says_what_was_measured():
    assert page([MAE()]).splitlines()[0] == (
        "12 images, net, Photos, target: label, precision: 32-true"
    )
    judged = {"figure": "F1", "value": 0.5, "ci95": [0.25, 0.75], "images": 9, "problem": None}
    assert page([MAE()], classifier=judged, precision="bf16-mixed").splitlines()[0] == (
        "12 images, net (F1 50.0 % [25.0, 75.0]), Photos, target: label, precision: bf16-mixed"
    )


def test_scaled_maps_are_marked_only_where_a_metric_needs_it():
    text = page([MAE()])
    assert "| truth * |" in text
    assert "maps min-maxed one by one for MAE" in text
    assert "*" not in page([Seconds()])


def test_a_training_is_told_with_the_images_from_which_on_it_pays():
    seconds = {"own": 0.5, "slow": 2.5, "slower": 10.5, "alike": 0.9, "other": 3.0}
    figures = {name: {"seconds": {"mean": value}} for name, value in seconds.items()}
    costs = dict.fromkeys(seconds)
    costs["own"] = {"seconds": 1001.0, "steps": 2000, "images": 32000}
    costs["other"] = {"seconds": 7.0, "steps": 1, "images": 2}
    assert report.training_notes({"methods": figures}, costs) == [
        "own was trained for 1,001 s: 2,000 steps, 32,000 images; with this, it takes less time in "
        "all from so many images on: 501 against slow, 101 against slower",
        "other was trained for 7 s: 1 steps, 2 images; with this, it takes less time in all from "
        "so many images on: 1 against slower",
    ]
    assert report.training_notes({"methods": {}}, {"own": costs["own"]}) == [
        "own was trained for 1,001 s: 2,000 steps, 32,000 images"
    ]


def lengths(text):
    return [len(line) for line in text.split("\n") if line.startswith("|")]


def test_the_printed_table_is_narrow_and_the_written_one_whole(tmp_path, capsys):
    metrics = [RISECurves(), SLOCCurves(), Seconds()]
    names = ["a", "b"]
    rows = [
        {"index": str(i), "name": f"{i}", "target": "0", "method": name}
        | {c: str(i + j) for metric in metrics for c in metric.names}
        for j, name in enumerate(names)
        for i in range(12)
    ]
    rows = of_records(rows)
    summary = ABOUT | {"precision": "32-true", "costs": dict.fromkeys(names)}
    summary |= summarize(rows, metrics, names, bootstrap=5)
    text = report.page(summary, rows, metrics, (8, 8))
    means = report.write(tmp_path, summary, text, rows)
    assert means["test/b/IDD"] == 6.5
    printed = capsys.readouterr().out
    assert max(lengths(printed)) <= 100 < max(lengths(text))
    assert printed.count("\n| method ") == 3
    assert [printed.count(name) for name in ("POS ↓", "IDD ↑", "seconds ↓")] == [1, 1, 1]
    assert (tmp_path / "table.md").read_text() == text
    assert "\n- b is ahead of a on Faithfulness\n- b is ahead of a on IDD\n\nverdicts: " in text
    assert printed.count("is ahead of") == 2
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["verdicts"]["IDD"] == "b is ahead of a on IDD"
    assert written["families"]["POS"] == "SLOCCurves"
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["IDD"] for row in csv.DictReader(file)] == ["5.5", "6.5"]


def test_few_images_get_no_verdicts():
    assert report.verdict_notes({"images": 9, "verdicts": {"IDD": "9 images are too few"}}) == []
    assert report.verdict_notes({"images": 10, "verdicts": {}}) == []


def test_what_says_the_same_on_all_figures_is_said_once():
    few = "12 images are too few to tell the methods apart on "
    verdicts = {"A": few + "A", "B": "x is ahead of y on B", "C": few + "C"}
    text = report.verdict_notes({"images": 12, "verdicts": verdicts})[0]
    assert text.split("\n") == [f"- {few}A and C", "- x is ahead of y on B"]


def test_a_metric_without_a_value_says_why():
    text = page([CropSaliency(alphas=[0.1, 0.5])])
    assert "-: CropSaliency: alpha is tuned on one half of the images" in text
    assert "left out: no features" in page([MAE()], left_out={"cam": "no features"})
    assert "3 images could not be read" in page([MAE()], unread=3)
