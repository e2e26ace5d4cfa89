"""ImageNet: folders, labels of loose val images, boxes, subsets without a common image, ReaL."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import synsets
from datamodules.imagenet import ImageNet

TENCH, GOLDFISH, CRANE = "n01440764", "n01443537", "n02012849"  # 0, 1 and 134
XML = "<annotation><size><width>{}</width><height>{}</height></size>{}</annotation>"


def save(path, grey=0, width=8, height=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), grey, np.uint8)).save(path, "JPEG")


def val_name(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def make(root, **kwargs):
    return ImageNet(**{"root": str(root), "image_size": [4, 8], **kwargs})


def names(data, split):
    return list(data.dataset(split).source.names)


def label(data, split, index):
    return data.dataset(split)[index]["target"].nonzero().flatten().tolist()


def thing(wnid, *corners):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    places = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{wnid}</name><bndbox>{places}</bndbox></object>"


@pytest.fixture
def flat(tmp_path):
    """Kaggle's layout: val images 1 (crane), 2 (tench) and 3 (goldfish) in one folder."""
    folder = tmp_path / "ILSVRC/Data/CLS-LOC"
    for number in (1, 2, 3):
        save(folder / "val" / val_name(number), 10 * number)
    save(folder / "train" / TENCH / "a.JPEG")
    save(folder / "train" / TENCH / "b.JPEG")
    save(folder / "train" / CRANE / "c.JPEG")
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        f"ILSVRC2012_val_00000002,{TENCH} 0 0 7 3 \n"
        f"ILSVRC2012_val_00000001,{CRANE} 2 1 3 2 {CRANE} 0 0 1 1 \n"
        f"ILSVRC2012_val_00000003,{GOLDFISH} 0 0 0 0 \n"
        "ILSVRC2012_val_00000004,n01443537 0 0 0 0 \n"  # a part of the images is enough
    )
    return tmp_path


@pytest.fixture
def folders(tmp_path):
    for number, wnid in ((1, CRANE), (2, TENCH), (3, GOLDFISH)):
        save(tmp_path / "val" / wnid / val_name(number), 10 * number)
    return tmp_path


def test_class_folders(folders):
    save(folders / "train" / TENCH / "a.JPEG")
    save(folders / "train" / "n00000000" / "b.JPEG")
    data = make(folders)
    assert (data.num_classes, data.class_names[0]) == (1000, "tench, Tinca tinca")
    assert data.class_names[134] == "crane (134)"
    assert not data.multi_label
    # By number, as in the flat layout, and not by class.
    assert names(data, "val") == [
        f"val/{CRANE}/{val_name(1)}", f"val/{TENCH}/{val_name(2)}", f"val/{GOLDFISH}/{val_name(3)}"
    ]  # fmt: skip
    assert [label(data, "test", index) for index in range(3)] == [[134], [0], [1]]
    assert names(data, "predict") == names(data, "test")
    with pytest.warns(UserWarning, match=r"left out 1 images in folders .* n00000000"):
        assert names(data, "train") == [f"train/{TENCH}/a.JPEG"]
    assert "boxes" not in data.dataset("val")[0]


def test_kaggle_labels_boxes_and_turns_of_classes(flat):
    data = make(flat)
    assert [label(data, "val", index) for index in range(3)] == [[134], [0], [1]]
    assert data.dataset("val")[1]["image"].mean().item() == pytest.approx(20 / 255, abs=0.01)
    boxes = data.dataset("test")[0]["boxes"]
    assert boxes.shape == (64, 5)
    assert boxes[:3].tolist() == [[134, 2, 1, 4, 3], [134, 0, 0, 2, 2], [-1] * 5]
    wide = make(flat, image_size=[8, 32]).dataset("test")[0]["boxes"]
    assert wide[0].tolist() == [134, 8, 2, 16, 6]
    assert "boxes" not in make(flat, boxes=False).dataset("val")[0]
    train = data.dataset("train")
    assert [name.rpartition("/")[2] for name in train.source.names] == [
        "a.JPEG",
        "c.JPEG",
        "b.JPEG",
    ]
    assert "boxes" not in train[0]
    batch = next(iter(data.test_dataloader()))
    assert batch["boxes"].shape == (3, 64, 5)
    one, other = data.identity("test")["hash"], make(flat, boxes=False).identity("test")["hash"]
    assert one != other


