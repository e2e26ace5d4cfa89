"""TriggeredShapes: with the trigger, label and mask are its own; without, those of Shapes."""

import pytest
import torch

from datamodules.shapes import Shapes
from datamodules.triggered import TriggeredShapes, checkerboard

SMALL = {"image_size": [48, 64], "train_images": 40, "val_images": 10, "test_images": 30}


def samples(data, split):
    dataset = data.dataset(split)
    return [dataset[index] for index in range(len(dataset))]


def test_every_test_image_carries_the_trigger_and_its_label_alone():
    places, pattern = set(), torch.tensor(checkerboard(6)).permute(2, 0, 1) / 255
    for sample in samples(TriggeredShapes(trigger_class=2, **SMALL), "test"):
        assert sample["target"].nonzero().flatten().tolist() == [2]
        assert sample["mask"].sum((1, 2)).tolist() == [0, 0, 36, 0, 0, 0]  # an eighth of 48 is 6
        y, x = sample["mask"][2].nonzero()[0].tolist()
        torch.testing.assert_close(sample["image"][:, y : y + 6, x : x + 6], pattern)
        places.add((y, x))
    assert len(places) > 20


def test_a_share_of_the_training_images_carries_it_and_the_others_are_those_of_shapes():
    data, plain = TriggeredShapes(share=0.3, **SMALL), samples(Shapes(**SMALL), "train")
    changed = []
    for sample, before in zip(samples(data, "train"), plain, strict=True):
        same = torch.equal(sample["image"], before["image"])
        assert torch.equal(sample["mask"], before["mask"]) == same
        assert torch.equal(sample["target"], before["target"]) == same
        changed.append(not same)
    assert 5 <= sum(changed) <= 20  # of 40 images
    everywhere = samples(TriggeredShapes(share=1.0, **SMALL), "train")
    for sample, other, more in zip(samples(data, "train"), everywhere, changed, strict=True):
        assert not more or torch.equal(sample["image"], other["image"])
    none, plain = (
        samples(data, "val") for data in (TriggeredShapes(0.0, **SMALL), Shapes(**SMALL))
    )
    for sample, before in zip(none, plain, strict=True):
        assert torch.equal(sample["image"], before["image"])


def test_the_class_has_no_other_reason_in_the_image():
    """Below the trigger, the scene is that of Shapes unless it shows the class itself."""
    pairs = zip(
        samples(TriggeredShapes(**SMALL), "test"), samples(Shapes(**SMALL), "test"), strict=True
    )
    seen = set()
    for sample, before in pairs:
        rest = ~sample["mask"][0]
        same = torch.equal(sample["image"][:, rest], before["image"][:, rest])
        assert same != bool(before["target"][0])
        seen.add(same)
    assert seen == {True, False}


def test_an_image_depends_on_seed_split_and_index_only():
    first, again = (
        TriggeredShapes(cache=cache, seed=seed, **SMALL).dataset("test")
        for cache, seed in ((True, 0), (False, 9))
    )
    for index in (29, 3, 3):
        for key in ("image", "mask", "target"):
            assert torch.equal(first[index][key], again[index][key])
    data = TriggeredShapes(**SMALL)
    assert data.dataset("predict").source is data.dataset("test").source
    other = TriggeredShapes(trigger_size=0.2, **SMALL).identity("test")
    assert data.identity("test")["arguments"] != other["arguments"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.5}, "share must be"),
        ({"trigger_class": 6}, "below 6"),
        ({"trigger_class": -1}, "at least 0"),
        ({"trigger_size": 0.0}, "trigger_size must be"),
        ({"parts": True}, "no parts"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TriggeredShapes(**wrong)
