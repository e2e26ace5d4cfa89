"""What data sets of image files share: splits, labels, class names, and which files count."""

import itertools

import numpy as np
import pytest
from PIL import Image

from datamodules.files import FileDataModule, FileSource, multi_hot, random_split

CHOICES = (None, "test", "all")


class Listed(FileDataModule):
    """Splits as they are given; the class names are those that they use."""

    multi_label = False

    def __init__(self, root, splits, found=(), **changes):
        defaults = {"class_names": None, "class_indices": None, "num_classes": None}
        fixed = {"fractions": [0.5, 0.25, 0.25], "split_seed": 0, "image_size": [2, 2]}
        super().__init__(str(root), **defaults | fixed | changes)
        self.splits, self.found, self.reads = splits, found, 0

    def read_splits(self):
        self.reads += 1
        self.indices = self.index_classes(self.found, self.root)
        return self.divide(self.splits["all"]) if "all" in self.splits else self.splits


def save(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 2, 3), grey, np.uint8)).save(path)


def test_targets_by_hand():
    assert multi_hot([2, 0], 4).tolist() == [True, False, True, False]
    assert multi_hot([], 2).tolist() == [False, False]


def test_a_source_reads_its_files_and_their_labels(tmp_path):
    save(tmp_path / "deep" / "a.png", 51)
    save(tmp_path / "b.png", 255)
    labels = {"deep/a.png": (1,), "b.png": (0, 2)}
    source = FileSource(tmp_path, labels, num_classes=3)
    assert source.names == ["deep/a.png", "b.png"]
    assert [source.load(i)["image"].unique().tolist() for i in range(2)] == [[51], [255]]
    assert source.load(1)["target"].tolist() == [True, False, True]
    assert set(FileSource(tmp_path, labels, num_classes=0).load(0)) == {"image"}


def test_a_random_split_is_disjoint_whole_ordered_and_seeded():
    names = [f"{i:02d}" for i in range(20)]
    parts = random_split(names, [0.5, 0.3, 0.2], seed=0)
    assert [(split, len(part)) for split, part in parts.items()] == [
        ("train", 10), ("val", 6), ("test", 4),
    ]  # fmt: skip
    assert all(part == sorted(part) for part in parts.values())
    assert sorted(itertools.chain(*parts.values())) == names
    assert random_split(names, [0.5, 0.3, 0.2], seed=0) == parts
    assert random_split(names, [0.5, 0.3, 0.2], seed=1) != parts
    # The place of each name in a permutation, cut at 10 and 16.
    place = np.random.default_rng(0).permutation(20)
    assert parts["val"] == [name for name, p in zip(names, place, strict=True) if 10 <= p < 16]


def test_a_split_rounds_its_ends_and_may_be_empty():
    sizes = [len(p) for p in random_split(list("abcde"), [1 / 3, 1 / 3, 1 / 3], 0).values()]
    assert sizes == [2, 1, 2]  # ends at 1.67, 3.33 and 5
    assert random_split(["a"], [0, 0, 1], 0) == {"train": [], "val": [], "test": ["a"]}


@pytest.mark.parametrize(
    "fractions", [[0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.2, 0.2], [1, "0", 0], [float("nan"), 1, 0]]
)
def test_fractions_are_three_parts_of_a_whole(fractions):
    with pytest.raises(ValueError, match="fractions must be three numbers"):
        random_split(["a"], fractions, 0)


def test_a_split_that_is_lacking_falls_back_on_the_next(tmp_path):
    def served(*splits):
        data = Listed(tmp_path, {split: {f"{split}.png": ()} for split in splits})
        return [data.source(split).names[0] for split in ("test", "predict")]

    assert served("val") == ["val.png", "val.png"]
    assert served("val", "test") == ["test.png", "test.png"]
    assert served("val", "test", "predict") == ["test.png", "predict.png"]
    with pytest.raises(ValueError, match=r"no split 'train', only \['test', 'val'\]"):
        Listed(tmp_path, {"val": {}, "test": {}}).source("train")


def test_the_files_are_read_once_and_when_asked_for(tmp_path):
    data = Listed(tmp_path, {"val": {"a.png": (0,)}}, ["cat", "dog"])
    assert data.reads == 0
    assert data.class_names == ["cat", "dog"]
    assert data.source("val").num_classes == data.num_classes == 2
    assert data.reads == 1
    data.class_names.append("cow")  # of a copy
    assert data.class_names == ["cat", "dog"]
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; set data\.init_args"):
        Listed(tmp_path / "nowhere", {})


