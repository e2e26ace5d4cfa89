import csv
import math

import pytest

from explainers.evaluation import scorelines
from explainers.evaluation.scorefile import ScoreFile, printable, read
from explainers.evaluation.scores import load, of_records

SETTINGS = {"columns": ["x", "seconds"], "methods": {"b": {}, "a": {}}, "target": "label"}
NAMES = ["a, b.jpg", 'a "b".jpg', "a\nb.jpg", "a\rb.jpg", 'a\r\n"b".jpg', "x" * 250, "", "NaN"]


def records(index, *targets, value=1.0, name=None, error=None):
    name = f'{index}, \u2028 "quoted".jpg' if name is None else name
    row = {"index": index, "name": name, "x": value, "error": error}
    return [{**row, "target": t, "method": m} for m in ("b", "a") for t in targets or ("0",)]


def done(file):
    file.close()
    return set(file.done.values())


def test_a_process_may_have_rows_before_the_first_one_starts(tmp_path):
    second = ScoreFile(tmp_path, SETTINGS, 1, 2)
    second.append(records(1))
    first = ScoreFile(tmp_path, SETTINGS, 0, 2)
    assert set(first.done.values()) == {1}
    first.append(records(0))
    assert len(first.merge().index) == 4
    first.close()
    with pytest.raises(ValueError, match="holds the results of another run: target was label"):
        ScoreFile(tmp_path, SETTINGS | {"target": "second"}, 1, 2)


def test_processes_write_shards_that_merge_sorted_and_distinct(tmp_path):
    first, second = (ScoreFile(tmp_path, SETTINGS, rank, 2) for rank in range(2))
    first.append(records(2) + records(0, value=math.nan))
    second.append(records(1, "1", "1|2") + records(0, value=math.nan))
    assert set(first.done.values()) == {0, 2}
    foreign = ["scores-old.csv", "scores-0.csv", "scores.rank-0-old.csv", "scores.rank-a.csv"]
    for name in foreign:
        (tmp_path / name).write_text("of the user")
    first.close()
    first = ScoreFile(tmp_path, SETTINGS, 0, 2)
    assert set(first.done.values()) == {0, 1, 2}
    merged = first.merge()
    rows = read(tmp_path / "scores.csv")
    assert [merged.method.of(i) for i in range(8)] == [row["method"] for row in rows]
    assert [(r["method"], r["index"], r["target"]) for r in rows[:4]] == [
        ("b", "0", "0"), ("b", "1", "1"), ("b", "1", "1|2"), ("b", "2", "0"),
    ]  # fmt: skip
    assert [r["method"] for r in rows] == ["b"] * 4 + ["a"] * 4
    assert (rows[0]["x"], rows[1]["x"], rows[1]["seconds"]) == ("", "1.0", "")
    left = {path.name for path in tmp_path.iterdir()} - set(foreign)
    assert left == {"scores.csv", "settings.json", ".lock"}
    assert all((tmp_path / name).read_text() == "of the user" for name in foreign)
    assert rows[1]["name"] == records(1)[0]["name"]
    first.close()


def test_a_line_or_header_cut_off_is_dropped(tmp_path):
    file = ScoreFile(tmp_path, SETTINGS)
    file.append(records(0) + records(1))
    file.close()
    text = (tmp_path / "scores.csv").read_bytes()
    (tmp_path / "scores.csv").write_bytes(text[:-2])
    file = ScoreFile(tmp_path, SETTINGS)
    assert set(file.done.values()) == {0}
    file.append(records(1))
    assert len(file.merge()) == 4
    file.close()
    (tmp_path / "scores.csv").write_bytes(text[:9])
    file = ScoreFile(tmp_path, SETTINGS)
    assert file.done == {}
    file.append(records(0))
    file.close()
    assert len(read(tmp_path / "scores.csv")) == 2


def test_a_file_may_be_cut_off_anywhere(tmp_path):
    """Within a name of several lines, too: whatever is left is read as whole rows."""
    file = ScoreFile(tmp_path, SETTINGS)
    file.append(records(0, name='a\n"b",\n.jpg') + records(1, name="c\n\n.jpg"))
    whole = read(tmp_path / "scores.csv")
    content = (tmp_path / "scores.csv").read_bytes()
    file.close()
    for end in range(len(content)):
        (tmp_path / "scores.csv").write_bytes(content[:end])
        file = ScoreFile(tmp_path, SETTINGS)
        rows = read(file.path) if file.path.exists() else []
        assert rows == whole[: len(rows)]
        file.append([r for r in records(1, name="c\n\n.jpg") if len(rows) < 4])
        assert done(file) >= ({1} if len(rows) < 4 else {0, 1})


def test_settings_may_change_as_long_as_there_are_no_scores(tmp_path):
    ScoreFile(tmp_path, SETTINGS).close()
    file = ScoreFile(tmp_path, SETTINGS | {"target": "predicted"})
    file.append(records(0))
    file.close()
    with pytest.raises(ValueError, match="target was predicted, is label"):
        ScoreFile(tmp_path, SETTINGS)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_any_name_is_read_back_as_it_was(tmp_path, name):
    file = ScoreFile(tmp_path, SETTINGS)
    file.append(records(0, name=name) + records(1, name=f"{name}.png"))
    assert set(file.merge().name.known) == {name, f"{name}.png"}
    assert {row["name"] for row in read(file.path)} == {name, f"{name}.png"}
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as text:
        assert {row["name"] for row in csv.DictReader(text)} == {name, f"{name}.png"}
    file.close()
    assert done(ScoreFile(tmp_path, SETTINGS)) == {0, 1}


