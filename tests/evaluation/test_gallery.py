import numpy as np
import pytest

from explainers.evaluation import meancurves
from explainers.evaluation.gallery import Figures, gallery
from explainers.evaluation.meancurves import GRID, MeanCurves, line
from tests.evaluation.kept_run import decoded, entry

METHODS = ["a", "b"]


def shown(entries, about=None, methods=METHODS, scores=None, **options):
    figures = Figures(methods, {"Faithfulness": True}, lambda *key: (scores or {}).get(key, {}))
    return gallery(entries, about or {}, figures, **options)[0]


def test_ranks_and_levels_give_back_the_map_and_its_order():
    values = np.arange(16.0).reshape(4, 4)
    values[0] = 0  # equal values are ranked by index, as in the curves
    only = shown([entry(0, {"a": values}, side=4)], {"masks": ["a"]}, ["a"])["data"]["items"][0]
    (map_a,) = only["maps"]
    assert decoded(map_a["rank"]).ravel().tolist() == [16 * i for i in range(16)]
    levels = np.frombuffer(bytes.fromhex(map_a["levels"]), np.uint8)
    # A mask's range is [0, 1]: everything from 1 on is full, the first four pixels are 0.
    assert set(levels) == {0, 255}
    assert map_a["mean"] == pytest.approx(values.mean(), abs=1e-3)
    (map_a,) = shown([entry(0, {"a": values}, side=4)], {}, ["a"])["data"]["items"][0]["maps"]
    levels = np.frombuffer(bytes.fromhex(map_a["levels"]), np.uint8)
    assert (levels[0], levels[-1]) == (0, 255)
    assert levels[levels.size // 2] == pytest.approx(255 * 8 / 15, abs=6)
    assert map_a["mean"] == pytest.approx(values.mean() / 15, abs=1e-3)


def test_signed_maps_have_their_zero_in_the_middle_of_the_colors():
    values = np.tile(np.float32([-1.0, 0.0, 4.0, 0.0]), (4, 1))
    found = shown([entry(0, {"a": values}, side=4)], {"signed": ["a"]}, ["a"])["data"]
    levels = np.frombuffer(bytes.fromhex(found["items"][0]["maps"][0]["levels"]), np.uint8)
    assert (levels[0], levels[levels.size // 2], levels[-1]) == (96, 128, 255)
    assert found["signed"] == [True]


def test_large_maps_are_made_smaller_and_worthless_ones_say_so():
    maps = {"a": np.eye(300), "b": np.full((300, 300), np.nan), "c": np.zeros((300, 300))}
    found = shown([entry(0, maps, side=300)], {}, ["a", "b", "c", "d"])
    first, *others = found["data"]["items"][0]["maps"]
    assert decoded(first["rank"]).shape == (112, 112)
    assert others == [{"fault": "not finite"}, {"fault": "all zero"}, {}]
    assert [cell["fault"] for cell in found["rows"][0]["cells"]] == [
        *("", "not finite", "all zero", "no map is kept")
    ]
    assert found["rows"][0]["size"] == [224, 224]


def test_words_scores_and_curves_stand_beside_each_map():
    scores = {(0, "3", "a"): {"Faithfulness": 0.25}}
    found = shown([entry(0, METHODS, labels=["cat"])], scores=scores)
    (row,) = found["rows"]
    assert (row["name"], row["target"], row["labels"]) == ("0.jpg", "class 3", ["cat"])
    assert row["scores"] == [[0.25], [None]]
    assert found["classes"] == ["cat", "class 3"]
    first, *_, last = row["cells"][0]["lines"]["remove"].split(" ")
    assert (first, last) == ("0,1.00", "100,39.00")  # from 1 to 0
    assert row["cells"][0]["lines"]["insert"].endswith("100,20.00")  # to 0.5


def test_boxes_are_drawn_only_where_the_truth_is_known():
    values = np.zeros((10, 20))
    values[2:5, 10:14] = 1.0
    plain = entry(0, {"a": values}, size=[10, 20])
    assert "box" not in shown([plain], {}, ["a"])["data"]["items"][0]["maps"][0]
    plain.facts["boxes"] = [[0, 0, 10, 5]]
    found = shown([plain], {}, ["a"])
    (item,) = found["data"]["items"]
    assert item["maps"][0]["box"] == [0.5, 0.2, 0.7, 0.5]
    assert item["boxes"] == [[0, 0, 0.5, 0.5]]
    assert found["boxes"]


def test_several_single_classes_become_layers():
    found = shown([entry(0, METHODS, targets=("3", "7", "3|7")), entry(1, METHODS)])
    assert [row["target"] for row in found["rows"]] == [
        *("class 3", "class 7", "class 3, class 7", "class 3")
    ]
    (layers,) = found["layers"]
    assert [(each["name"], each["item"]) for each in layers["classes"]] == [
        *(("class 3", 0), ("class 7", 1))
    ]
    assert [each["probability"] for each in layers["classes"]] == [None, None]
    assert [item["photo"] for item in found["data"]["items"]] == [0, 0, 0, 1]


def test_images_that_make_the_page_too_large_are_left_out_but_count_for_the_curves():
    entries = [entry(i, METHODS) for i in range(5)]
    data = shown(entries[:2])["data"]
    pictures = [each["rank"] for item in data["items"] for each in item["maps"]]
    two = sum(len(each) * 3 // 4 for each in pictures) + sum(len(e.photo) for e in entries[:2])
    found, means = gallery(entries, {}, Figures(METHODS, {}, lambda *key: {}), budget=two)
    assert found["images"] == 2
    assert found["kept"] == 5
    assert means.bands("DeletionAUC", METHODS)["a"][2] == 5


def test_mean_curves_have_the_interval_of_the_mean():
    means, heights = MeanCurves(), (0.2, 0.4, 0.9)
    for index, height in enumerate(heights):
        each = entry(index, ["a"], targets=("1", "2"))
        for target, gap in (("1", 0.1), ("2", -0.1)):  # the targets of an image count once
            curve = np.float32([[0, 0.5, 1], [height + gap, np.nan, height + gap]])
            each.curves["a", target] = {"DEL": curve}
        means.add(each)
    mean, half, count = means.bands("DEL", ["a", "b"])["a"]
    assert count == 3
    assert mean == pytest.approx(np.full(GRID.size, 0.5), abs=1e-6)
    expected = 1.96 * np.std(heights, ddof=1) / 3**0.5
    assert half == pytest.approx(np.full(GRID.size, expected), abs=1e-6)
    assert set(means.bands("DEL", ["a", "b"])) == {"a"}


def test_a_curve_that_removes_the_least_relevant_pixels_is_read_from_its_end():
    curve = {"INS": np.float32([[0, 1], [0.8, 0.0]])}  # 0 when all pixels are removed
    assert line(curve, ("InsertionAUC", "INS")).startswith("0,39.00 ")
    assert line(curve, ("InsertionAUC", "INS")).endswith(f"100,{39 - 38 * 0.8:.2f}")
    assert meancurves.heights({"INS": np.float32([[0, 1], [np.nan] * 2])}, "INS") is None


def test_further_classes_are_layers_but_no_rows():
    one = entry(0, METHODS, targets=("3", "7"))
    one.facts["layers"] = {"7": "dog"}
    one.facts["probabilities"] = {"3": 0.9, "7": 0.05}
    found = shown([one, entry(1, METHODS)])
    assert [row["target"] for row in found["rows"]] == ["class 3", "class 3"]
    (layers,) = found["layers"]
    assert [(e["name"], e["item"], e["probability"]) for e in layers["classes"]] == [
        *(("class 3", 0, 0.9), ("dog", 2, 0.05))
    ]
    assert found["data"]["items"][2]["target"] == "dog"