@pytest.mark.parametrize(
    ("changes", "indices", "names"),
    [
        ({}, {"cat": 0, "dog": 1}, ["cat", "dog"]),
        ({"num_classes": 3}, {"cat": 0, "dog": 1}, ["cat", "dog", "2"]),
        ({"class_names": ["dog", "cat"]}, {"dog": 0, "cat": 1}, ["dog", "cat"]),
        ({"class_indices": {"cat": 2, "dog": 0}}, {"cat": 2, "dog": 0}, ["dog", "1", "cat"]),
        (
            {"class_indices": {"cat": 1, "dog": 0}, "class_names": ["hound", "tiger"]},
            {"cat": 1, "dog": 0},
            ["hound", "tiger"],
        ),
    ],
)
def test_indices_and_names_of_classes(tmp_path, changes, indices, names):
    data = Listed(tmp_path, {}, ["cat", "dog"], **changes)
    assert data.class_names == names
    assert data.indices == indices


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["cat"]}, r"unknown class 'dog', expected one of \['cat'\]"),
        ({"class_indices": {"dog": 0}}, r"unknown class 'cat', expected one of \['dog'\]"),
        ({"num_classes": 1}, "class 'dog' has index 1, not in 0 to 0; set num_classes"),
        ({"class_indices": {"cat": 5, "dog": 0}, "num_classes": 3}, "class 'cat' has index 5"),
    ],
)
def test_classes_that_do_not_fit_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as told:
        Listed(tmp_path, {}, ["cat", "dog"], **changes).source("train")
    assert str(told.value).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": "cat"}, "class_names must be a list of names, got 'cat'"),
        ({"class_names": [0, 1]}, r"class_names must be a list of names, got \[0, 1\]"),
        ({"class_indices": {0: 1}}, r"class_indices must be a list of names, got \[0\]"),
        ({"class_indices": {"cat": -1}}, r"class_indices\['cat'\] must be at least 0, got -1"),
        (
            {"class_indices": {"cat": "1"}},
            r"class_indices\['cat'\] must be a whole number, got '1'",
        ),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"split_seed": -1}, "split_seed must be at least 0, got -1"),
    ],
)
def test_arguments_are_checked(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Listed(tmp_path, {}, **changes)


@pytest.mark.parametrize("root", ["", "gone", "file.txt"])
def test_a_root_that_is_no_folder_is_named(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    with pytest.raises(FileNotFoundError, match=rf"^{root}: no such folder; set data\.init_args"):
        Listed(root, {})


def test_a_class_named_twice_and_a_single_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match="class_names lists 'cat' twice; name each class once"):
        Listed(tmp_path, {}, ["cat"], class_names=["cat", "dog", "cat"]).source("train")
    with pytest.raises(ValueError, match="'cat' is the only class, but a classifier has two or"):
        Listed(tmp_path, {}, ["cat"]).source("train")
    alone = {"train": {"1.png": (0,)}}
    for changes in ({"class_names": ["cat", "dog"]}, {"num_classes": 2}):
        assert Listed(tmp_path, alone, ["cat"], **changes).source("train").num_classes == 2


def test_names_that_the_user_gives_are_cleaned_like_those_found(tmp_path):
    for changes in (
        {"class_names": [" a", "cafe\u0301"]},
        {"class_indices": {"a ": 0, "caf\u00e9": 1}},
    ):
        data = Listed(tmp_path, {}, ["a", "caf\u00e9"], **changes)
        assert data.class_names == ["a", "caf\u00e9"]


def names(data, split="test"):
    return data.source(split).names


def test_all_images_are_tested_on_demand(tmp_path):
    labels = {f"{i}.png": () for i in range(8)}
    divided = {choice: Listed(tmp_path, {"all": labels}, test_on=choice) for choice in CHOICES}
    assert names(divided["all"]) == list(labels)
    assert names(divided[None]) == names(divided["test"])
    assert len(names(divided["test"])) == 2
    assert all(data.splits_at_random for data in divided.values())
    folders = {"test": {"c.png": ()}, "train": {"a.png": (), "b.png": ()}, "val": {"d.png": ()}}
    fixed = Listed(tmp_path, folders, test_on="all")
    assert names(fixed) == ["a.png", "b.png", "d.png", "c.png"]
    assert names(fixed, "predict") == names(fixed, "test")[-1:]
    assert not fixed.splits_at_random
    late = Listed(tmp_path, {"train": {"a.png": ()}})
    with pytest.raises(
        ValueError, match=r"no split 'test', only \['train'\]; .* test_on: all tests"
    ):
        late.source("test")
    late.test_on = "all"  # as the command line sets it
    assert names(late) == ["a.png"]
    with pytest.raises(
        ValueError, match=r"test_on must be one of \[None, 'test', 'all'\], got 'val'"
    ):
        Listed(tmp_path, {}, test_on="val")


def test_the_index_of_an_image_is_its_place_among_those_tested(tmp_path):
    labels = {f"{i}.png": () for i in range(4)}
    for grey, name in enumerate(labels):
        save(tmp_path / name, grey)
    for choice, expected in (
        ("all", list(labels)),
        ("test", names(Listed(tmp_path, {"all": labels}))),
    ):
        data = Listed(tmp_path, {"all": labels}, test_on=choice)
        (batch,) = data.test_dataloader()
        assert batch["name"] == expected
        assert batch["index"].tolist() == list(range(len(expected)))


def test_an_empty_random_split_names_the_fractions(tmp_path):
    data = Listed(tmp_path, {"all": {"a.png": ()}}, fractions=[0.8, 0.1, 0.1])
    with pytest.raises(
        ValueError, match=r"none of 1 images falls into split 'test' with fractions"
    ):
        data.dataset("test")
    data.setup("test")  # before it is known which images are tested
    data.test_on = "all"
    assert len(data.dataset("test")) == 1


def test_divided_images_keep_their_labels_and_can_all_be_explained(tmp_path):
    labels = {f"{i}.png": (i % 2,) for i in range(8)}
    data = Listed(tmp_path, {}, split_seed=5)
    splits = data.divide(labels)
    parts = random_split(list(labels), [0.5, 0.25, 0.25], seed=5)
    assert {split: list(part) for split, part in splits.items() if split in parts} == parts
    assert all(labels[name] == own for part in splits.values() for name, own in part.items())
    assert splits["predict"] == labels
