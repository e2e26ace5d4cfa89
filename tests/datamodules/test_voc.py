"""VOC: targets from XML, masks from palette PNGs, and the void border read in three ways."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from datamodules import voc
from datamodules.images import Fit
from datamodules.voc import VOC
from explainers.metrics.boxes import tight_boxes

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "voc-sample"
CAT, DOG, PERSON = (voc.CLASS_NAMES.index(name) for name in ("cat", "dog", "person"))
LABELS = np.array([[0, 8, 8, 255], [0, 12, 255, 0]], np.uint8)  # 8 is cat, 12 is dog


def annotate(path, *objects):
    lines = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult></object>"
        for name, difficult in objects
    ]
    path.write_text(f"<annotation>{''.join(lines)}</annotation>")


def save_palette(path, labels):
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette(
        [value for index in range(256) for value in (index, 255 - index, index // 2)]
    )
    picture.putdata(labels.flatten().tolist())
    picture.save(path)


@pytest.fixture
def root(tmp_path):
    """Images a (cat, difficult dog; mask), b (person twice; no mask), c (dog; no mask)."""
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name, grey in {"a": 0, "b": 100, "c": 200}.items():
        Image.new("RGB", (4, 2), (grey, grey, grey)).save(tmp_path / f"JPEGImages/{name}.jpg")
    annotate(tmp_path / "Annotations/a.xml", ("cat", 0), ("dog", 1))
    annotate(tmp_path / "Annotations/b.xml", ("person", 0), ("person", 0))
    annotate(tmp_path / "Annotations/c.xml", ("dog", 0))
    save_palette(tmp_path / "SegmentationClass/a.png", LABELS)
    sets = {"train": "c\nb\n", "val": "a\n\n", "test": "b  1\na -1\n"}
    for name, lines in sets.items():
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text(lines)
    return tmp_path


def make(root, **kwargs):
    return VOC(**{"root": str(root), "image_size": [2, 4], "year": "2007", **kwargs})


def classes(sample):
    return sample["target"].nonzero().flatten().tolist()


def test_targets_names_and_images(root):
    data = make(root)
    train = [data.dataset("train")[index] for index in range(2)]
    assert [sample["name"] for sample in train] == ["JPEGImages/c.jpg", "JPEGImages/b.jpg"]
    assert [classes(sample) for sample in train] == [[DOG], [PERSON]]
    assert train[0]["image"].mean().item() == pytest.approx(200 / 255, abs=0.01)
    assert (data.num_classes, data.class_names[14], data.multi_label) == (20, "person", True)


def test_difficult_objects_count_unless_left_out(root):
    assert classes(make(root).dataset("val")[0]) == [CAT, DOG]
    assert classes(make(root, difficult=False).dataset("val")[0]) == [CAT]


def test_void_is_a_key_of_its_own(root):
    sample = make(root).dataset("val")[0]
    assert sample["mask"].shape == (20, 2, 4)
    assert sample["mask"].dtype == torch.bool
    assert sample["mask"][CAT].tolist() == (LABELS == 8).tolist()
    assert sample["mask"][DOG].tolist() == (LABELS == 12).tolist()
    assert sample["mask"].sum() == 3
    assert sample["void"].tolist() == (LABELS == 255).tolist()


def test_void_as_background_is_dropped(root):
    sample = make(root, void_as="background").dataset("val")[0]
    assert "void" not in sample
    assert sample["mask"].sum() == 3


def test_void_as_foreground_joins_every_present_class(root):
    sample = make(root, void_as="foreground").dataset("val")[0]
    assert "void" not in sample
    assert sample["mask"][CAT].tolist() == ((LABELS == 8) | (LABELS == 255)).tolist()
    assert sample["mask"].any(0).tolist() == (LABELS > 0).tolist()  # the paper's reading
    assert sample["mask"][PERSON].sum() == 0


def test_the_released_foreground_grows_where_it_is_resized(root):
    """NN-Explainer reads VOC's colors as gray: here 19, the border 220. It resizes bilinearly."""
    labels = np.zeros((32, 32), np.uint8)
    labels[8:24, 8:24] = 255
    labels[9:23, 9:23] = 8
    save_palette(root / "SegmentationClass/a.png", labels)
    Image.new("RGB", (32, 32)).save(root / "JPEGImages/a.jpg")
    for side, ours, theirs in ((32, 16**2, 16**2), (16, 8**2, 10**2)):
        found = make(root, image_size=[side, side], void_as="foreground").dataset("val")[0]
        assert found["mask"][CAT].sum() == ours
        gray = Image.fromarray(np.select([labels == 8, labels == 255], [19, 220]).astype("uint8"))
        resized = np.array(gray.resize((side, side), Image.Resampling.BILINEAR))
        assert (resized > 0).sum() == theirs


