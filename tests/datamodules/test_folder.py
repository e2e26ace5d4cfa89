"""Folders of one's own images: labels, splits, foreign class indices, errors."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.folder import CSVFolder, ImageFolder
from datamodules.listing import SPLITS

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
    root = fill(tmp_path, *(f"{name}/{i}.png" for name in ("dog", "cat") for i in range(10)))
    data = ImageFolder(root=root, seed=5)
    assert data.class_names == ["cat", "dog"]
    assert data.splits_at_random
    parts = [names(data, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert sorted(itertools.chain(*parts)) == sorted(names(data, "predict"))
    assert len(names(data, "predict")) == 20
    assert names(ImageFolder(root=root), "val") == parts[1]
    assert names(ImageFolder(root=root, split_seed=1), "val") != parts[1]
    whole = ImageFolder(root=root, fractions=[0, 0, 1], limit=4)
    assert [name.split("/")[0] for name in names(whole, "test")[:4]] == ["cat", "dog"] * 2
    assert len(whole.dataset("test")) == 4


def test_unlabelled_folders_have_no_target(tmp_path):
    root = fill(tmp_path, "a.png", "deep/er/b.JPG", ".hidden/c.png")
    (tmp_path / "notes.txt").write_text("not an image")
    data = ImageFolder(root=root, image_size=[4, 4])
    with pytest.warns(UserWarning, match=r"all 2 images are taken as unlabeled, since 1 .* a\.png"):
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
    with pytest.raises(ValueError, match="none of 1 images falls into split 'val'"):
        ImageFolder(root=fill(tmp_path / "y", "1.png"), fractions=[1, 0, 0]).setup("fit")


def classes(data, split):
    """Class name of each image, by its path."""
    dataset = data.dataset(split)
    return {
        name: data.class_names[label(data, split, index)[0]]
        for index, name in enumerate(dataset.source.names)
    }


@pytest.mark.parametrize(
    "folders", [("Train", "Val", "TEST"), ("training", "validation", "test_set")]
)
def test_usual_names_of_split_folders(tmp_path, folders):
    files = [f"{folder}/{name}/1.png" for folder in folders for name in ("cat", "dog")]
    data = ImageFolder(root=fill(tmp_path, *files, "extra.png"), image_size=[4, 4], test_on="test")
    assert data.class_names == ["cat", "dog"]
    for folder, split in zip(folders, ("train", "val", "test"), strict=True):
        assert classes(data, split) == {f"{folder}/{c}/1.png": c for c in ("cat", "dog")}
    assert not data.splits_at_random
    whole = ImageFolder(root=str(tmp_path), image_size=[4, 4], test_on="all")
    assert names(whole, "test") == [name for split in SPLITS for name in names(data, split)]


def test_images_beside_the_splits_are_said(tmp_path, caplog):
    root = fill(tmp_path, "train/a/1.png", "train/b/2.png", "logo.png")
    with caplog.at_level("INFO"):
        assert names(ImageFolder(root=root), "train") == ["train/a/1.png", "train/b/2.png"]
    assert caplog.messages == [f"{root}: 1 file ignored: 1 beside the split folders"]


def test_splits_beside_classes_are_refused_unless_the_classes_are_listed(tmp_path):
    root = fill(tmp_path, *(f"{name}/{i}.png" for name in ("train", "car") for i in range(2)))
    with pytest.raises(ValueError, match="'train' looks like a split, 'car' beside it does not"):
        ImageFolder(root=root).setup("predict")
    data = ImageFolder(root=root, class_names=["train", "car"], image_size=[4, 4])
    assert classes(data, "predict") == {f"{c}/{i}.png": c for c in ("car", "train") for i in (0, 1)}


def test_classes_of_one_split_only_shift_no_index(tmp_path):
    root = fill(tmp_path, "train/ant/1.png", "train/cat/1.png", "test/bee/1.png", "test/cat/2.png")
    data = ImageFolder(root=root, image_size=[4, 4])
    assert data.class_names == ["ant", "bee", "cat"]
    assert classes(data, "train") == {"train/ant/1.png": "ant", "train/cat/1.png": "cat"}
    assert classes(data, "test") == {"test/bee/1.png": "bee", "test/cat/2.png": "cat"}


def test_an_empty_class_folder_stays_a_class(tmp_path):
    root = fill(tmp_path, "ant/1.png", "cat/1.png", "__MACOSX/ant/._1.png", ".git/x.png")
    (tmp_path / "bee").mkdir()
    data = ImageFolder(root=root, image_size=[4, 4])
    with pytest.warns(UserWarning, match=r"no images in the class folders \['bee'\]; they stay"):
        assert data.class_names == ["ant", "bee", "cat"]
    assert classes(data, "predict") == {"ant/1.png": "ant", "cat/1.png": "cat"}
    given = ImageFolder(root=root, class_names=["cat", "ant"], image_size=[4, 4])
    assert classes(given, "predict") == {"ant/1.png": "ant", "cat/1.png": "cat"}


def test_linked_class_folders_and_names_with_spaces(tmp_path):
    fill(tmp_path / "store", "1.png", "2.png")
    root = tmp_path / "root"
    fill(root, "dog/1.png", "cat /1.png", "cat/2.png")
    (root / "ape").symlink_to(tmp_path / "store")
    data = ImageFolder(root=str(root), image_size=[4, 4])
    assert data.class_names == ["ape", "cat", "dog"]
    found = classes(data, "predict")
    assert found == {
        "ape/1.png": "ape", "ape/2.png": "ape", "cat /1.png": "cat", "cat/2.png": "cat",
        "dog/1.png": "dog",
    }  # fmt: skip


def test_folders_called_by_numbers(tmp_path):
    few = ImageFolder(root=fill(tmp_path / "few", "0/1.png", "2/1.png", "9/1.png"))
    assert few.class_names == ["0", "2", "9"]
    padded = ImageFolder(root=fill(tmp_path / "padded", "00/1.png", "02/1.png", "10/1.png"))
    assert padded.class_names == ["00", "02", "10"]
    root = fill(tmp_path / "many", "0/1.png", "2/1.png", "10/1.png")
    data = ImageFolder(root=root, image_size=[4, 4])
    with pytest.warns(UserWarning, match=r"as numbers: 0, 2, 10, .* order of text: 0, 10, 2, "):
        assert data.class_names == ["0", "2", "10"]
    assert classes(data, "predict") == {"0/1.png": "0", "2/1.png": "2", "10/1.png": "10"}
    assert ImageFolder(root=root, class_names=["0", "10", "2"]).class_names == ["0", "10", "2"]


def test_nothing_but_other_files_are_counted_in_the_error(tmp_path):
    for name in ("a.heic", "b.heic", "c.txt"):
        (tmp_path / name).touch()
    expected = r"no images here \(3 files ignored: 2 \.heic, 1 \.txt\); check root"
    with pytest.warns(UserWarning, match="convert"), pytest.raises(ValueError, match=expected):
        ImageFolder(root=str(tmp_path)).setup("predict")


def test_one_class_folder_is_refused_unless_it_is_no_class(tmp_path):
    root = fill(tmp_path, "holiday/1.png", "holiday/2.png")
    with pytest.raises(ValueError, match=r"'holiday' is the only class.*root to the folder"):
        ImageFolder(root=root).setup("predict")
    assert ImageFolder(root=root, labelled=False).num_classes == 0


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
