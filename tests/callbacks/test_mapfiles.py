"""Names of files: different images never share one; and what a kill leaves behind."""

import csv
import itertools
import os
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch

from explainers.callbacks.mapfiles import MapFiles, class_label, file_name

LONG = "ä" * 130  # 260 bytes
NAMES = [
    *("sub/z.jpg", "../sub/z.jpg", "/sub/z.jpg", "//sub/z.jpg", "sub/./z.jpg", "./sub/z.jpg"),
    *("sub//z.jpg", "sub/../sub/z.jpg", "sub\\z.jpg", "sub/z.jpg/", "SUB/z.jpg", "sub/z.jpg\n"),
    *("", ".", "..", "/", "a.npy", "a.npy/b", "a", "errors.csv/b", ".lock/b", "a\x00b", "a\r\nb"),
    *("%2E%2E/sub/z.jpg", "%2Fsub/z.jpg", "sub/%2E/z.jpg", "100%.jpg", "100%25.jpg", "a%0Ab"),
    *('it\'s "x", y.jpg', "caf\udce9.jpg", "caf%ED%B3%A9.jpg", "\ud800", "a\u2028b", "🦊.jpg"),
    *(LONG, LONG + "1", LONG + "/1.jpg", LONG + "1/1.jpg", "x" * 250 + ".jpg", "x" * 251 + ".jpg"),
]


def test_ordinary_names_stay():
    same = ["cats/1.jpg", "a b/ü (2).JPG", "100%.jpg", ".x/~y.png", "x.npy", "sub\\z.jpg", "it's\""]
    same += ["x" * 243, "d" * 255 + "/1"]
    assert [file_name(name) for name in same] == same


def test_every_image_has_its_own_files_inside_the_folder(tmp_path):
    files = MapFiles(tmp_path / "maps")
    names = [*NAMES, file_name(LONG), file_name(NAMES[-1])]  # what a long name becomes, as a name
    for name, ending in itertools.product(names, (".npy", ".heat.png", ".overlay.png")):
        for label in (None, *map(class_label, ["b", "b.c", "y" * 300])):
            path = files.path(name, ending, label)
            assert path not in (tmp_path / "maps", tmp_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as file:  # refuses a second one
                file.write(ascii(name))
            assert path.resolve().is_relative_to(tmp_path / "maps")
    for name in names:
        assert files.path(name, ".npy").read_text() == ascii(name)


def test_the_class_of_one_image_is_no_part_of_another_name():
    files = MapFiles(Path("."))
    names = ["b.c", "c", "b/c", "b%2Fc", "", "b", "b\n", "d~" + "0" * 16]
    labels = [class_label(name) for name in names]
    assert len(set(labels)) == 8
    paths = [
        files.path(n, ".heat.png", c) for n in ("a", "a.b", "a.b.c", "x" * 243) for c in labels
    ]
    assert len(set(paths)) == len(paths)
    assert max(len(os.fsencode(path.name)) for path in paths) <= 255


def test_names_can_be_read_back():
    for name in ("sub/./z\n%41.jpg", "caf\udce9", "../x"):
        assert unquote(file_name(name), errors="surrogatepass") == name


def test_names_of_a_length_that_files_cannot_have_keep_their_beginning():
    short = file_name("d/" + LONG)
    assert short.startswith("d/" + "ä" * 113 + "~")
    assert len(short.encode()) == 2 + 243
    assert file_name("d/" + LONG) == short != file_name("d/" + LONG + "x")


def test_classes_are_one_a_line(tmp_path):
    names = ["a\nb", "c\r\u2028d\x85", "caf\udce9", "x/y", "ü", "\\n"]
    MapFiles(tmp_path).classes(tmp_path / "a.classes.txt", names)
    lines = (tmp_path / "a.classes.txt").read_text("utf-8").splitlines()
    assert lines == [r"a\nb", r"c\r\u2028d\x85", r"caf\udce9", "x/y", "ü", r"\n"]


def test_an_array_comes_in_parts_and_whole_or_not_at_all(tmp_path):
    files, path = MapFiles(tmp_path), tmp_path / "sub" / "a.npy"
    values = torch.arange(12.0).view(3, 2, 2)
    with pytest.raises(AttributeError), files.array(path, (3, 2, 2)) as add:
        add(values[:2]) or add(None)
    assert list(tmp_path.iterdir()) == []
    with files.array(path, (3, 2, 2)) as add:
        add(values[:2])
        add(values[2:].double())
        assert not path.exists()
    saved = np.load(path)
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, values.numpy())
    assert [each.name for each in tmp_path.iterdir()] == ["sub"]


def test_what_a_killed_run_leaves_is_removed_by_the_next(tmp_path):
    files = MapFiles(tmp_path)
    for name in ("a", 'b"\n,\udce9', "c"):
        files.enter(name, f"id of {name[0]}")
    files.enter("a", "id of a, again")
    for name in ("a", 'b"\n,\udce9'):
        files.path(name, ".npy").touch()
    for left in (".maps-0.tmp", ".maps-3-array.tmp"):
        (tmp_path / left).write_bytes(b"half")
    with (tmp_path / "files.csv").open("a") as file:
        file.write('"d","d')  # killed within the line
    files.error("c", "m", "old")
    known = {"a": "id of a, again", 'b"%0A,%ED%B3%A9': "id of b"}
    assert files.identities() == known
    files.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.npy",
        'b"%0A,%ED%B3%A9.npy',
        "files.csv",
    ]
    files.enter("d", "id of d")
    with (tmp_path / "files.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["image"], row["file"], row["identity"]) for row in csv.DictReader(file)]
    assert rows == [
        ("a", "a", "id of a, again"),
        ('b"\n,\\udce9', 'b"%0A,%ED%B3%A9', "id of b"),
        ("d", "d", "id of d"),
    ]


def test_only_maps_count_as_results(tmp_path):
    files = MapFiles(tmp_path)
    for name in ("predict.json", "features.npy", "a.classes.txt", "sub/b.npy"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / name).touch()
        assert not files.hold_maps()
    (tmp_path / "sub" / "b.classes.txt").touch()
    assert files.hold_maps()