def test_a_table_without_boxes_gives_labels_and_says_so(flat, caplog):
    (flat / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        + "".join(f"{val_name(n)[:-5]},{w}\n" for n, w in ((1, CRANE), (2, TENCH), (3, TENCH)))
    )
    data = make(flat)
    with caplog.at_level(logging.INFO):
        assert [label(data, "val", index) for index in range(3)] == [[134], [0], [0]]
    said = [record.getMessage() for record in caplog.records]
    assert sum("its boxes have been removed" in line for line in said) == 1
    assert "ImageNet: no boxes found" in said
    assert "boxes" not in data.dataset("val")[0]


def test_xml_boxes_are_scaled_to_the_file(folders):
    where = folders / "Annotations/CLS-LOC/val"
    where.mkdir(parents=True)
    (where / "ILSVRC2012_val_00000001.xml").write_text(XML.format(16, 8, thing(CRANE, 4, 2, 7, 5)))
    sample = make(folders).dataset("val")
    assert sample[0]["boxes"][0].tolist() == [134, 2, 1, 4, 3]  # half of (4, 2, 8, 6)
    assert (sample[1]["boxes"] == -1).all()
    elsewhere = make(folders, annotations=str(where)).dataset("val")
    assert torch.equal(elsewhere[0]["boxes"], sample[0]["boxes"])
    (where / "ILSVRC2012_val_00000001.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match="not readable as XML"):
        sample[0]
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; set annotations"):
        make(folders, annotations="nowhere").setup("test")


def test_a_list_chooses_images_and_labels(folders):
    listing = folders / "own.txt"
    listing.write_text(f"{val_name(3)} 7\nval/x/{val_name(1)[:-5]}\t{TENCH}\n\n")
    data = make(folders, labels=str(listing))
    assert [label(data, "test", index) for index in range(2)] == [[0], [7]]
    assert len(data.dataset("test")) == 2
    assert len(make(folders, labels="own.txt").dataset("test")) == 2
    listing.write_text(f"{val_name(9)} 7\n")
    with pytest.raises(FileNotFoundError, match=r"own\.txt: 1 of 1 images are not in .*00000009"):
        make(folders, labels=str(listing)).setup("test")


def test_classes_of_other_names_take_turns(tmp_path):
    for wnid, number in ((TENCH, 1), (TENCH, 2), (CRANE, 1)):
        save(tmp_path / "val" / wnid / f"{wnid}_{number}.JPEG")
    data = make(tmp_path)
    assert [label(data, "val", index) for index in range(3)] == [[0], [134], [0]]


def test_images_beside_class_folders_need_a_label(folders):
    save(folders / "val" / val_name(4))
    save(folders / "val" / val_name(5))
    with pytest.warns(UserWarning, match=r"2 images in no class folder have no label"):
        assert len(make(folders).dataset("val")) == 3
    (folders / "val.txt").write_text(f"{val_name(4)} 999\n")
    with pytest.warns(UserWarning, match=r"1 images .* no label in .*val\.txt .*00000005"):
        assert label(make(folders), "val", 3) == [999]


def test_the_images_themselves_in_the_root(tmp_path):
    save(tmp_path / val_name(1))
    (tmp_path / "val.txt").write_text(f"{val_name(1)} 5\n")
    data = make(tmp_path)
    assert names(data, "test") == [val_name(1)]
    assert label(data, "test", 0) == [5]
    # A layout with a folder of XML files only, called val.
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.xml").write_text(
        XML.format(8, 4, thing(TENCH, 0, 0, 1, 1))
    )
    assert make(tmp_path).dataset("test")[0]["boxes"][0].tolist() == [0, 0, 0, 2, 2]


