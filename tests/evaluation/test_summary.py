import warnings

import pytest

from explainers.evaluation.scores import of_records
from explainers.evaluation.summary import missing_notes, raise_if_failed, summarize
from explainers.evaluation.table import table
from explainers.metrics.localization import MAE
from explainers.metrics.localization_boxes import CropSaliency
from explainers.metrics.random_logit import RandomLogit


def test_a_method_without_rows_is_missing_everywhere():
    rows = [{"index": "0", "name": "", "target": "0", "method": "a", "MAE": "0.5"}]
    summary = summarize(of_records(rows), [MAE()], ["a", "b"], bootstrap=3)
    lost = {"mean": None, "ci95": [None, None], "n": 0, "higher_is_better": False}
    assert summary["methods"]["b"]["MAE"] == lost
    assert summary["paired"] == []
    assert table(summary).splitlines()[3].split() == ["|", "b", "|", "-", "|"]


def test_small_numbers_keep_a_digit_and_missing_ones_show_a_dash():
    figure = {"ci95": [1e-5, 3e-5], "n": 20, "higher_is_better": False}
    summary = {
        "methods": {"a": {"t": {**figure, "mean": 2e-5}}, "b": {"t": {**figure, "mean": None}}},
        "paired": [],
    }
    assert table(summary).splitlines()[2:] == [
        "| a      | 2e-05 ± 1e-05 |",
        "| b      |             - |",
    ]