def test_bytes_that_are_no_text_stay_told_apart(tmp_path):
    names = ["a\udcff.jpg", "a\udcfe.jpg", "\ud800.jpg"]
    assert [printable(name) for name in names] == [r"a\udcff.jpg", r"a\udcfe.jpg", r"\ud800.jpg"]
    file = ScoreFile(tmp_path, SETTINGS)
    for index, name in enumerate(names):
        file.append(records(index, name=name))
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8")
    assert file.done == {printable(name): index for index, name in enumerate(names)}
    file.close()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"0,x.jpg,0,b\n", "4 fields of 8"),
        (b"one,x.jpg,0,b,1,1,,\n", "no index"),
        (b"0,x.jpg,0,c,1,1,,\n", "not of this run"),
        (b"0,\xff.jpg,0,b,1,1,,\n", "no UTF-8"),
        (b"\0\0\0\0\n", "fields"),
        (b'0,"x"y.jpg,0,b,1,1,,\n', "expected after"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path, line, told):
    file = ScoreFile(tmp_path, SETTINGS)
    file.append(records(0))
    file.close()
    content = file.path.read_bytes()
    file.path.write_bytes(content + line)
    with pytest.raises(ValueError, match=rf"scores\.csv, line 4 is damaged .*{told}.*delete"):
        ScoreFile(tmp_path, SETTINGS)
    assert file.path.read_bytes() == content + line
    file.path.write_bytes(content)
    assert done(ScoreFile(tmp_path, SETTINGS)) == {0}


@pytest.mark.parametrize("header", ["x,y,z", "index,name,target,method,y,seconds,identity,error"])
def test_a_file_with_another_header_is_named(tmp_path, header):
    file = ScoreFile(tmp_path, SETTINGS)
    file.append(records(0))
    file.close()
    lines = file.path.read_text().splitlines()
    file.path.write_text("\n".join([header, *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match=r"scores\.csv, line 1 is"):
        ScoreFile(tmp_path, SETTINGS)


def test_an_image_is_complete_with_every_target_of_every_method():
    rows = [
        {key: str(value) for key, value in r.items() if value is not None}
        for r in records(0, "1", "2", name="x") + records(1, "1", "2", name="y")
    ]
    assert of_records(rows).complete(2) == ({"x": 0, "y": 1}, {"x": "", "y": ""})
    assert of_records(rows[:-1]).complete(2)[0] == {"x": 0}
    assert of_records(rows).complete(3)[0] == {}


def test_failed_images_are_tried_again_and_their_last_rows_count(tmp_path):
    file = ScoreFile(tmp_path, SETTINGS)
    file.append(records(0) + records(1, value=None, error="OSError: x (a.py:1)"))
    file.merge()
    with (tmp_path / "errors.csv").open(newline="") as text:
        told = list(csv.DictReader(text))
    name = records(1)[0]["name"]
    assert told == [
        {"image": name, "method": method, "error": "OSError: x (a.py:1)"} for method in "ba"
    ]
    file.close()
    file = ScoreFile(tmp_path, SETTINGS)
    assert set(file.done.values()) == {0}
    file.append(records(1, value=5.0))
    file.merge()
    rows = read(file.path)
    assert [(r["target"], r["x"]) for r in rows if r["index"] == "1"] == [("0", "5.0")] * 2
    assert not (tmp_path / "errors.csv").exists()
    assert done(file) == {0, 1}


def test_rows_of_an_image_that_was_interrupted_are_replaced():
    row = {"index": "0", "name": "x", "error": ""}
    first, again = (
        [{**row, "target": "2", "method": method, "x": x} for method in ("b", "a")] for x in "12"
    )
    for rows in (first[:1] + again, first + again):
        found = of_records(rows)
        assert found.values["x"][found.last()].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("name", ["plain.jpg", 'a "b",\n.jpg'])
def test_columns_hold_what_the_lines_hold_however_long_the_file_is(tmp_path, monkeypatch, name):
    monkeypatch.setattr(scorelines, "BLOCK", 150)  # bytes
    file = ScoreFile(tmp_path, SETTINGS)
    values = [0.1 + 0.2, 1e300, -math.inf, None, 5e-324, 1 / 3]
    for index, value in enumerate(values):
        file.append(records(index, name=f"{index} {name}", value=value))
    rows, found = read(file.path), load(file.path)
    assert len(rows) == len(found) == 12
    for i, row in enumerate(rows):
        assert [row["name"], row["method"]] == [found.name.of(i), found.method.of(i)]
        x = found.values["x"][i]
        assert x == float(row["x"]) if row["x"] else math.isnan(x)
    before = file.path.read_bytes().splitlines(keepends=True)
    file.merge()
    assert sorted(file.path.read_bytes().splitlines(keepends=True)) == sorted(before)
    file.close()


def test_a_value_that_is_no_number_is_named(tmp_path):
    file = ScoreFile(tmp_path, SETTINGS)
    file.append(records(0) + records(1, value="many"))
    file.close()
    with pytest.raises(ValueError, match=r"line 4 is damaged \(its x is no number"):
        load(file.path)


def test_a_quote_that_is_not_closed_takes_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(scorelines, "BLOCK", 100)
    file = ScoreFile(tmp_path, SETTINGS)
    file.append(records(0))
    file.close()
    content = file.path.read_bytes()
    file.path.write_bytes(content + b'1,"x' + b"\n" * 100_000)
    assert sum(map(len, scorelines.whole_lines(file.path))) == len(content)
