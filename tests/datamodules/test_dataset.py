"""Names of images stay as they are, from any file system to a batch."""

import csv
import os
from pathlib import Path

import pytest
from PIL import Image

from datamodules.dataset import ImageDataset
from datamodules.folder import CSVFolder, ImageFolder
from datamodules.images import Fit
from datamodules.loading import Unreadable

ODD = [
    "a\rb.png", "a\nb.png", 'say "hi".png', "a,b;c.png", "-rf.png", "caf\u00e9.png",
    "cafe\u0301.png", "\U0001f600.png", "n" * 246 + ".png", "a\\b.png", "sub/a.png", "sub /a.png",
    "a'b.png", "%s{}.png",
]  # fmt: skip
BYTES = os.fsdecode(b"caf\xe9.png")  # Latin-1, which is not UTF-8


def fill(root, names):
    for value, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, value, value)).save(root / name)


def rows(data):
    """The value of each image by its name, from batches."""
    return {
        name: round(image.max().item() * 255)
        for batch in data.predict_dataloader()
        for name, image in zip(batch["name"], batch["image"], strict=True)
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_odd_names_of_a_folder_reach_the_batches_unchanged(tmp_path, workers):
    names = [*ODD, BYTES]
    fill(tmp_path, names)
    data = ImageFolder(
        root=str(tmp_path), labelled=False, image_size=[4, 4], batch_size=4, num_workers=workers
    )
    assert rows(data) == {name: value for value, name in enumerate(names)}


def test_odd_names_of_a_list_reach_the_batches_unchanged(tmp_path):
    fill(tmp_path, ODD)
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["filename", "a"], *([name, 1] for name in ODD)])
    data = CSVFolder(root=str(tmp_path), image_size=[4, 4], batch_size=4)
    assert rows(data) == {name: value for value, name in enumerate(ODD)}


@pytest.mark.parametrize("name", ["a\r\nb.png", BYTES, "\U0001f600.png"])
def test_messages_about_odd_names_are_one_line_that_can_be_printed(tmp_path, name):
    fill(tmp_path, [name, "z.png"])
    (tmp_path / name).write_bytes(b"no image")
    data = ImageFolder(root=str(tmp_path), image_size=[4, 4], on_error="raise")
    with pytest.raises(ValueError, match="not a readable image") as told:
        rows(data)
    skipping = ImageFolder(root=str(tmp_path), image_size=[4, 4])
    with pytest.warns(UserWarning, match="1 of 2 images") as said:
        assert list(rows(skipping)) == ["z.png"]
    assert list(skipping.skipped) == [name]
    for text in (str(told.value), str(said[0].message), *skipping.skipped.values()):
        assert len(text.splitlines()) == 1
        text.encode()
    assert not skipping.skipped[name].startswith(str(tmp_path))


def test_a_loader_gets_marks_where_an_index_gets_the_error(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    (tmp_path / "a.png").write_bytes(b"no image")
    source = ImageFolder(root=str(tmp_path)).source("predict")
    dataset = ImageDataset(source, Fit([4, 4], "squash", 1.0, "bilinear"), False, 0, None)
    bad, good = dataset.__getitems__([(0, 0), (0, 1)])
    reason = "not a readable image (cannot identify image file); replace or remove the file"
    assert bad == Unreadable("a.png", reason)
    assert good["name"] == "b.png"
    with pytest.raises(ValueError, match=r"^/.*a\.png: not a readable"):
        dataset[0]


def test_a_relative_root_is_read_from_where_it_was_given(tmp_path, monkeypatch):
    fill(tmp_path, ["data/a.png"])
    monkeypatch.chdir(tmp_path)
    assert rows(ImageFolder(root="data", image_size=[4, 4])) == {"a.png": 0}
    assert Path("data").is_dir()
