"""CIFAR: the published files in small, held-out images, and files that are something else."""

import logging
import pickle

import numpy as np
import pytest
import torch

from datamodules.cifar import CIFAR10, CIFAR100

NAMES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]  # fmt: skip


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def pixels(count, start=0):
    values = np.zeros((count, 3, 32, 32), np.uint8)
    values[:, 0] = np.arange(start, start + count)[:, None, None]
    values[:, 1, 0] = 255  # the first row is green
    return values.reshape(count, -1)


@pytest.fixture
def ten(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    for part in range(5):
        content = {"data": pixels(4, 10 * part), "labels": [part, 5, 6, 7], "batch_label": "x"}
        dump(folder / f"data_batch_{part + 1}", content)
    dump(folder / "test_batch", {"data": pixels(3, 100), "labels": [9, 8, 0]})
    dump(folder / "batches.meta", {"label_names": NAMES, "num_vis": 3072})
    return tmp_path


def make(root, kind=CIFAR10, **kwargs):
    return kind(**{"root": str(root), "image_size": [32, 32], **kwargs})


def label(sample):
    return sample["target"].nonzero().flatten().tolist()


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_images_targets_and_names(ten, inside):
    data = make(ten / inside)
    assert data.class_names == NAMES
    assert not data.multi_label
    train = data.dataset("train")
    assert len(train) == 20
    sample = train[4]
    assert (sample["name"], label(sample)) == ("data_batch_2/00000", [1])
    assert torch.allclose(sample["image"][0], torch.tensor(10 / 255))
    assert sample["image"][1, 0].eq(1).all()
    assert sample["image"][1, 1:].eq(0).all()
    assert [label(data.dataset("test")[index]) for index in range(3)] == [[9], [8], [0]]
    assert data.dataset("predict").source.names == data.dataset("test").source.names
    assert next(iter(data.test_dataloader()))["image"].shape == (3, 3, 32, 32)
    assert make(ten, image_size=None).dataset("test")[0]["image"].shape == (3, 224, 224)


def test_validation_images_are_said_or_held_out(ten, caplog):
    with caplog.at_level(logging.INFO):
        assert make(ten).dataset("val").source.names[0] == "test_batch/00000"
    assert "CIFAR10: the val images are the test images" in caplog.text
    held = make(ten, val_images=5)
    train, val = (held.dataset(split).source.names for split in ("train", "val"))
    assert (len(train), len(val), len({*train, *val})) == (15, 5, 20)
    assert make(ten, val_images=5, split_seed=1).dataset("val").source.names != val
    index = next(i for i, name in enumerate(val) if not name.endswith("00000"))
    assert label(held.dataset("val")[index]) == [4 + int(val[index][-1])]
    with pytest.raises(ValueError, match=r"at least 21 \(val_images\) images, got 20"):
        make(ten, val_images=21).dataset("val")


def test_the_hundred_fine_classes(tmp_path):
    folder = tmp_path / "cifar-100-python"
    names = [f"class{index}" for index in range(100)]
    for part in ("train", "test"):
        dump(folder / part, {"data": pixels(2), "fine_labels": [99, 3], "coarse_labels": [1, 2]})
    dump(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["a"] * 20})
    data = make(tmp_path, CIFAR100)
    assert data.class_names == names
    assert label(data.dataset("train")[0]) == [99]


def test_pixels_and_labels_are_part_of_the_identity(ten):
    before = make(ten).identity("test")["hash"]
    assert make(ten).identity("test")["hash"] == before
    dump(ten / "cifar-10-batches-py/test_batch", {"data": pixels(3, 101), "labels": [9, 8, 0]})
    assert make(ten).identity("test")["hash"] != before


class Attack:
    def __reduce__(self):
        return print, ("run",)


def test_other_files_are_refused(ten, tmp_path_factory, capsys):
    path = ten / "cifar-10-batches-py/test_batch"
    dump(path, {"data": pixels(1), "labels": [0], "more": Attack()})
    with pytest.raises(ValueError, match=r"test_batch: not a file of CIFAR \(it contains .*print"):
        make(ten).setup("test")
    assert capsys.readouterr().out == ""
    faults = {
        "expected 'data'": {"data": pixels(2).astype(float), "labels": [0, 1]},
        "and a list 'labels'": {"data": pixels(2), "fine_labels": [0, 1]},
        "expected 2 indices 0 to 9": {"data": pixels(2), "labels": [0]},
        "indices 0 to 9 in 'labels'": {"data": pixels(2), "labels": [0, 10]},
        "expected a dict, got list": [1],
    }
    for message, content in faults.items():
        dump(path, content)
        with pytest.raises(ValueError, match=message):
            make(ten).setup("test")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="test_batch: no such file; unpack"):
        make(ten).setup("test")
    dump(ten / "cifar-10-batches-py/batches.meta", {"label_names": ["a"]})
    with pytest.raises(ValueError, match="expected 10 names in 'label_names'"):
        _ = make(ten).class_names
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match=r"no CIFAR10 for Python; .*batches\.meta.*down"):
        make(empty).setup("test")
    with pytest.raises(ValueError, match="val_images must be at least 1"):
        make(ten, val_images=0)


def test_download_runs_only_if_the_files_are_missing(ten, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(CIFAR10, "archive", lambda root, download: calls.append((root, download)))
    make(ten, download=True).prepare_data()
    make(tmp_path / "new").prepare_data()
    assert calls == []
    make(tmp_path / "new", download=True).prepare_data()
    assert calls == [(str(tmp_path / "new"), True)]
