"""The identity of a data module: the same for the same images, another for others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.folder import CSVFolder, ImageFolder
from datamodules.identity import digest, file_size, plain
from datamodules.photos import Photos
from datamodules.shapes import Shapes
from datamodules.voc import VOC


class Mine(ImageFolder):
    """A user's own data module, with arguments taken in every way."""

    def __init__(self, root, *extra, level: float = 1.5, **kwargs):
        self.word = kwargs.pop("word", "x")
        super().__init__(root, labelled=False, **kwargs)


def fill(root):
    root.mkdir(parents=True, exist_ok=True)
    for index in range(4):
        Image.new("RGB", (4 + index, 4)).save(root / f"{index}.png")
    lines = [f"{index}.png,{'cat' if index % 2 else 'dog'}" for index in range(4)]
    (root / "labels.csv").write_text("\n".join(["filename,kind", *lines]))
    return str(root)


def test_every_argument_is_there_as_json(tmp_path, monkeypatch):
    root = fill(tmp_path / "data")
    found = Mine(root, "more", word="y", image_size=(4, 4), limit=3).identity("predict")
    assert found == {
        "class": f"{__name__}.Mine",
        "arguments": {
            "augment": False, "class_indices": None, "class_names": None, "crop_pct": 0.875,
            "extra": ["more"], "fractions": [0.8, 0.1, 0.1], "interpolation": "bilinear",
            "labelled": False, "level": 1.5, "limit": 3, "num_classes": None, "resize": "squash",
            "root": root, "seed": 0, "split_seed": 0, "test_on": None, "word": "y",
        },
        "image_size": [4, 4],
        "class_names": [],
        "split": "predict",
        "images": 3,
        "names": digest(f"{index}.png" for index in range(3)),
        "hash": digest((f"{index}.png", file_size(f"{root}/{index}.png")) for index in range(3)),
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    monkeypatch.chdir(tmp_path)
    assert Mine("data", "more", word="y", image_size=[4, 4], limit=3).identity("predict") == found


class Tagged:
    """Part of a data module from elsewhere."""

    def __init__(self, tag=None, **kwargs):
        self.tag = tag
        super().__init__(**kwargs)


class Both(Tagged, Photos):
    """A data module without an `__init__` of its own."""


class Kept(Photos):
    """A data module that keeps its arguments as those of Lightning do."""

    def __init__(self, tag="a", **kwargs):
        super().__init__(**kwargs)
        self.save_hyperparameters()


def test_arguments_from_elsewhere_and_those_that_lightning_keeps():
    found = Both(tag="x", names=["a.png"]).identity("test")["arguments"]
    assert (found["tag"], found["names"], found["seed"]) == ("x", ["a.png"], 0)
    kept = Kept(tag="b", limit=2)
    assert kept.hparams == {"tag": "b", "limit": 2}
    assert kept.identity("test")["arguments"]["tag"] == "b"
    assert not Photos().hparams  # nothing goes into checkpoints


def csv_data(root, **kwargs):
    return CSVFolder(**{"root": root, "label_column": "kind", "image_size": [4, 4], **kwargs})


@pytest.mark.parametrize(
    "change",
    [
        {"resize": "crop"}, {"image_size": [5, 4]}, {"split_seed": 1}, {"limit": 3},
        {"class_names": ["dog", "cat"]}, {"interpolation": "bicubic"}, {"crop_pct": 0.5},
    ],
)  # fmt: skip
def test_what_changes_images_changes_the_identity(tmp_path, change):
    root = fill(tmp_path)
    assert csv_data(root).identity("predict") != csv_data(root, **change).identity("predict")


def test_what_changes_no_image_does_not(tmp_path):
    root = fill(tmp_path)
    expected = csv_data(root).identity("predict")
    other = {"batch_size": 3, "num_workers": 2, "on_error": "raise", "augment": False}
    assert csv_data(f"{root}/../{tmp_path.name}", **other).identity("predict") == expected
    assert csv_data(root, image_size=None).identity("predict")["image_size"] == [224, 224]
    unset = csv_data(root, image_size=None).identity("predict")
    assert unset == csv_data(root, image_size=[224, 224]).identity("predict")


def test_other_labels_files_and_names_change_the_hash(tmp_path):
    root = fill(tmp_path)
    listing, image = tmp_path / "labels.csv", tmp_path / "1.png"

    def hashed(count=None):
        return csv_data(root).identity("predict", count)["hash"]

    seen = [hashed(), hashed(1)]
    assert hashed(4) == hashed(99) == seen[0]
    assert csv_data(root).identity("predict", 2)["images"] == 2
    listing.write_text(listing.read_text().replace("1.png,cat", "1.png,dog"))
    seen.append(hashed())
    image.write_bytes(image.read_bytes() + b"\0")
    seen.append(hashed())
    image.unlink()
    seen.append(hashed())
    listing.write_text(listing.read_text().replace("3.png", "labels.csv"))
    seen.append(hashed())
    assert len(set(seen)) == len(seen)
    assert hashed(1) == seen[1]


def test_the_choice_of_what_is_tested_counts_when_it_is_made(tmp_path):
    data = csv_data(fill(tmp_path), fractions=[0.5, 0.25, 0.25])
    before = data.identity("test")
    data.test_on = "all"  # as the command line does
    after = data.identity("test")
    assert (before["images"], before["arguments"]["test_on"]) == (1, None)
    assert (after["images"], after["arguments"]["test_on"]) == (4, "all")


def test_arguments_are_kept_as_they_were_given(tmp_path):
    names = ["cat", "dog"]
    data = csv_data(fill(tmp_path), class_names=names)
    names.append("cow")
    assert data.identity("predict")["arguments"]["class_names"] == ["cat", "dog"]


def test_shapes_and_photographs():
    expected = Shapes(test_images=3).identity("test")
    assert expected == Shapes(test_images=3, cache=False, batch_size=1).identity("test")
    assert expected["arguments"]["test_images"] == 3
    assert expected["hash"] == digest([(f"test/{index:06d}",) for index in range(3)])
    for change in ({"scene_seed": 1}, {"parts": True}, {"test_images": 4}, {"allow_empty": True}):
        assert Shapes(**{"test_images": 3, **change}).identity("test") != expected
    photos = Photos(names=["coins.png"]).identity("test")
    assert photos["arguments"]["names"] == ["coins.png"]
    assert photos != Photos(names=["camera.png"]).identity("test")


def test_voc_counts_annotations_and_masks(tmp_path):
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\n")
    for path in ("JPEGImages/a.jpg", "Annotations/a.xml", "SegmentationClass/a.png"):
        (tmp_path / path).write_text("12345")
    seen = [VOC(root=str(tmp_path), year="2007", download=True).identity("test")]
    assert "download" not in seen[0]["arguments"]
    changes = [
        ("JPEGImages/a.jpg", "1234"),
        ("Annotations/a.xml", "12346"),
        ("SegmentationClass/a.png", "1"),
    ]
    for path, text in changes:
        (tmp_path / path).write_text(text)
        seen.append(VOC(root=str(tmp_path), year="2007").identity("test"))
    assert len({found["hash"] for found in seen}) == 4
    assert VOC(root=str(tmp_path), year="2007", masks=False).identity("test") not in seen


def test_wrong_arguments_are_told_as_without_the_record(tmp_path):
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'limt'"):
        Shapes(limt=3)
    with pytest.raises(TypeError, match=r"Mine\.__init__\(\) missing 1 required positional"):
        Mine()


def test_values_as_json():
    values = {
        "path": Path("/a"), 1: np.float64(0.5), "array": np.arange(2),
        "tensor": torch.tensor([True]), "inf": float("-inf"), "set": {"b", "a"},
        "none": None, "class": Shapes, "call": digest,
        "other": object(),
    }  # fmt: skip
    found = plain(values)
    assert found == {
        "path": "/a", "1": 0.5, "array": [0, 1], "tensor": [True], "inf": "-inf",
        "set": ["a", "b"], "none": None, "class": "datamodules.shapes.Shapes",
        "call": "datamodules.identity.digest", "other": "builtins.object",
    }  # fmt: skip
    json.dumps(found, allow_nan=False)
    assert digest(["a\udcff", ("b", 1)]) != digest(["a\udcff", ("b", "1")])
