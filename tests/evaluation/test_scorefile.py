import math

import pytest

from explainers.evaluation.scorefile import ScoreFile, complete, differences, read

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
    old = {"a": {"x": 1, "network": {"widths": [8]}}, "metrics": {"m": {}}}
    new = {"a": {"x": 2, "network": {"widths": [4]}}, "metrics": {"m": {}}}
    assert differences(old, old) == []
    assert differences(old, new) == ["a.x was 1, is 2", "a.network.widths was [8], is [4]"]
    assert differences({"a": {"b": 1}}, {"a": {"c": 1}}) == [
        "a.b was 1, is not there",
        "a.c was not there, is 1",
    ]
    assert differences({"a": {"b": {}}}, {"a": {}}) == ["a.b was there, is not there"]
    assert differences({"a": {"b": 1}}, {"a": 2}) == ["a was {'b': 1}, is 2"]
