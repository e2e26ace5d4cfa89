"""Parts of the images for array jobs, and images chosen by what the classifier says of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.folder import ImageFolder
from datamodules.selection import Answers
from datamodules.shapes import Shapes


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The user's cache folder, in a temporary folder."""
    monkeypatch.setenv("LEARNED_EXPLAINERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder(root, count=10, **kwargs):
    """Grey images 0, 10, 20, ... of the classes "dark" (even places) and "light" (odd)."""
    for index in range(count):
        home = root / "data" / ("light" if index % 2 else "dark")
        home.mkdir(parents=True, exist_ok=True)
        if not (home / f"{index}.png").exists():
            Image.new("RGB", (4, 4), (10 * index,) * 3).save(home / f"{index}.png")
    return ImageFolder(str(root / "data"), **{"image_size": [4, 4], "test_on": "all", **kwargs})


class Says:
    """Takes images brighter than `limit` as light, and counts those it has seen."""

    fingerprint = "says"

    def __init__(self, limit=0.0):
        self.limit, self.seen = limit, 0

    def __call__(self, images, targets):
        self.seen += len(images)
        level = images.mean((1, 2, 3))
        light = (level > self.limit).long()
        right = None if targets is None else targets[torch.arange(len(light)), light]
        return right, 0.5 + level / 2


def names(data, split="test"):
    loader = data.test_dataloader() if split == "test" else data.predict_dataloader()
    return [(n, int(i)) for b in loader for n, i in zip(b["name"], b["index"], strict=True)]


def test_shards_share_the_images_and_keep_their_places(tmp_path):
    whole = names(folder(tmp_path, batch_size=3))
    parts = [names(folder(tmp_path, shard=[i, 4], batch_size=2)) for i in range(4)]
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    assert parts[1] == whole[1::4]
    assert sorted((p for part in parts for p in part), key=lambda p: p[1]) == whole
    assert names(folder(tmp_path, shard=[1, 4], limit=6)) == whole[1:6:4]
    assert len(folder(tmp_path, shard=(1, 4)).dataset("train")) == 8  # only what is tested
    assert names(folder(tmp_path, shard=[2, 4]), "predict") == whole[2::4]


def test_settings_of_shards_differ_in_nothing_else(tmp_path):
    found = [folder(tmp_path, shard=[i, 3]).identity("test") for i in range(3)]
    assert [own["arguments"].pop("shard") for own in found] == [[0, 3], [1, 3], [2, 3]]
    assert found[0] == found[1] == found[2] == folder(tmp_path).identity("test")
    assert found[0]["images"] == 10
    limited = folder(tmp_path, shard=[0, 3]).identity("test", count=2)
    assert limited["images"] == 2
    assert limited["names"] == folder(tmp_path, shard=[0, 3]).identity("test", 2)["names"]
    assert limited["names"] != folder(tmp_path, shard=[1, 3]).identity("test", 2)["names"]


def test_an_unreadable_image_of_a_shard_is_named(tmp_path):
    (data := folder(tmp_path, shard=[1, 2])).dataset("test")
    (tmp_path / "data/light/3.png").write_text("no image")
    with pytest.warns(UserWarning, match=r"1 of 5 images could not be read .*light/3\.png"):
        assert "light/3.png" not in [name for name, _ in names(data)]


@pytest.mark.parametrize("shard", [[0], [4, 4], [-1, 2], [0, 0], "02", [0.0, 2], 3, [True, 2]])
def test_a_wrong_shard_is_refused(shard):
    with pytest.raises(ValueError, match=r"shard must be \[i, n\] with 0 <= i < n"):
        Shapes(shard=shard)


def test_an_empty_shard_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"shard \[11, 12\] of 10 images holds none of them"):
        folder(tmp_path, shard=[11, 12]).setup("test")


def chosen(root, only, judge=None, **kwargs):
    data = folder(root, only=only, **kwargs)
    data.judge = judge or Says(0.1)  # from image 3 on (30 / 255), all are light
    return data, [int(name.partition("/")[2][:-4]) for name, _ in names(data)]