def test_what_the_paired_test_does_not_tell_apart_is_marked():
    figure = {"mean": 0.5, "ci95": [0.4, 0.6], "n": 10, "higher_is_better": True}
    tests = [("a", "b", 0.05), ("a", "c", 0.04), ("b", "c", 0.9)]
    summary = {
        "methods": {name: {"t": figure} for name in "abc"},
        "paired": [{"metric": "t", "a": a, "b": b, "p": p, "nonzero": 9} for a, b, p in tests],
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
    summary = summarize(of_records(rows), [metric], ["a", "b"], bootstrap=5)
    figures = [summary["methods"][name]["CropSaliency"] for name in "ab"]
    assert [(figure["mean"], figure["n"]) for figure in figures] == [(5, 3), (4.5, 2)]
    assert summary["paired"] == [
        {"metric": "CropSaliency", "a": "a", "b": "b", "difference": 0, "p": 1, "nonzero": 0}
    ]


def scores(values, methods="ab"):
    """Rows of scores.csv with the given values of each method."""
    return [
        {"index": str(i), "name": "", "target": "0", "method": m, "MAE": str(v), "seconds": "1"}
        for m, column in zip(methods, values, strict=True)
        for i, v in enumerate(column)
    ]


def lines(values, methods="ab"):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = summarize(
            of_records(scores(values, methods=methods)), [MAE()], list(methods), bootstrap=50
        )
    text = table(summary).splitlines()
    cells = [line.split("|")[2].strip() for line in text[2 : 2 + len(methods)]]
    return summary, cells, [line for line in text[2 + len(methods) :] if line]


def test_one_image_has_no_interval():
    summary, cells, notes = lines([[0.25], [0.5]])
    assert cells == ["0.250", "0.500"]
    assert notes == ["1 image is too few to tell rows apart, and intervals are rough"]
    figure = {"mean": 0.25, "ci95": [None, None], "n": 1, "higher_is_better": False}
    assert summary["methods"]["a"]["MAE"] == figure
    (test,) = summary["paired"]  # the file says what it said
    assert test == {"metric": "MAE", "a": "a", "b": "b", "difference": -0.25, "p": 1, "nonzero": 1}


@pytest.mark.parametrize("count", [2, 6, 9])
def test_a_few_images_are_said_once_to_be_too_few(count):
    first = [i / 16 for i in range(count)]
    _, cells, notes = lines([first, first[::-1], first], "abc")
    assert all("±" in cell and "≈" not in cell and "†" not in cell for cell in cells)
    assert notes == [f"{count} images are too few to tell rows apart, and intervals are rough"]


def test_ten_images_can_be_told_apart_or_not():
    first = [i / 16 for i in range(10)]
    _, cells, notes = lines([first, first[::-1], [v + 0.25 for v in first]], "abc")
    assert ["≈" in cell for cell in cells] == [False, True, False]
    assert len(notes) == 1


def test_figures_of_fewer_images_than_the_table_are_marked():
    first = [i / 16 for i in range(12)]
    few = ["" if i > 5 else v for i, v in enumerate(first)]
    _, cells, notes = lines([first, few, first], "abc")
    assert ["†" in cell for cell in cells] == [False, True, False]
    assert ["≈" in cell for cell in cells] == [False, False, True]
    assert notes[-1] == "† too few images have this value, or differ in it, to tell rows apart"
    _, cells, _ = lines([first, [""] * 12], "ab")
    assert cells[1] == "-"


def test_a_test_that_cannot_succeed_does_not_say_not_told_apart():
    # 10 images reach p = 2 / 2 ** 10, which 25 comparisons leave below 0.05, and 26 do not.
    first = [i / 16 for i in range(10)]
    for rows, mark in ((26, "≈"), (27, "†")):
        methods = "abcdefghijklmnopqrstuvwxyzA"[:rows]
        _, cells, _ = lines([first] * rows, methods)
        assert mark not in cells[0]
        assert all(cell.endswith(mark) for cell in cells[1:])


def test_differences_on_too_few_images_are_marked():
    first = [i / 16 for i in range(12)]
    _, cells, _ = lines([first, [v + (i < 5) for i, v in enumerate(first)], first], "abc")
    assert ["†" in cell for cell in cells] == [False, True, False]
    assert ["≈" in cell for cell in cells] == [False, False, True]  # c is equal, so not told apart
    _, cells, _ = lines([first, [v + (i < 8) for i, v in enumerate(first)]])
    assert cells[1][-1] not in "†≈"


def test_intervals_by_bca():
    rows = scores([[i**3 / 8000 for i in range(20)]], "a")
    plain, bca = (
        summarize(of_records(rows), [MAE()], ["a"], interval=kind)["methods"]["a"]["MAE"]
        for kind in ("percentile", "bca")
    )
    assert plain["mean"] == bca["mean"]
    assert all(b > p for b, p in zip(bca["ci95"], plain["ci95"], strict=True))


def test_equal_and_constant_differences_warn_of_nothing():
    first = [i / 16 for i in range(12)]
    shifted = [v + 0.5 for v in first]
    mixed = [v + (0.5 if i % 2 else 0) for i, v in enumerate(first)]
    summary, _, _ = lines([first, first, shifted, mixed], "abcd")
    p = {(test["a"], test["b"]): test["p"] for test in summary["paired"]}
    assert p["a", "b"] == 1
    assert p["a", "c"] < 0.05
    assert p["a", "d"] > p["a", "c"]


def test_no_image_at_all():
    summary = summarize(of_records([]), [MAE()], ["a"], bootstrap=5)
    assert summary["images"] == 0
    assert summary["methods"]["a"]["MAE"]["ci95"] == [None, None]
    assert table(summary).splitlines()[2:] == ["| a      |     - |"]


def test_what_was_not_finite_is_counted():
    assert missing_notes(of_records([]), ["a"]) == []
    rows = scores([[0.1] * 5, [0.2] * 5])
    assert missing_notes(of_records(rows), ["a", "b"]) == []
    lost = {"MAE": "", "seconds": ""}
    rows[5] |= lost
    assert missing_notes(of_records(rows), ["a", "b", "undefined"]) == [
        "b: 1 of 5 maps is not finite, its values are missing"
    ]
    rows[6] |= lost
    for row in (rows[2], rows[7]):
        row |= lost | {"target": ""}
    assert missing_notes(of_records(rows), ["a", "b"]) == [
        "the classifier's outputs are not finite for 1 of 5 images: all their values are missing",
        "b: 2 of 5 maps are not finite, their values are missing",
    ]
    # Rows of single classes have no time; the row of the merged map does.
    rows = scores([[0.1] * 2], methods="a")
    rows.append(rows[0] | {"target": "1", "seconds": ""})
    assert missing_notes(of_records(rows), ["a"]) == []
    rows[0] |= {"target": "", "seconds": "1"}  # an image without a label
    assert missing_notes(of_records(rows), ["a"]) == []


def test_methods_are_compared_on_the_images_of_both():
    first = [i / 16 for i in range(12)]
    holes = ["" if i < 2 else v + 0.25 for i, v in enumerate(first)]
    summary, _, _ = lines([first, holes])
    assert summary["methods"]["b"]["MAE"]["n"] == 10
    assert summary["paired"][0]["difference"] == pytest.approx(-0.25)


def test_methods_are_ranked_by_the_distance_from_an_ideal_value():
    near, far = [0.01 * i for i in range(12)], [-0.9 - 0.001 * i for i in range(12)]
    rows = [
        {"index": str(i), "name": "", "target": "0", "method": m, "RandomLogit": str(v)}
        for m, column in (("near", near), ("far", far))
        for i, v in enumerate(column)
    ]
    summary = summarize(of_records(rows), [RandomLogit()], ["near", "far"], bootstrap=5)
    assert summary["ranks"]["RandomLogit"]["ranks"] == {"near": 1.0, "far": 2.0}
    assert summary["verdicts"]["RandomLogit"] == "near is ahead of far on RandomLogit"
    assert summary["methods"]["far"]["RandomLogit"]["mean"] == pytest.approx(-0.9055)


def test_a_row_that_wholly_failed_is_named():
    rows = scores([[0.1] * 2, [""] * 2])
    for row in rows:
        row["error"] = "OSError: x (a.py:1)" if row["method"] == "b" else ""
    with pytest.raises(ValueError, match=r"^b failed for every image, OSError: x"):
        raise_if_failed(of_records(rows), ["a", "b"])
    raise_if_failed(of_records(rows[:3]), ["a"])