def test_masks_are_resized_with_the_image(root):
    sample = make(root, image_size=[4, 8]).dataset("val")[0]
    expected = torch.from_numpy(LABELS == 8).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(sample["mask"][CAT], expected)


def test_masks_come_only_where_all_images_have_one(root):
    assert "mask" not in make(root).dataset("test")[1]
    assert "mask" not in make(root, masks=False).dataset("val")[0]
    restricted = make(root, require_masks=True)
    assert len(restricted.dataset("test")) == len(restricted.dataset("predict")) == 1
    assert restricted.dataset("test")[0]["name"] == "JPEGImages/a.jpg"
    assert len(restricted.dataset("train")) == 2
    batch = next(iter(make(root).test_dataloader()))
    assert batch["image"].shape == (2, 3, 2, 4)


def box(name, *corners, extra=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    places = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{places}</bndbox></object>"


def test_boxes_follow_the_image(root):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    things = box("cat", 2, 1, 3, 1, extra=part) + box("dog", 1, 2, 4, 2)
    (root / "Annotations/a.xml").write_text(f"<annotation>{things}</annotation>")
    sample = make(root).dataset("val")[0]
    assert sample["boxes"].shape == (64, 5)
    assert sample["boxes"][:2].tolist() == [[CAT, 1, 0, 3, 1], [DOG, 0, 1, 4, 2]]
    assert (sample["boxes"][2:] == -1).all()
    assert torch.equal(sample["boxes"][0, 1:].long(), tight_boxes(sample["mask"][CAT]))
    larger = make(root, image_size=[4, 12]).dataset("val")[0]
    assert larger["boxes"][0].tolist() == [CAT, 3, 0, 9, 2]
    assert "boxes" not in make(root).dataset("train")[0]
    assert next(iter(make(root).test_dataloader()))["boxes"].shape == (2, 64, 5)


def test_boxes_are_cropped_with_the_image(root):
    things = box("cat", 1, 1, 2, 2) + box("dog", 1, 1, 1, 2)
    (root / "Annotations/a.xml").write_text(f"<annotation>{things}</annotation>")
    crop = {"image_size": [2, 2], "resize": "crop", "crop_pct": 1.0}  # columns 1 and 2 of 0 to 3
    sample = make(root, **crop).dataset("val")[0]
    assert sample["boxes"][0].tolist() == [CAT, 0, 0, 1, 2]
    assert (sample["boxes"][1:] == -1).all()  # the dog is cut away
    boxes = torch.tensor([[3.0, 10, 20, 50, 60]])
    for how in ("squash", "crop"):  # against the pixels of a drawn box
        fit = Fit([64, 80], how, 0.875, "bilinear")
        plane = torch.zeros(90, 70, dtype=torch.uint8)
        plane[20:60, 10:50] = 1
        drawn = tight_boxes(fit(tv_tensors.Mask(plane)).as_subclass(torch.Tensor) > 0)
        moved = voc.fit_boxes(boxes, fit, plane.shape)[0, 1:]
        assert (moved - drawn).abs().max() <= 0.5 + 1e-4


def test_too_many_boxes_are_refused(root):
    (root / "Annotations/a.xml").write_text(
        f"<annotation>{box('cat', 1, 1, 2, 2) * 65}</annotation>"
    )
    with pytest.raises(ValueError, match=r"a\.xml: 65 boxes, expected at most 64"):
        make(root).dataset("val")[0]


def test_the_usual_layouts_and_sets(root, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    (above / "VOCdevkit").mkdir()
    (above / "VOCdevkit/VOC2007").symlink_to(root)
    assert len(make(above).dataset("test")) == 2
    assert make(root, year="2012").sets["test"] == "val"
    assert len(make(root, test_set="train").dataset("test")) == 2


def test_download_runs_once_and_only_on_request(root, tmp_path, monkeypatch):
    calls = []

    def fake(folder, year, image_set, download):
        calls.append((folder, year, image_set, download))

    monkeypatch.setattr(voc, "VOCDetection", fake)
    make(root, download=True).prepare_data()
    make(tmp_path / "new").prepare_data()
    assert calls == []
    new = str(tmp_path / "new")
    make(new, download=True).prepare_data()
    make(new, year="2012", download=True).prepare_data()
    assert calls == [
        (new, "2007", "trainval", True),
        (new, "2007", "test", True),
        (new, "2012", "trainval", True),
    ]


def test_errors_name_the_culprit(root):
    with pytest.raises(ValueError, match="year must be one of"):
        make(root, year="2008")
    with pytest.raises(ValueError, match="void_as must be"):
        make(root, void_as="drop")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no JPEGImages .* download: true"):
        make(root / "nowhere").setup("test")
    with pytest.raises(FileNotFoundError, match=r"other\.txt: no such image set; set test_set"):
        make(root, test_set="other").setup("test")
    with pytest.raises(ValueError, match=r"train\.txt: no image has a mask"):
        make(root, test_set="train", require_masks=True).setup("test")
    (root / "ImageSets/Main/none.txt").write_text("\n")
    with pytest.raises(ValueError, match="split 'test' has no images"):
        make(root, test_set="none").setup("test")


def test_broken_annotations_and_masks_are_named(root):
    val = make(root).dataset("val")
    annotate(root / "Annotations/a.xml", ("unicorn", 0))
    with pytest.raises(ValueError, match=r"a\.xml: unknown class 'unicorn'"):
        val[0]
    (root / "Annotations/a.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"a\.xml: not readable as XML"):
        val[0]
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.xml: no such annotation"):
        val[0]
    annotate(root / "Annotations/a.xml", ("cat", 0))
    save_palette(root / "SegmentationClass/a.png", LABELS[:, :3].copy())
    with pytest.raises(ValueError, match=r"a\.png: mask \[2, 3\] and image \[2, 4\] differ"):
        val[0]
    save_palette(root / "SegmentationClass/a.png", np.full((2, 4), 21, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png: expected indices 0 to 20 or 255"):
        val[0]


def test_broken_annotations_and_masks_cost_only_their_image(root):
    (root / "Annotations/b.xml").write_text("<annotation>")
    data = make(root)
    with pytest.warns(
        UserWarning, match=r"1 of 2 .*: JPEGImages/b\.jpg \(.*b\.xml: not readable as"
    ):
        assert [batch["index"].tolist() for batch in data.test_dataloader()] == [[1]]
    save_palette(root / "SegmentationClass/a.png", np.full((2, 4), 21, np.uint8))
    with pytest.raises(ValueError, match=r"^JPEGImages/a\.jpg: .*expected indices 0 to 20 or 255"):
        list(make(root).val_dataloader())


@pytest.mark.data
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs ../shared/data/voc-sample")
def test_real_photographs():
    data = VOC(root=str(SAMPLE), test_set="test", image_sets="Segmentation", batch_size=8)
    batches = list(data.test_dataloader())
    assert sum(len(batch["name"]) for batch in batches) == 40
    mask, target = (torch.cat([batch[key] for batch in batches]) for key in ("mask", "target"))
    agree = (mask.flatten(2).any(2) == target).float().mean()
    assert agree > 0.99
    assert 0.1 < mask.any(1).float().mean() < 0.4