def test_correct_wrong_and_confident_images_by_hand(tmp_path):
    data, right = chosen(tmp_path, "correct")
    assert sorted(right) == [0, 2, 3, 5, 7, 9]
    assert data.chosen == "6 of 10 images, those predicted correctly"
    assert sorted(chosen(tmp_path, "wrong")[1]) == [1, 4, 6, 8]
    data, confident = chosen(tmp_path, 0.65)  # brightness 0.3, from image 8 on
    assert sorted(confident) == [8, 9]
    assert data.chosen.endswith("those predicted with a probability of at least 0.65")
    parts = [chosen(tmp_path, "correct", shard=[i, 2])[1] for i in (0, 1)]
    assert parts == [right[::2], right[1::2]]


def test_answers_are_kept_for_the_same_images_and_classifier(tmp_path):
    chosen(tmp_path, "correct", judge := Says(0.1))
    chosen(tmp_path, "wrong", judge)
    assert judge.seen == 10
    chosen(tmp_path, "wrong", judge, image_size=[5, 5])
    assert judge.seen == 20
    other = Says(0.1)
    other.fingerprint = "other"
    chosen(tmp_path, "correct", other)
    assert other.seen == 10
    (tmp_path / "data/dark/0.png").write_bytes(b"\0")  # another file
    with pytest.warns(UserWarning, match="1 of 10 images could not be read"):
        assert sorted(chosen(tmp_path, "correct", judge)[1]) == [2, 3, 5, 7, 9]
    assert judge.seen == 29


def test_a_limit_takes_images_at_random_by_the_seed(tmp_path):
    found = [chosen(tmp_path, "correct", limit=3, seed=seed)[1] for seed in (0, 0, 1, 2)]
    assert found[0] == found[1]
    assert len({tuple(own) for own in found}) > 1
    assert all(len(own) == 3 and set(own) <= {0, 2, 3, 5, 7, 9} for own in found)
    names_ = [chosen(tmp_path, "correct", limit=3)[0].identity("test") for _ in range(2)]
    assert names_[0] == names_[1]
    assert (names_[0]["images"], names_[0]["arguments"]["only"]) == (3, "correct")
    assert chosen(tmp_path, "correct", limit=99)[0].chosen.startswith("6 of 10 images")


def test_an_interrupted_choice_goes_on(tmp_path):
    class Stops(Says):
        def __call__(self, images, targets):
            if self.seen >= 4:
                raise KeyboardInterrupt
            return super().__call__(images, targets)

    with pytest.raises(KeyboardInterrupt):
        chosen(tmp_path, "correct", Stops(0.1), batch_size=2)
    judge = Says(0.1)
    assert sorted(chosen(tmp_path, "correct", judge, batch_size=2)[1]) == [0, 2, 3, 5, 7, 9]
    assert judge.seen == 6


def test_errors_say_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="only must be correct, wrong or the least probability"):
        folder(tmp_path, only="right")
    with pytest.raises(ValueError, match="only must be"):
        folder(tmp_path, only=1.5)
    with pytest.raises(ValueError, match="only: correct needs a classifier: use evaluate"):
        folder(tmp_path, only="correct").test_dataloader()
    with pytest.raises(ValueError, match="none of 10 images is predicted with a probability of"):
        chosen(tmp_path, 0.99)
    with pytest.raises(ValueError, match="only: wrong needs labeled images"):
        chosen(tmp_path, "wrong", labelled=False)
    assert len(chosen(tmp_path, 0.5, labelled=False)[1]) == 10
    assert not folder(tmp_path).chosen


def test_a_damaged_file_or_one_of_another_size_holds_no_answers(tmp_path):
    path = tmp_path / "answers.npz"
    for content in (b"", b"PK\x03\x04 no archive"):
        path.write_bytes(content)
        assert (Answers(3, path).said == -1).all()
    np.savez(path, said=np.ones(4, np.int8), confidence=np.ones(4, np.float32))
    assert (Answers(3, path).said == -1).all()
    assert (Answers(4, path).fit("correct")).all()
    Answers(4, None).save()
