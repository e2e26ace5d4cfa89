from explainers.evaluation.summary import summarize, table
from explainers.metrics.localization import MAE
from explainers.metrics.localization_boxes import CropSaliency


def test_a_method_without_rows_is_missing_everywhere():
    rows = [{"index": "0", "name": "", "target": "0", "method": "a", "MAE": "0.5"}]
    summary = summarize(rows, [MAE()], ["a", "b"], bootstrap=3)
    lost = {"mean": None, "ci95": [None, None], "n": 0, "higher_is_better": False}
    assert summary["methods"]["b"]["MAE"] == lost
    assert summary["paired"] == []
    assert table(summary).splitlines()[3].split() == ["|", "b", "|", "-", "|"]


def test_small_numbers_keep_a_digit_and_missing_ones_show_a_dash():
    figure = {"ci95": [1e-5, 3e-5], "n": 2, "higher_is_better": False}
    summary = {
        "methods": {"a": {"t": {**figure, "mean": 2e-5}}, "b": {"t": {**figure, "mean": None}}},
        "paired": [],
    }
    assert table(summary).splitlines()[2:] == [
        "| a      | 2e-05 ± 1e-05 |",
        "| b      |             - |",
    ]


def test_what_the_paired_test_does_not_tell_apart_is_marked():
    figure = {"mean": 0.5, "ci95": [0.4, 0.6], "n": 9, "higher_is_better": True}
    tests = [("a", "b", 0.05), ("a", "c", 0.04), ("b", "c", 0.9)]
    summary = {
        "methods": {name: {"t": figure} for name in "abc"},
        "paired": [{"metric": "t", "a": a, "b": b, "p": p} for a, b, p in tests],
    }
    *lines, _, note = table(summary).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == [
        "0.500 ± 0.100", "0.500 ± 0.100 ≈", "0.500 ± 0.100",
    ]  # fmt: skip
    assert "not told apart from a" in note


def test_a_tuned_threshold_is_scored_and_tested_on_the_other_half_alone():
    metric = CropSaliency(alphas=[0.1, 0.5])
    tuning, best, worse = [1, 1, 0, 0, 0], [1, 1, 4, 5, 6], [9, 9, 0, 0, 0]
    rows = []
    for method, first, second in (("a", best, worse), ("b", worse, best)):
        for i in range(5):
            row = {"index": str(i), "name": "", "target": "0", "method": method}
            columns = zip(metric.names, (first[i], second[i], tuning[i]), strict=True)
            rows.append(row | {name: str(value) for name, value in columns})
    rows[9] |= dict.fromkeys(metric.names, "")
    summary = summarize(rows, [metric], ["a", "b"], bootstrap=5)
    figures = [summary["methods"][name]["CropSaliency"] for name in "ab"]
    assert [(figure["mean"], figure["n"]) for figure in figures] == [(5, 3), (4.5, 2)]
    assert summary["paired"] == [
        {"metric": "CropSaliency", "a": "a", "b": "b", "difference": 0, "p": 1}
    ]
