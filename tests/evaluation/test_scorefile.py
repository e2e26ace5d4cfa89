import math

import pytest

from explainers.callbacks.score import Score
from explainers.evaluation.measure import score_batch
from explainers.evaluation.provenance import arguments, data_name, describe
from explainers.evaluation.scorefile import ScoreFile, complete, differences, read
from explainers.evaluation.targets import take
from explainers.methods.constant import Constant
from explainers.methods.extremal import ExtremalPerturbation
from explainers.methods.rise import RISE
from explainers.metrics.faithfulness import RISECurves
from explainers.metrics.localization import MAE
from tests import planted
from tests.support import Scenes, Truth, trainer

SETTINGS = {"columns": ["x", "seconds"], "methods": {"b": {}, "a": {}}, "target": "label"}


def records(index, *targets, value=1.0):
    row = {"index": index, "name": f'{index}, \u2028 "quoted" \udcff.jpg', "x": value}
    return [{**row, "target": t, "method": m} for t in targets or ("0",) for m in ("b", "a")]


def test_processes_write_shards_that_merge_sorted_and_distinct(tmp_path):
    first, second = (ScoreFile(tmp_path, SETTINGS, rank, 2) for rank in range(2))
    first.append(records(2) + records(0, value=math.nan))
    second.append(records(1, "1", "1|2") + records(0, value=math.nan))
    assert first.done == {0, 2}
    assert ScoreFile(tmp_path, SETTINGS, 0, 2).done == {0, 1, 2}
    rows = first.merge()
    assert [(r["method"], r["index"], r["target"]) for r in rows[:4]] == [
        ("b", "0", "0"), ("b", "1", "1"), ("b", "1", "1|2"), ("b", "2", "0"),
    ]  # fmt: skip
    assert [r["method"] for r in rows] == ["b"] * 4 + ["a"] * 4
    assert (rows[0]["x"], rows[1]["x"], rows[1]["seconds"]) == ("", "1.0", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.csv", "settings.json"]
    assert read(tmp_path / "scores.csv") == rows
    assert rows[1]["name"] == records(1)[0]["name"]


def test_a_line_or_header_cut_off_is_dropped(tmp_path):
    ScoreFile(tmp_path, SETTINGS).append(records(0) + records(1))
    text = (tmp_path / "scores.csv").read_bytes()
    (tmp_path / "scores.csv").write_bytes(text[:-2])
    file = ScoreFile(tmp_path, SETTINGS)
    assert file.done == {0}
    file.append(records(1))
    assert len(file.merge()) == 4
    (tmp_path / "scores.csv").write_bytes(text[:9])
    file = ScoreFile(tmp_path, SETTINGS)
    assert file.done == set()
    file.append(records(0))
    assert len(read(tmp_path / "scores.csv")) == 2


def test_settings_may_change_as_long_as_there_are_no_scores(tmp_path):
    ScoreFile(tmp_path, SETTINGS)
    file = ScoreFile(tmp_path, SETTINGS | {"target": "predicted"})
    file.append(records(0))
    with pytest.raises(ValueError, match="target was predicted, is label"):
        ScoreFile(tmp_path, SETTINGS)


def test_an_image_is_complete_with_every_target_of_every_method():
    rows = [
        {key: str(value) for key, value in r.items()}
        for r in records(0, "1", "2") + records(1, "1", "2")
    ]
    assert complete(rows, ["a", "b"]) == {0, 1}
    assert complete(rows[:-1], ["a", "b"]) == {0}
    assert complete(rows, ["a", "b", "c"]) == set()


def test_differences_are_told_by_their_place():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == ["a.b was 1, is 3"]
    assert differences({"a": {"b": 1}}, {"a": {"c": 1}}) == [
        "a.b was 1, is not there",
        "a.c was not there, is 1",
    ]
    assert differences({"a": {"b": {}}}, {"a": {}}) == ["a.b was there, is not there"]
    assert differences({"a": {"b": 1}}, {"a": 2}) == ["a was {'b': 1}, is 2"]


def test_differences_are_told_with_their_place():
    old = {"a": {"x": 1, "network": {"widths": [8]}}, "metrics": {"m": {}}}
    new = {"a": {"x": 2, "network": {"widths": [4]}}, "metrics": {"m": {}}}
    assert differences(old, old) == []
    assert differences(old, new) == ["a.x was 1, is 2", "a.network.widths was [8], is [4]"]


def test_what_changes_only_the_cost_is_no_setting():
    fast = RISE(planted.explanandum(), batch_size=1, channels_last=True)
    assert describe(fast) == describe(RISE(planted.explanandum()))
    assert arguments(RISECurves(batch_size=1)) == arguments(RISECurves())
    assert arguments(RISECurves(steps=5)) != arguments(RISECurves())


def test_settings_hold_tuples_as_well():
    explainer = ExtremalPerturbation(planted.explanandum(), areas=(0.2, 0.1))
    assert describe(explainer)["areas"] == (0.2, 0.1)


def test_what_a_later_batch_lacks_is_missing():
    explainer = Truth(planted.explanandum())
    images, targets = planted.scenes(2, (8, 8))
    inputs = {
        "images": images,
        "targets": targets,
        "logits": None,
        "explanandum": explainer.explanandum,
    }
    values, maps = score_batch(explainer, [MAE()], inputs)
    assert [list(v) for v in values.values()] == [["seconds"], ["seconds"]]
    assert maps.amax() == 1


def test_take_passes_on_what_belongs_to_no_image():
    assert take({"name": ["a", "b"], "kind": "test", "none": None}, [1]) == {
        "name": ["b"], "kind": "test", "none": None,
    }  # fmt: skip


def test_loaders_without_a_data_module(tmp_path):
    score = Score(output_dir=str(tmp_path), metrics=[], sanity=False, panels=0)
    test = trainer(tmp_path, score)
    module = Constant(planted.explanandum())
    test.test(module, dataloaders=Scenes().test_dataloader(), verbose=False)
    assert data_name(test) == "list"
    assert "5 images" in (tmp_path / "table.md").read_text()
