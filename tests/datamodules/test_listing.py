"""Images of a folder, names of splits, and class names that look alike."""

from collections import Counter

import pytest

from datamodules.listing import (
    clean,
    extensions,
    find_images,
    ordered_classes,
    report_ignored,
    shown,
    split_folders,
    split_of,
    subfolders,
)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Training", " TRAIN ", "train_set", "trainset", "training data"]),
        ("val", ["val", "Valid", "VALIDATION", "dev", "validation-set", "devset"]),
        ("test", ["test", "Testing", "test_images", "testset"]),
        (None, ["eval", "trainer", "tests", "cats", "", "set", "train2017", "invalid", "contest"]),
    ],
)
def test_usual_names_of_splits(split, names):
    assert [split_of(name) for name in names] == [split] * len(names)


def test_images_are_found_by_their_ending_and_not_if_hidden(tmp_path):
    shown = ["a/1.tif", "a/2.jpeg", "b.PNG", "c.JFIF", "d.jpe", "e.jp2", "f/g/h.webp"]
    hidden = [".x/3.png", "a/.4.png", "._b.png", "__MACOSX/b.png", "@eaDir/b.png", ".DS_Store"]
    touch(tmp_path, *shown, *hidden, "Thumbs.db", "a/desktop.ini")
    touch(tmp_path, "a/notes.txt", "png", "x.heic", "y.HEIC", "film.mpg", "table.h5")
    images, others, _ = find_images(tmp_path)
    assert images == shown
    expected = {".txt": 1, "without ending": 1, ".heic": 2, ".mpg": 1, ".h5": 1}
    assert others == Counter(expected)
    inside = tmp_path / ".x"  # a hidden folder above the root hides nothing
    assert find_images(inside) == (["3.png"], Counter(), [])
    assert {".jpg", ".jpeg", ".gif", ".bmp", ".ppm", ".tga", ".mpo"} <= extensions()


def test_ignored_files_are_said_once_and_warned_of_if_they_are_pictures(tmp_path, caplog):
    assert report_ignored(tmp_path, Counter()) == ""
    with caplog.at_level("INFO"):
        report_ignored(tmp_path, Counter({".txt": 2}))
    assert caplog.messages == [f"{tmp_path}: 2 files ignored: 2 .txt"]
    with pytest.warns(UserWarning, match="12 files ignored: 10 .heic, 2 .txt; convert .heic to"):
        report_ignored(tmp_path, Counter({".txt": 2, ".heic": 10}))


def test_links_are_followed_and_cycles_end(tmp_path):
    touch(tmp_path / "store", "one/1.png", "2.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "cats").symlink_to(tmp_path / "store/one")
    (root / "dogs").mkdir()
    (root / "dogs/2.png").symlink_to(tmp_path / "store/2.png")
    (root / "dogs/again").symlink_to(root)
    assert find_images(root)[0] == ["cats/1.png", "dogs/2.png"]
    (tmp_path / "link").symlink_to(root)
    assert find_images(tmp_path / "link")[0] == ["cats/1.png", "dogs/2.png"]


def test_an_image_that_is_reached_twice_is_said(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.warns(
        UserWarning, match=r"links lead to 2 images a second .* a/1\.png and b/1\.png"
    ):
        assert find_images(tmp_path)[0] == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


@pytest.mark.parametrize("target", ["gone", "cats"])
def test_a_link_to_nothing_is_named(tmp_path, target):
    (tmp_path / "cats").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"cats: a link to nothing; mend or remove it"):
        find_images(tmp_path)


def test_links_called_like_images_that_lead_nowhere_are_listed(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone")
    (tmp_path / "c.png").symlink_to(tmp_path / "c.png")  # a circle
    assert find_images(tmp_path) == (["a.png", "b.png", "c.png"], Counter(), ["b.png", "c.png"])


def test_folders_called_like_images_are_no_classes_and_files_keep_odd_names(tmp_path):
    files = ["a\r.jpg", "b.jpg\r", "c\nd.jpg", "-e.jpg", '"f".jpg', "g,h.jpg", "\U0001f600.jpg"]
    files += ["i" * 251 + ".jpg", "j\udcff.jpg", "k\\l.jpg"]
    touch(tmp_path, *files)
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "cats").mkdir()
    assert sorted(files) == find_images(tmp_path)[0]
    assert subfolders(tmp_path) == ["cats"]
    assert shown("a\r\U0001f600\udcff.jpg") == "a\\r\U0001f600\\udcff.jpg"


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("datamodules.listing.os.scandir", refuse)
    with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\)"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "2", "0"], ["0", "2", "10"]),
        (["-1", "3.0", "10.0"], ["-1", "3.0", "10.0"]),
        (["01", "10", "2"], ["01", "2", "10"]),
        (["b10", "b2"], ["b10", "b2"]),
        (["10", "2", "cat"], ["10", "2", "cat"]),
    ],
)
def test_numbers_sort_as_numbers(tmp_path, names, expected):
    assert ordered_classes(set(names), tmp_path) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [("Cat", "cat"), ("'cat'", "cat"), ("ice  cream", "ice cream"), ("1", "1.0")],
)
def test_classes_that_look_alike_are_refused(tmp_path, first, second):
    with pytest.raises(ValueError, match=r"look like one class; write them alike"):
        ordered_classes([first, second], tmp_path)


def test_names_lose_spaces_and_have_one_form_of_accents():
    assert clean(" cat\t") == "cat"
    assert clean("cafe\u0301") == clean("caf\u00e9") == "caf\u00e9"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train/a/1.png", "validation/a/2.png", "test/a/3.png"],
         {"test": "test", "train": "train", "val": "validation"}),
        (["Train/1.png", "Val/2.png"], {"train": "Train", "val": "Val"}),
        (["train/a/1.png", "docs/readme.txt"], {"train": "train"}),
        (["test/a/1.png"], {"test": "test"}),
        (["cat/1.png", "dog/2.png"], {}),
        (["1.png"], {}),
    ],
)  # fmt: skip
def test_split_folders_are_recognised(tmp_path, files, expected):
    touch(tmp_path, *files)
    holding = {name.split("/")[0] for name in files if name.endswith("png") and "/" in name}
    assert split_folders(tmp_path, holding, (), None) == expected


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/cats", "extra"], "'train' looks like a split, 'extra' beside it does not; rename"),
        (["val", "eval"], "'val' looks like a split, 'eval' beside it does not"),
        (["val/a", "validation/a"], "'val' and 'validation' are both the val split; rename or"),
        (["seg_train/a", "seg_test/a"], "'seg_test', 'seg_train'. splits or classes"),
        (["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"], r"contain \['cat', 'dog'\]"),
        (["cat/train", "cat/test", "dog/test", "dog/train"], r"contain \['test', 'train'\]"),
    ],
)
def test_folders_that_could_be_splits_or_classes_are_refused(tmp_path, folders, message):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    holding = {folder.split("/")[0] for folder in folders}
    with pytest.raises(ValueError, match=message):
        split_folders(tmp_path, holding, (), None)


def test_a_user_can_say_that_such_folders_are_classes(tmp_path):
    for folder in ("train/a", "train/b", "car/a", "car/b"):
        (tmp_path / folder).mkdir(parents=True)
    assert split_folders(tmp_path, {"train", "car"}, {"car", "train"}, None) == {}
    assert split_folders(tmp_path / "train", {"a", "b"}, (), True) == {}
