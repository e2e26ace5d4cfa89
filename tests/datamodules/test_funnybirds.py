"""FunnyBirds: part maps by their colors, renderings without parts, and the published layout."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from datamodules.funnybirds import FunnyBirds
from datamodules.funnybirds_maps import PARTS, object_masks, part_labels, subsets

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "funnybirds-small"
# Both eyes, both feet and both wings, a mixed pixel, body, background, and two objects.
COLORS = [
    [(255, 255, 0), (255, 255, 253), (255, 255, 254), (255, 0, 1)],
    [(255, 0, 2), (0, 0, 255), (0, 255, 1), (0, 255, 2)],
    [(170, 170, 170), (0, 0, 0), (204, 204, 204), (204, 204, 206)],
    [(255, 255, 252), (170, 170, 171), (204, 204, 205), (200, 204, 204)],
]
LABELS = [[1, 2, 2, 3], [3, 4, 5, 5], [6, 0, 0, 0], [0, 0, 0, 0]]


def picture(path, colors):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (4, 4))
    image.putdata([(*color, 255) for row in colors for color in row])
    image.save(path)


def grey(value):
    return [[(value,) * 3] * 4] * 4


@pytest.fixture
def root(tmp_path):
    """Two classes that differ in the beak, two test images (2 objects, none), ten of train."""
    parts = dict.fromkeys(PARTS, 0)
    classes = [{"class_idx": k, "parts": {**parts, "beak": k}} for k in range(2)]
    tests = [{"class_idx": 0, "bg_objects": "2,0,1,"}, {"class_idx": 1, "bg_objects": ""}]
    trains = [{"class_idx": i // 5, "bg_objects": ""} for i in range(10)]
    content = {"classes": classes, "dataset_test": tests, "dataset_train": trains, "parts": {}}
    for name, value in content.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    for split, scenes in (("test", tests), ("train", trains)):
        for place, scene in enumerate(scenes):
            name = f"{scene['class_idx']}/{place:06d}"
            picture(tmp_path / f"{split}/{name}.png", grey(100 + place))
            picture(tmp_path / f"{split}_part_map/{name}.png", COLORS)
            for code, kept in enumerate(subsets() if split == "test" else []):
                folder = tmp_path / "test_interventions" / name
                picture(folder / f"body_{'_'.join(kept)}.png", grey(code))
                for number in (0, 1, 2):
                    picture(folder / f"background_interventions/{number}.png", grey(200 + number))
    return tmp_path


def make(root, **kwargs):
    return FunnyBirds(**{"root": str(root), "image_size": [4, 4], **kwargs})


def test_part_maps_by_hand(root):
    sample = make(root).dataset("test")[1]
    assert sample["name"] == "test/1/000001.png"
    assert sample["target"].tolist() == [False, True]
    assert sample["image"].mean().item() == pytest.approx(101 / 255)
    assert sample["mask"].shape == (2, 4, 4)
    assert torch.equal(sample["mask"][1], torch.tensor(LABELS) > 0)
    assert sample["parts"].shape == (2, 5, 4, 4)
    for part in range(5):
        assert torch.equal(sample["parts"][1, part], torch.tensor(LABELS) == part + 1)
    assert not sample["mask"][0].any()
    assert not sample["parts"][0].any()
    assert "interventions" not in sample
    assert "parts" not in make(root).dataset("train")[0]
    assert "mask" not in make(root, parts=False).dataset("test")[0]


def test_colors_of_objects_count_from_204():
    colors = torch.tensor(COLORS, dtype=torch.uint8).permute(2, 0, 1)
    assert part_labels(colors).tolist() == LABELS
    masks = object_masks(colors, 3)
    assert [mask.nonzero().tolist() for mask in masks] == [[[2, 2]], [[3, 2]], [[2, 3]]]


def test_renderings_without_parts_and_objects(root):
    data = make(root, interventions=True, batch_size=2)
    sample = data.dataset("test")[0]
    assert sample["interventions"].shape == (32, 3, 4, 4)
    assert sample["interventions"][:, 0, 0, 0].tolist() == list(range(32))
    assert subsets()[0] == []
    assert subsets()[31] == ["beak", "eye", "foot", "tail", "wing"]
    assert sample["backgrounds"][:, 0, 0, 0].tolist() == [200, 201, 202]
    assert sample["objects"].flatten(1).sum(1).tolist() == [1, 1, 1]
    assert sample["shared"].tolist() == [[True] * 5, [False, *[True] * 4]]
    batch = next(iter(data.test_dataloader()))
    assert batch["backgrounds"].shape == (2, 3, 3, 4, 4)
    assert batch["interventions"].dtype == torch.uint8
    smaller = make(root, interventions=True, image_size=[2, 2]).dataset("test")[0]
    assert smaller["interventions"].shape == (32, 3, 2, 2)
    assert "interventions" not in data.dataset("val")[0]


def test_an_object_that_cannot_be_seen_needs_no_file(root):
    black = [[(0, 0, 0)] * 4] * 4
    picture(root / "test_part_map/0/000000.png", black)
    for path in (root / "test_interventions/0/000000/background_interventions").iterdir():
        path.unlink()
    sample = make(root, interventions=True).dataset("test")[0]
    assert not sample["objects"].any()
    assert (sample["backgrounds"] == 100).all()


def test_splits_and_names(root):
    data = make(root)
    assert data.class_names == ["class_0", "class_1"]
    assert data.part_names == ["beak", "eye", "foot", "tail", "wing"]
    train, val = data.source("train").names, data.source("val").names
    assert (len(train), len(val), set(train) & set(val)) == (9, 1, set())
    assert [name[:8] for name in train[:4]] == ["train/0/", "train/1/"] * 2  # in turn
    assert data.source("predict").names == data.source("test").names
    assert make(root, split_seed=3).identity("val") != data.identity("val")


def test_errors_name_what_is_missing(root):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere/dataset_test\.json: no such file; set root"
    ):
        make(root / "nowhere").setup("test")
    (root / "test_interventions").rename(root / "other")
    make(root).setup("test")
    with pytest.raises(
        FileNotFoundError, match="test_interventions: no such folder; add it, or set"
    ):
        make(root, interventions=True).setup("test")
    picture(root / "test_part_map/0/000000.png", COLORS)
    Image.new("RGB", (5, 4)).save(root / "test_part_map/0/000000.png")
    with pytest.raises(ValueError, match=r"000000\.png: \[4, 5\] pixels, the image has \[4, 4\]"):
        make(root).dataset("test")[0]
    scenes = root / "dataset_test.json"
    for text, reason in {
        "{": "not readable as JSON",
        "[{}]": "expected a list of scenes with class_idx and bg_objects",
        '[{"class_idx": 7, "bg_objects": ""}]': "class 7 is not in classes.json, which has 2",
    }.items():
        scenes.write_text(text)
        with pytest.raises(ValueError, match=rf"dataset_test\.json: {reason}"):
            make(root).setup("test")
    (root / "classes.json").write_text('[{"class_idx": 1, "parts": {}}]')
    with pytest.raises(ValueError, match=r"expected a list of class_idx 0, 1, \.\.\. with parts"):
        _ = make(root).class_names
    with pytest.raises(ValueError, match="val_fraction must be in"):
        make(root, val_fraction=1)


@pytest.mark.data
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs ../shared/data/funnybirds-small")
def test_real_renderings():
    data = FunnyBirds(str(SAMPLE), interventions=True, image_size=[256, 256])
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [540, 60, 40]
    sample = data.dataset("test")[0]
    bare, whole = sample["interventions"][[0, 31]]
    assert torch.equal(F.to_dtype(whole, torch.float32, scale=True), sample["image"])
    changed = (bare != whole).any(0)
    assert (sample["parts"].flatten(0, 1).any(0) & changed).sum() > 0.98 * sample["parts"].sum()
    own = sample["target"].nonzero().item()
    assert (sample["shared"].sum(1) == 2).sum() >= 2
    assert sample["shared"][own].all()
