"""CSV files as people have them: delimiters, spaces, missing entries, and paths of images."""

import csv

import pytest

from datamodules.table import Table


def table(root, text, encoding="utf-8", column="file"):
    (root / "x.csv").write_bytes(text.encode(encoding))
    return Table(root / "x.csv", (column, "name_column"))


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_usual_dialects(tmp_path, mark, end, encoding):
    lines = ["file{m}kind", "a.png{m}caf\u00e9", "", "{m}", 'b.png{m} "x{m}y"', "c.png{m}z{m}{m}"]
    read = table(tmp_path, end.join(lines).format(m=mark), encoding)
    assert read.columns == ["file", "kind"]
    kinds = {row.cells["file"]: (row.line, row.cells["kind"]) for row in read.rows}
    quoted = f"x{mark}y"
    assert kinds == {"a.png": (2, "caf\u00e9"), "b.png": (5, quoted), "c.png": (6, "z")}


def test_the_delimiter_is_the_one_around_the_known_column(tmp_path):
    read = table(tmp_path, "note, with, commas;FILE;k\n,,,;a.png;1\n")
    assert read.columns == ["note, with, commas", "FILE", "k"]
    assert read.rows[0].cells["FILE"] == "a.png"
    assert [row.cells for row in table(tmp_path, "file\na.png\n").rows] == [{"file": "a.png"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"x\.csv: no column 'file', only \[\]; set name_column"),
        ("name;kind\n", r"no column 'file', only \['name', 'kind'\]; set name_column"),
        ("file,a,a\n", r"x\.csv:1: two columns are called 'a'; rename one"),
        ("file,a\nx,1\ny\n", r"x\.csv:3: expected 2 entries as in the header, got 1"),
        ("file,a\nx,1,2\n", r"x\.csv:2: expected 2 entries as in the header, got 3; quote"),
        ('file,a\nx,"cat\ny,dog\n', r"x\.csv:3: not readable as CSV \(unexpected end of data\)"),
        ('file,a\nx,"cat"s\n', r"x\.csv:2: not readable as CSV"),
    ],
)
def test_what_is_no_table_is_named_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path, text)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_refused(tmp_path, encoding):
    with pytest.raises(ValueError, match=r"x\.csv: not UTF-8 text \(.*\); save it as UTF-8"):
        table(tmp_path, "file,a\n\u00e4.png,1\n", encoding)


def test_columns_are_found_in_any_case_unless_two_would_be(tmp_path):
    read = table(tmp_path, "File ,Kind,kind,SIZE\n", column="file")
    assert [read.column(name, "x") for name in ("FILE", "kind", "Kind", "size")] == [
        "File", "kind", "Kind", "SIZE",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no column 'KIND', only .*; set label_column"):
        read.column("KIND", "label_column")


@pytest.mark.parametrize("entry", ["", " ", "nan", "NaN", "NA", "n/a", "<NA>", "null"])
def test_missing_entries_are_named_by_line(tmp_path, entry):
    read = table(tmp_path, f"file,a\nx,1\n\ny,{entry}\n")
    with pytest.raises(ValueError, match=r"x\.csv:4: no entry in column 'a' .*; fill it in"):
        read.entry(read.rows[1], "a")
    assert read.entry(read.rows[1], "a", allowed=[entry.strip()]) == entry.strip()


@pytest.mark.parametrize("entry", ["none", "None", "0", "nano"])
def test_words_that_can_be_classes_are_no_missing_entries(tmp_path, entry):
    read = table(tmp_path, f"file,a\nx,{entry}\n")
    assert read.entry(read.rows[0], "a") == entry


def test_indices_and_flags(tmp_path):
    read = table(tmp_path, "file,a\n" + "".join(f"x,{entry}\n" for entry in ("3", "3.0", " 07 ")))
    assert [read.index(row, "a") for row in read.rows] == [3, 3, 7]
    entries = ["0", "1", "0.0", "1.0", "True", "FALSE", "true"]
    read = table(tmp_path, "file,a\n" + "".join(f"x,{entry}\n" for entry in entries))
    flags = [read.flag(row, "a") for row in read.rows]
    assert flags == [False, True, False, True, True, False, True]


@pytest.mark.parametrize("entry", ["-1", "3.5", "cat", "1e2", "."])
def test_what_is_no_index_or_flag_is_named_by_line(tmp_path, entry):
    read = table(tmp_path, f"file,a\nx,{entry}\n")
    with pytest.raises(ValueError, match=rf"x\.csv:2: expected an index in 'a', got '{entry}'"):
        read.index(read.rows[0], "a")
    with pytest.raises(ValueError, match=rf"x\.csv:2: expected 0 or 1 in .* got '{entry}'"):
        read.flag(read.rows[0], "a")


def test_names_are_found_as_they_are_or_as_people_write_them(tmp_path):
    names = ["a\rb", 'say "hi"', "c,d\ne", "f ", "cafe\u0301", "g\\h", "\U0001f600"]
    for name in names:
        (tmp_path / f"{name}.png").touch()
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file"], *([name] for name in [*names, "caf\u00e9"])])
    read = Table(tmp_path / "x.csv", ("file", "name_column"))
    found = [read.file(row, "file", "{}.png", tmp_path) for row in read.rows]
    assert found == [(f"{name}.png", "") for name in [*names, "cafe\u0301"]]


def test_paths_are_relative_to_the_root_however_they_are_written(tmp_path):
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/sub/a.png").touch()
    (tmp_path / "out.png").touch()
    root = tmp_path / "root"

    def find(entry):
        read = table(tmp_path, f"file\n{entry}\n")
        return read.file(read.rows[0], "file", "{}", root)

    for entry in ("sub/a.png", "./sub//a.png", "sub\\a.png", ".\\sub\\a.png", f"{root}/sub/a.png"):
        assert find(entry) == ("sub/a.png", "")
    for entry in ("../out.png", str(tmp_path / "out.png"), "..\\out.png"):
        with pytest.raises(ValueError, match=r"x\.csv:2: .*out\.png lies outside .*root; set root"):
            find(entry)
    for entry in ("b.png", "sub", "C:\\sub\\a.png", "b" * 300):
        assert find(entry) == (entry, f"{tmp_path}/x.csv:2: no such file {root}/{entry}")
