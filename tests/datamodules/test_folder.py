"""Folders and CSV files of one's own images: labels, splits, foreign class indices, errors."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.folder import CSVFolder, ImageFolder

DATA = Path(__file__).parents[3] / "shared" / "data"


def save(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(path)


def fill(root, *names):
    for name in names:
        save(root / name)
    return str(root)


def names(data, split):
    return list(data.dataset(split).source.names)


def label(data, split, index):
    return data.dataset(split)[index]["target"].nonzero().flatten().tolist()


def test_class_folders_inside_split_folders(tmp_path):
    root = fill(
        tmp_path, "train/dog/1.png", "train/cat/1.png", "train/cat/2.png", "val/dog/x/3.png"
    )
    data = ImageFolder(root=root, image_size=[4, 4])
    assert data.class_names == ["cat", "dog"]
    assert not data.multi_label
    assert names(data, "train") == ["train/cat/1.png", "train/dog/1.png", "train/cat/2.png"]
    assert [label(data, "train", index) for index in range(3)] == [[0], [1], [0]]
    assert (
        names(data, "val") == names(data, "test") == names(data, "predict") == ["val/dog/x/3.png"]
    )
    assert data.dataset("val")[0]["target"].tolist() == [False, True]


def test_class_folders_without_splits_are_divided_once(tmp_path):
    root = fill(tmp_path, *(f"{name}/{i}.png" for name in ("train", "cat") for i in range(10)))
    data = ImageFolder(root=root, seed=5)
    assert data.class_names == ["cat", "train"]  # a class may be called train
    parts = [names(data, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert sorted(itertools.chain(*parts)) == sorted(names(data, "predict"))
    assert len(names(data, "predict")) == 20
    assert names(ImageFolder(root=root), "val") == parts[1]
    assert names(ImageFolder(root=root, split_seed=1), "val") != parts[1]
    whole = ImageFolder(root=root, fractions=[0, 0, 1], limit=4)
    assert [name.split("/")[0] for name in names(whole, "test")[:4]] == ["cat", "train"] * 2
    assert len(whole.dataset("test")) == 4


def test_unlabelled_folders_have_no_target(tmp_path):
    root = fill(tmp_path, "a.png", "deep/er/b.JPG", ".hidden/c.png")
    (tmp_path / "notes.txt").write_text("not an image")
    data = ImageFolder(root=root, image_size=[4, 4])
    assert data.num_classes == 0
    assert names(data, "predict") == ["a.png", "deep/er/b.JPG"]
    batch = next(iter(data.predict_dataloader()))
    assert set(batch) == {"image", "name", "index"}
    forced = ImageFolder(root=fill(tmp_path / "x", "a/1.png"), labelled=False)
    assert forced.num_classes == 0


def test_targets_in_a_larger_classifiers_index_space(tmp_path):
    root = fill(tmp_path, "n02/1.png", "n01/1.png")
    data = ImageFolder(root=root, class_indices={"n01": 7, "n02": 2, "n03": 0}, num_classes=9)
    assert data.num_classes == 9
    assert data.class_names[:4] == ["n03", "1", "n02", "3"]
    assert [label(data, "predict", index) for index in range(2)] == [[7], [2]]
    shown = ImageFolder(
        root=root, class_indices={"n01": 1, "n02": 0}, class_names=["tench", "shark"]
    )
    assert shown.class_names == ["tench", "shark"]
    assert label(shown, "predict", 0) == [1]
    ordered = ImageFolder(root=root, class_names=["n02", "n01"])
    assert [label(ordered, "predict", index) for index in range(2)] == [[1], [0]]


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        ImageFolder(root=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no images here"):
        ImageFolder(root=str(tmp_path)).setup("predict")
    root = fill(tmp_path, "train/cat/1.png", "train/dog/1.png")
    with pytest.raises(ValueError, match="no split 'val'"):
        ImageFolder(root=root).setup("fit")
    with pytest.raises(ValueError, match=r"unknown class 'dog'.*class_names"):
        ImageFolder(root=root, class_names=["cat"]).setup("fit")
    with pytest.raises(ValueError, match="class 'dog' has index 5, not in 0 to 2"):
        ImageFolder(root=root, class_indices={"cat": 0, "dog": 5}, num_classes=3).setup("fit")
    fill(tmp_path, "train/3.png")
    with pytest.raises(ValueError, match=r"3\.png: not in a class sub-folder"):
        ImageFolder(root=root, labelled=True).setup("fit")
    with pytest.raises(ValueError, match="split 'val' has no images"):
        ImageFolder(root=fill(tmp_path / "y", "1.png"), fractions=[1, 0, 0]).setup("fit")


def write(root, text, *files):
    fill(root, *files)
    (root / "labels.csv").write_text(text)
    return str(root)


def test_one_label_column(tmp_path):
    text = "filename,kind,size\na.png,dog,1\nb.png,cat,2\n"
    root = write(tmp_path, text, "a.png", "b.png")
    data = CSVFolder(root=root, label_column="kind", image_size=[4, 4])
    assert data.class_names == ["cat", "dog"]
    assert not data.multi_label
    assert [label(data, "predict", index) for index in range(2)] == [[1], [0]]
    assert data.dataset("predict")[0]["name"] == "a.png"
    mapped = CSVFolder(root=root, label_column="kind", class_indices={"dog": 3, "cat": 0})
    assert mapped.num_classes == 4
    assert label(mapped, "predict", 0) == [3]


def test_a_column_per_class_and_a_split_column(tmp_path):
    text = "\ufeffid,cat,dog,part\na,1,1,train\nb,0,1.0,val\nc,0,0,train\n"
    root = write(tmp_path, text, "img/a.png", "img/b.png", "img/c.png")
    settings = {"name_column": "id", "file_pattern": "img/{}.png", "split_column": "part"}
    data = CSVFolder(root=root, **settings, image_size=[4, 4], batch_size=2)
    assert data.multi_label
    assert data.class_names == ["cat", "dog"]
    assert names(data, "train") == ["img/a.png", "img/c.png"]
    assert [label(data, "train", index) for index in range(2)] == [[0, 1], []]
    assert names(data, "test") == names(data, "val") == ["img/b.png"]
    dogs = CSVFolder(root=root, **settings, class_names=["dog"])
    assert dogs.num_classes == 1
    assert label(dogs, "val", 0) == [0]


def test_an_index_column(tmp_path):
    text = "filename,index,kind\na.png,4,crane\nb.png,1,crane\n"
    root = write(tmp_path, text, "a.png", "b.png")
    data = CSVFolder(root=root, index_column="index", label_column="kind", num_classes=6)
    assert data.class_names == ["0", "crane", "2", "3", "crane", "5"]
    assert [label(data, "predict", index) for index in range(2)] == [[4], [1]]
    assert CSVFolder(root=root, index_column="index").num_classes == 5


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("name,kind\n", {}, "no column 'filename', only"),
        ("filename,a\nx.png,1\n", {"class_names": ["b"]}, "no column 'b'"),
        ("filename,a\nx.png,1\nx.png,0\n", {}, r"x\.png is listed twice"),
        ("filename,a\nx.png,dog\n", {}, r"labels\.csv:2: expected 0 or 1 in column 'a', got 'dog'"),
        ("filename,a\nx.png,-1\n", {"index_column": "a"}, r"labels\.csv:2: expected an index"),
        ("filename,a\nx.png,7\n", {"index_column": "a", "num_classes": 3}, "not in 0 to 2"),
        ("filename,a\nx.png,q\n", {"label_column": "a", "class_names": ["p"]}, "unknown class 'q'"),
        ("filename,a,s\nx.png,1,dev\n", {"split_column": "s"}, r":2: unknown split 'dev'"),
        ("filename,a,s\nx.png,1,val\n", {"split_column": "s"}, "no split 'train', only"),
        ("filename,a\n", {}, "split 'train' has no images"),
    ],
)
def test_csv_errors(tmp_path, text, settings, message):
    root = write(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        CSVFolder(root=root, **settings).setup("fit")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"labels\.csv: no such file; set csv_file"):
        CSVFolder(root=str(tmp_path)).setup("fit")
    root = write(tmp_path, "filename,a\ngone.png,1\n")
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such image"):
        CSVFolder(root=root).dataset("predict")[0]


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_real_folders():
    nette = ImageFolder(root=str(DATA / "imagenette-224"), batch_size=50)
    assert [len(nette.dataset(split)) for split in ("train", "val", "test")] == [1200, 500, 500]
    batch = next(iter(nette.test_dataloader()))
    assert batch["target"].sum(0).tolist() == [5] * 10
    thousand = CSVFolder(
        root=str(DATA / "imagenet-sample"),
        index_column="class_index",
        num_classes=1000,
        fractions=[0, 0, 1],
        resize="crop",
        limit=20,
    )
    batches = list(thousand.test_dataloader())
    assert sum(len(batch["name"]) for batch in batches) == 20
    assert torch.cat([batch["target"] for batch in batches]).sum(1).tolist() == [1] * 20
    assert (
        len(
            CSVFolder(root=str(DATA / "imagenet-compat-ccby"), index_column="class_index").dataset(
                "predict"
            )
        )
        == 300
    )
