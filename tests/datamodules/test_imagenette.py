"""Imagenette and Imagewoof: classes, random corners, wrong labels, layouts."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from datamodules.imagenette import Imagenette, Imagewoof
from datamodules.synsets import IMAGENETTE, IMAGEWOOF

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "imagenette-224"


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def fill(root, wnids=IMAGENETTE, parts=("train", "val")):
    for part in parts:
        for place, wnid in enumerate(wnids):
            for number in range(2):
                pixels = np.full((4, 4, 3), 20 * place, np.uint8)
                save(root / part / wnid / f"{wnid}_{number}.png", pixels)
    return root


def make(root, kind=Imagenette, **kwargs):
    return kind(**{"root": str(root), "image_size": [4, 4], **kwargs})


def label(sample):
    return sample["target"].nonzero().flatten().tolist()


def test_classes_take_turns_in_the_order_of_their_ids(tmp_path):
    data = make(fill(tmp_path))
    assert data.class_names[:2] == [
        "tench, Tinca tinca",
        "English springer, English springer spaniel",
    ]
    assert (data.num_classes, data.multi_label) == (10, False)
    val = data.dataset("val")
    assert val.source.names[:2] == [f"val/{wnid}/{wnid}_0.png" for wnid in IMAGENETTE[:2]]
    assert [label(val[index]) for index in range(11)] == [[c] for c in [*range(10), 0]]
    assert val[9]["image"].mean().item() == pytest.approx(180 / 255)
    assert data.dataset("test").source.names == val.source.names
    assert len(data.dataset("train")) == 20


def test_targets_of_the_thousand_classes(tmp_path):
    data = make(fill(tmp_path), imagenet_targets=True)
    assert (data.num_classes, data.class_names[217]) == (1000, data.class_names[217])
    found = [label(data.dataset("val")[index])[0] for index in range(10)]
    assert found == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


@pytest.mark.parametrize("folder", ["imagenette2-160", "imagenette-160"])
def test_folders_of_the_archives(tmp_path, folder):
    fill(tmp_path / folder)
    assert len(make(tmp_path, size="160px").dataset("val")) == 20
    with pytest.raises(
        FileNotFoundError, match=r"no imagenette \(full\) here; looked for .*tte2/v"
    ):
        make(tmp_path).setup("test")


def test_imagewoof(tmp_path):
    data = make(fill(tmp_path / "imagewoof2-320", IMAGEWOOF), Imagewoof, size="320px")
    assert data.class_names[2] == "beagle"
    assert label(data.dataset("val")[2]) == [2]
    with pytest.raises(ValueError, match=r"no download of imagewoof; .*imagewoof2-320\.tgz into"):
        make(tmp_path, Imagewoof, size="320px", download=True)


def test_random_corners_are_those_of_the_paper(tmp_path):
    fill(tmp_path)
    quadrants = np.zeros((256, 256, 3), np.uint8)
    quadrants[:128, 128:], quadrants[128:, :128], quadrants[128:, 128:] = 80, 160, 240
    corners = {"y": (0, 0), "x": (0, 76), "w": (76, 0), "v": (76, 76)}
    cut = {key: quadrants[t : t + 180, left : left + 180] for key, (t, left) in corners.items()}
    for number in range(20):
        save(tmp_path / "val" / IMAGENETTE[0] / f"more_{number:02d}.png", quadrants)
    data = make(tmp_path, corner=True, image_size=[180, 180])
    source = data.dataset("val").source
    found = []
    for index, name in enumerate(source.names):
        if "more" in name:
            image = (data.dataset("val")[index]["image"] * 255).round().byte().permute(1, 2, 0)
            found += [key for key, part in cut.items() if np.array_equal(image.numpy(), part)]
    assert len(found) == 20
    assert set(found) == set(corners)
    again = make(tmp_path, corner=True, image_size=[180, 180]).dataset("val")
    assert torch.equal(again[30]["image"], data.dataset("val")[30]["image"])
    other = make(tmp_path, corner=True, image_size=[180, 180], split_seed=1).dataset("val")
    pairs = [(again[i]["image"], other[i]["image"]) for i in range(10, 40)]
    assert not all(torch.equal(one, two) for one, two in pairs)
    assert data.dataset("val")[0]["image"].shape == (3, 180, 180)
    with pytest.raises(ValueError, match="corner: true needs resize: squash"):
        make(tmp_path, corner=True, resize="crop")


def test_wrong_training_labels(tmp_path):
    fill(tmp_path)
    path = tmp_path / "noisy_imagenette.csv"
    names = [f"train/{wnid}/{wnid}_{number}.png" for wnid in IMAGENETTE for number in range(2)]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "noisy_labels_0", "noisy_labels_50", "is_valid"])
        rows.writerows([name, name[6:15], IMAGENETTE[9], False] for name in names)
    train = make(tmp_path, noise=50).dataset("train")
    assert {label(train[index])[0] for index in range(20)} == {9}
    assert label(make(tmp_path, noise=50).dataset("val")[0]) == [0]
    with pytest.raises(ValueError, match="no column 'noisy_labels_5'"):
        make(tmp_path, noise=5).dataset("train")
    path.write_text("path,noisy_labels_5\nx,y\n")
    with pytest.raises(ValueError, match=r"csv: no label of train/.* in 'noisy_labels_5'"):
        make(tmp_path, noise=5).dataset("train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"noisy_imagenette\.csv: no such file"):
        make(tmp_path, noise=5).dataset("train")


def test_a_missing_class_or_split_is_said(tmp_path):
    fill(tmp_path / "a", IMAGENETTE[:9], ["val"])
    with pytest.raises(ValueError, match="no images of n03888257; unpack it again"):
        make(tmp_path / "a").setup("test")
    with pytest.raises(FileNotFoundError, match="train: no such folder"):
        make(tmp_path / "a").setup("fit")
    with pytest.raises(ValueError, match="size must be one of"):
        make(tmp_path, size="64px")
    with pytest.raises(ValueError, match="noise must be one of"):
        make(tmp_path, noise=2)


def test_download_runs_only_if_the_folder_is_missing(tmp_path, monkeypatch):
    calls = []

    def fake(root, size, download):
        calls.append((root, size, download))

    monkeypatch.setattr(torchvision.datasets, "Imagenette", fake)
    make(fill(tmp_path / "have"), download=True).prepare_data()
    make(tmp_path / "new").prepare_data()
    assert calls == []
    make(tmp_path / "new", size="160px", download=True).prepare_data()
    assert calls == [(str(tmp_path / "new"), "160px", True)]


@pytest.mark.data
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs ../shared/data/imagenette-224")
def test_real_photographs():
    data = Imagenette(root=str(SAMPLE), corner=True)
    assert [len(data.dataset(split)) for split in ("train", "val")] == [1200, 500]
    assert data.dataset("val")[0]["image"].shape == (3, 224, 224)