@pytest.fixture
def forty(tmp_path):
    """Validation images 1 to 40 of class 5 in one folder, and the same in class folders."""
    for number in range(1, 41):
        save(tmp_path / "flat/val" / val_name(number))
        save(tmp_path / "sorted/val" / TENCH / val_name(number))
    (tmp_path / "flat/val.txt").write_text("".join(f"{val_name(n)} 0\n" for n in range(1, 41)))
    return tmp_path


def test_subsets_are_disjoint_seeded_and_the_same_in_every_layout(forty):
    counts = {"train_from": "val", "train_images": 20, "val_images": 10, "test_images": 5}
    data = make(forty / "flat", **counts)
    parts = {split: names(data, split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 20,
        "val": 10,
        "test": 5,
    }
    assert len({name for part in parts.values() for name in part}) == 35
    assert parts["test"] == sorted(parts["test"])
    other = make(forty / "sorted", **counts)
    for split, part in parts.items():
        assert [n.rpartition("/")[2] for n in names(other, split)] == [
            n.rpartition("/")[2] for n in part
        ]
    assert names(make(forty / "flat", **counts, split_seed=1), "test") != parts["test"]
    assert "boxes" not in data.dataset("train")[0]
    # What has no number takes all that is left, and both of them all if there is none.
    rest = make(forty / "flat", test_images=5)
    assert names(rest, "test") == parts["test"]
    assert not set(names(rest, "val")) & set(parts["test"])
    assert len(names(rest, "val")) == 35
    whole = make(forty / "flat")
    assert len(names(whole, "val")) == len(names(whole, "test")) == 40
    with pytest.raises(ValueError, match=r"at least 41 \(test_images\) images, got 40; lower"):
        make(forty / "flat", test_images=41).setup("test")
    with pytest.raises(ValueError, match="train_from: val needs train_images and test_images"):
        make(forty / "flat", train_from="val", train_images=5)


def test_real_labels(forty):
    real = synsets.reassessed_labels()[:40]
    data = make(forty / "sorted", real_labels=True)
    assert data.multi_label
    assert len(data.dataset("test")) == sum(map(bool, real)) < 40
    first = next(number for number, classes in enumerate(real, 1) if classes)
    assert names(data, "test")[0].endswith(val_name(first))
    assert label(data, "test", 0) == list(real[first - 1])
    several = make(forty / "sorted", real_labels="several").dataset("test")
    assert len(several) == sum(len(classes) > 1 for classes in real) > 0
    save(forty / "sorted/val" / TENCH / "other.JPEG")
    with pytest.raises(ValueError, match=r"other\.JPEG: real_labels needs names such as"):
        make(forty / "sorted", real_labels=True).setup("test")


def test_what_is_missing_is_said(tmp_path, flat):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere: no such folder; .* or image files in va"
    ):
        make(tmp_path / "nowhere").setup("test")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no ImageNet train images .*CLS-LOC/train.*root"):
        make(tmp_path / "bare").setup("fit")
    (flat / "LOC_val_solution.csv").unlink()
    with pytest.raises(
        ValueError,
        match=r"3 images in no class folder have no label, such as .*"
        r"add one of LOC_val_solution\.csv .* meta\.mat .* set labels",
    ):
        make(flat).setup("test")
    save(tmp_path / "loose/train/x.JPEG")
    with (
        pytest.warns(UserWarning, match="left out 1 images in no class folder, such as x"),
        pytest.raises(ValueError, match="no images in class folders such as n01440764"),
    ):
        make(tmp_path / "loose").dataset("train")
    with pytest.raises(ValueError, match="real_labels must be one of"):
        make(flat, real_labels="all")
    with pytest.raises(ValueError, match="test_images must be at least 1"):
        make(flat, test_images=0)
