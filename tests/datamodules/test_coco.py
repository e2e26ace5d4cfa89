"""COCO: targets, masks of polygons and run lengths, crowds, ids, boxes and splits."""

import json

import numpy as np
import pytest
from PIL import Image

from datamodules import coco_annotations
from datamodules.coco import COCO
from datamodules.coco_masks import decompress, instance_mask, run_lengths

PERSON, DOG, TOOTHBRUSH = 1, 18, 90  # category ids; contiguous 0, 16 and 79
SQUARE = [1, 0, 3, 0, 3, 2, 1, 2]  # columns 1 and 2 of rows 0 and 1


def thing(image, category, segmentation, crowd=0, box=(1, 0, 2, 2)):
    return {
        "image_id": image, "category_id": category, "segmentation": segmentation,
        "iscrowd": crowd, "bbox": list(box), "id": 7, "area": 1.0,
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """Val images a (person, toothbrush, crowd of persons), b (none) and c (dog); ten of train."""
    pictures = [
        {"id": 5, "file_name": "a.jpg", "height": 2, "width": 4},
        {"id": 3, "file_name": "b.jpg", "height": 2, "width": 4},
        {"id": 9, "file_name": "c.jpg", "height": 2, "width": 4},
    ]
    crowd = {"size": [2, 4], "counts": [0, 2, 6]}  # column 0
    things = [
        thing(5, PERSON, [SQUARE]),
        thing(5, TOOTHBRUSH, [[3, 0, 4, 0, 4, 1, 3, 1]], box=(3, 0, 1, 1)),
        thing(5, PERSON, crowd, crowd=1, box=(0, 0, 1, 2)),
        thing(9, DOG, {"size": [2, 4], "counts": "422"}, box=(2, 0, 1, 2)),
    ]
    write(tmp_path, "val", pictures, things)
    many = [{"id": i, "file_name": f"{i}.jpg", "height": 2, "width": 4} for i in range(10)]
    write(tmp_path, "train", many, [thing(i, DOG, [SQUARE]) for i in range(10)])
    return tmp_path


def write(root, part, pictures, things):
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"{part}2017").mkdir()
    for own in pictures:
        Image.new("L", (4, 2), 60).save(root / f"{part}2017" / own["file_name"])
    content = {"images": pictures, "annotations": things, "categories": []}
    (root / f"annotations/instances_{part}2017.json").write_text(json.dumps(content))


def make(root, **kwargs):
    return COCO(**{"root": str(root), "image_size": [2, 4], **kwargs})


def classes(sample):
    return sample["target"].nonzero().flatten().tolist()


def test_targets_masks_and_boxes_by_hand(root):
    data = make(root)
    first, second = (data.dataset("test")[i] for i in (0, 1))
    assert (first["name"], second["name"]) == ("val2017/a.jpg", "val2017/c.jpg")
    assert (classes(first), classes(second)) == ([0, 79], [16])
    assert (data.class_names[0], data.class_names[16], data.class_names[79]) == (
        "person", "dog", "toothbrush",
    )  # fmt: skip
    assert first["mask"].shape == (80, 2, 4)
    assert first["mask"][0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]  # with the crowd
    assert first["mask"][79].int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert first["mask"].sum() == 7
    assert second["mask"][16].int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 0]]
    assert first["boxes"][:3].tolist() == [[0, 1, 0, 3, 2], [79, 3, 0, 4, 1], [0, 0, 0, 1, 2]]
    assert (first["boxes"][3:] == -1).all()
    assert first["image"].shape == (3, 2, 4)  # a gray file


def test_crowds_can_be_ignored(root):
    sample = make(root, crowd="ignore").dataset("test")[0]
    assert sample["mask"][0].int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0]]
    assert sample["void"].int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]
    assert sample["boxes"][:, 0].tolist()[:3] == [0, 79, -1]
    assert "void" not in make(root).dataset("test")[0]


def test_ids_as_classes(root):
    data = make(root, classes="ids", masks=False)
    assert (data.num_classes, data.class_names[90], data.class_names[12]) == (
        91,
        "toothbrush",
        "12",
    )
    sample = data.dataset("test")[0]
    assert classes(sample) == [1, 90]
    assert "mask" not in sample
    assert sample["boxes"][1].tolist() == [90, 3, 0, 4, 1]


def test_images_without_objects_are_left_out_unless_asked_for(root):
    assert len(make(root).dataset("test")) == 2
    data = make(root, allow_empty=True)
    assert [data.dataset("test")[i]["name"][-5:] for i in range(3)] == ["a.jpg", "b.jpg", "c.jpg"]
    assert classes(data.dataset("test")[1]) == []
    assert not data.dataset("test")[1]["mask"].any()


