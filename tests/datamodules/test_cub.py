"""CUB: 1-based ids, boxes and parts that follow the image, masks of the right class."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.cub import CUB, fit_points
from datamodules.images import Fit

LISTS = {
    "images.txt": "1 001.Black_footed_Albatross/a.jpg\n2 002.Laysan_Albatross/b.jpg\n"
    "3 001.Black_footed_Albatross/c.jpg\n4 002.Laysan_Albatross/d.jpg\n",
    "classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
    "image_class_labels.txt": "1 1\n2 2\n3 1\n4 2\n",
    "train_test_split.txt": "1 0\n2 1\n3 1\n4 0\n",
    "bounding_boxes.txt": "1 2.0 1.0 4.0 2.0\n2 0.0 0.0 8.0 4.0\n3 0.0 0.0 1.0 1.0\n"
    "4 0.0 0.0 2.0 2.0\n",
    "parts/parts.txt": "1 back\n2 left eye\n",
    "parts/part_locs.txt": "1 2 5.0 2.0 1\n1 1 0.0 0.0 0\n"
    + "".join(f"{image} {part} 1.0 1.0 1\n" for image in (2, 3, 4) for part in (1, 2)),
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "CUB_200_2011"
    (folder / "parts").mkdir(parents=True)
    for name, text in LISTS.items():
        (folder / name).write_text(text)
    for line in LISTS["images.txt"].splitlines():
        path = folder / "images" / line.split()[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 4)).save(path)
    return tmp_path


def add_masks(folder, names="abcd"):
    grey = np.zeros((4, 8), np.uint8)
    grey[1:3, 2:6], grey[0, 0] = 200, 50  # where most people, and where few saw the bird
    for line in LISTS["images.txt"].splitlines():
        path = (folder / "segmentations" / line.split()[1]).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.stem in names:
            Image.fromarray(grey).save(path)


def make(root, **kwargs):
    return CUB(**{"root": str(root), "image_size": [4, 8], **kwargs})


def test_splits_targets_and_names(root):
    data = make(root)
    assert data.class_names == ["Black footed Albatross", "Laysan Albatross"]
    assert data.part_names == ["back", "left eye"]
    assert not data.multi_label
    test, train = data.dataset("test"), data.dataset("train")
    assert test.source.names == [
        "images/001.Black_footed_Albatross/a.jpg", "images/002.Laysan_Albatross/d.jpg"
    ]  # fmt: skip
    assert [test[index]["target"].tolist() for index in range(2)] == [[True, False], [False, True]]
    assert [name[-5:] for name in train.source.names] == ["b.jpg", "c.jpg"]
    assert set(train[0]) == {"image", "target", "name", "index"}
    assert make(root / "CUB_200_2011").dataset("test").source.names == test.source.names


def test_boxes_and_points_follow_the_image(root):
    sample = make(root).dataset("test")[0]
    assert sample["boxes"][:2].tolist() == [[0, 2, 1, 6, 3], [-1] * 5]
    assert sample["points"].tolist() == [[-1, -1, 0], [5.5, 2.5, 1]]  # centers of pixels
    larger = make(root, image_size=[8, 32]).dataset("test")[0]
    assert larger["boxes"][0].tolist() == [0, 8, 2, 24, 6]
    assert larger["points"][1].tolist() == [22, 5, 1]
    batch = next(iter(make(root).test_dataloader()))
    assert (batch["boxes"].shape, batch["points"].shape) == ((2, 64, 5), (2, 2, 3))
    moved = fit_points(
        torch.tensor([[0.0, 0, 1], [3, 0, 1]]), Fit([4, 4], "crop", 1.0, "bilinear"), [4, 8]
    )
    assert moved.tolist() == [[-1, -1, 0], [1.5, 0.5, 1]]  # columns 2 to 5 are left


@pytest.mark.parametrize("inside", [True, False])
def test_masks_are_those_of_the_class(root, inside):
    add_masks(root / "CUB_200_2011" if inside else root)
    mask = make(root).dataset("test")[1]["mask"]
    assert (mask.shape, mask.dtype) == ((2, 4, 8), torch.bool)
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[1:3, 2:6] = True
    assert torch.equal(mask[1], expected)
    assert not mask[0].any()
    assert make(root).dataset("train")[0]["mask"].any(0).sum() == 8
    assert "mask" not in make(root, masks=False).dataset("test")[0]


def test_masks_need_every_image_and_its_size(root):
    add_masks(root, "abc")
    assert "mask" in make(root).dataset("train")[0]
    assert "mask" not in make(root).dataset("test")[0]
    add_masks(root)
    Image.new("L", (3, 3)).save(root / "segmentations/001.Black_footed_Albatross/a.png")
    with pytest.raises(ValueError, match=r"a\.png: mask \[3, 3\] and image \[4, 8\] differ"):
        make(root).dataset("test")[0]


def test_validation_images_are_said_or_held_out(root, caplog):
    with caplog.at_level(logging.INFO):
        assert len(make(root).dataset("val")) == 2
    assert "CUB: the val images are the test images" in caplog.text
    data = make(root, val_images=1)
    names = [data.dataset(split).source.names for split in ("train", "val")]
    assert sorted(name[-5] for part in names for name in part) == ["b", "c"]
    assert "boxes" in data.dataset("val")[0]


def test_parts_may_be_missing(root):
    for name in ("part_locs.txt", "parts.txt"):
        (root / "CUB_200_2011/parts" / name).unlink()
    data = make(root)
    assert "points" not in data.dataset("test")[0]
    assert data.part_names == []


def test_errors_name_the_culprit(root):
    folder = root / "CUB_200_2011"
    faults = [
        ("bounding_boxes.txt", "1 2.0 1.0 4.0\n", r"bounding_boxes\.txt:1: expected an id and 4"),
        ("bounding_boxes.txt", "1 2 1 4 x\n", r"expected an id and 4 entries, got '1 2 1 4 x'"),
        ("bounding_boxes.txt", "1 2 1 nan 4\n", "expected an id and 4 entries, got '1 2 1 nan 4'"),
        ("bounding_boxes.txt", "1 2 1 4 4\n", r"bounding_boxes\.txt: no line for image 2"),
        ("train_test_split.txt", "1 0\n", r"train_test_split\.txt: no line for image 2"),
        ("image_class_labels.txt", "1 0\n2 1\n", r"image 1 \(.*a\.jpg\) has class 0, not in 1 to"),
        ("image_class_labels.txt", "1 1\n", r"image 2 .* has class 0"),
        ("parts/part_locs.txt", "1 1 0 0 1\n1 2 0 0 1\n2 1 0 0 1\n", "image 2 has not the parts"),
    ]  # fmt: skip
    for name, text, message in faults:
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            make(root).setup("test")
        (folder / name).write_text(LISTS[name])
    (folder / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt: no such file; unpack"):
        make(root).setup("test")
    (folder / "images.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no CUB-200-2011 here; looked for CUB_200_2011"):
        make(root).setup("test")