def test_a_tenth_of_the_train_images_is_the_val_split(root):
    data = make(root)
    train, val = data.source("train").names, data.source("val").names
    assert (len(train), len(val)) == (9, 1)
    assert not set(train) & set(val)
    assert make(root, split_seed=1).source("val").names != val
    assert "boxes" not in data.dataset("train")[0]
    batch = next(iter(make(root, batch_size=2).test_dataloader()))
    assert (batch["mask"].shape, batch["boxes"].shape) == ((2, 80, 2, 4), (2, 128, 5))
    larger = make(root, image_size=[4, 8]).dataset("test")[0]
    assert larger["mask"][79].sum() == 4
    assert larger["boxes"][1].tolist() == [79, 6, 0, 8, 2]


def test_other_objects_are_other_data(root):
    before = make(root).identity("test")
    path = root / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace("[3, 0, 1, 1]", "[2, 0, 2, 1]"))
    after = make(root).identity("test")
    assert before["names"] == after["names"]
    assert before["hash"] != after["hash"]


def test_errors_name_what_is_missing(root):
    path = root / "annotations/instances_val2017.json"
    with pytest.raises(FileNotFoundError, match="no folder val2014 or images/val2014; set root"):
        make(root, year="2014").setup("test")
    for wrong, reason in {
        "{": "not readable as JSON",
        "[]": "expected `images` and `annotations` of instances",
        '{"images": [{"id": 1}], "annotations": []}': "expected `images`",
    }.items():
        whole = path.read_text()
        path.write_text(wrong)
        with pytest.raises(ValueError, match=f"instances_val2017.json: {reason}"):
            make(root).setup("test")
        path.write_text(whole)
    path.write_text(whole.replace('"category_id": 18', '"category_id": 12'))
    with pytest.raises(ValueError, match="category 12 is none of COCO's 80"):
        make(root).setup("test")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"instances_val2017\.json: no such file; add the"):
        make(root).setup("test")
    for wrong in ({"year": "2015"}, {"classes": "all"}, {"crowd": "drop"}, {"val_fraction": 1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            make(root, **wrong)


def test_what_does_not_fit_an_image_is_named(root):
    Image.new("RGB", (4, 3)).save(root / "val2017/a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: \[3, 4\] pixels, the annotations say \[2, 4\]"):
        make(root).dataset("test")[0]
    path = root / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"422"', '"423"'))
    with pytest.raises(ValueError, match=r"c\.jpg: an object has run lengths of 9 pixels"):
        make(root).dataset("test")[1]
    with pytest.raises(ValueError, match="none of the 2 images could be read"):
        list(make(root).test_dataloader())


def test_polygons_by_their_centers():
    triangle = [0, 0, 4, 0, 0, 4]  # the centers below x + y = 4
    found = instance_mask([np.array(triangle, np.float32)], 4, 5)
    assert found.tolist() == [
        [True, True, True, False, False], [True, True, False, False, False],
        [True, False, False, False, False], [False] * 5,
    ]  # fmt: skip
    two = instance_mask([[0, 0, 1, 0, 1, 1, 0, 1], [2, 0, 9, 0, 9, 1, 2, 1], [1, 1]], 1, 4)
    assert two.tolist() == [[True, False, True, True]]  # cut at the border; no area in the last
    outside = instance_mask([[-9, -9, -5, -9, -5, -5]], 2, 2)
    assert not outside.any()


def test_run_lengths_go_down_the_columns():
    assert run_lengths({"size": [2, 3], "counts": [1, 3, 2]}, 2, 3).tolist() == [
        [False, True, False], [True, True, False],
    ]  # fmt: skip
    for wrong in ({"size": [3, 2], "counts": [6]}, {"size": [2, 3], "counts": [7, -1]}, {}):
        with pytest.raises(ValueError, match="run lengths of"):
            run_lengths(wrong, 2, 3)


def test_compressed_run_lengths():
    # As pycocotools 2.0.11 writes them.
    assert decompress(b"12114") == [1, 2, 1, 3, 5]
    assert decompress("P1") == [32]  # 0 and that more follows, then 1
    with pytest.raises(ValueError, match="end within a number"):
        decompress("P")
    with pytest.raises(ValueError, match="character '!'"):
        decompress("1!")


def test_there_are_80_categories():
    ids = list(coco_annotations.CATEGORIES)
    assert (len(ids), ids[0], ids[-1], ids[11]) == (80, 1, 90, 13)
    assert coco_annotations.CATEGORIES[44] == "bottle"
    assert coco_annotations.CATEGORIES[67] == "dining table"
