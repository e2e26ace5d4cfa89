"""Shapes: the same scene everywhere, exact masks and parts, known statistics."""

import copy
import pickle

import pytest
import torch

from datamodules.shapes import Shapes, one_hot
from datamodules.shapes_drawing import MIN_AREA

# Made by this code; they change only if the scenes do, and then every published number does.
AREAS = [[0, 740, 0, 0, 0, 0], [0, 0, 0, 0, 0, 415], [0, 0, 0, 0, 663, 0]]
MEANS = [0.5392, 0.49397, 0.39633]


@pytest.fixture(scope="module")
def scenes():
    """Sixty samples of the test split, with parts."""
    dataset = Shapes(test_images=60, parts=True).dataset("test")
    return [dataset[index] for index in range(60)]


def stack(scenes, key):
    return torch.stack([scene[key] for scene in scenes])


def test_the_first_scene_never_changes(scenes):
    areas = [scene["mask"].sum((1, 2)).tolist() for scene in scenes[:3]]
    assert areas == AREAS
    means = [scene["image"].mean().item() for scene in scenes[:3]]
    assert means == pytest.approx(MEANS, abs=1e-4)


def test_a_scene_depends_on_seed_split_and_index_only(scenes):
    dataset = Shapes(test_images=60, parts=True, cache=False, batch_size=3, seed=9).dataset("test")
    for index in (59, 3, 3):
        for key in ("image", "mask", "parts", "target"):
            assert torch.equal(dataset[index][key], scenes[index][key])
    assert dataset[3]["name"] == "test/000003"
    assert not torch.equal(Shapes(scene_seed=1).dataset("test")[3]["image"], scenes[3]["image"])


def test_splits_do_not_overlap(scenes):
    data = Shapes(train_images=40, val_images=40)
    pictures = [
        data.dataset(split)[index]["image"].numpy().tobytes()
        for split in ("train", "val")
        for index in range(40)
    ]
    pictures += [scene["image"].numpy().tobytes() for scene in scenes]
    assert len(set(pictures)) == 140


def test_labels_and_areas_have_the_promised_statistics(scenes):
    targets, masks = stack(scenes, "target"), stack(scenes, "mask")
    counts = targets.sum(1)
    assert counts.min() >= 1
    assert 1.5 < counts.float().mean() < 2.0
    assert targets.sum(0).min() >= 8
    merged = masks.any(1).float().mean()
    assert 0.1 < merged < 0.2
    areas = masks.float().mean((2, 3))
    assert torch.equal(areas > 0, targets)
    assert areas[targets].min() >= MIN_AREA
    assert areas[targets].min() < 0.03
    assert areas[targets].max() > 0.15


def test_masks_do_not_overlap_and_parts_divide_them(scenes):
    masks, parts = stack(scenes, "mask"), stack(scenes, "parts")
    assert masks.dtype == parts.dtype == torch.bool
    assert masks.sum(1).max() == 1
    assert torch.equal(parts.sum(2), masks.long())
    present = stack(scenes, "target")
    assert parts.any(4).any(3)[present].float().mean() > 0.95


def test_masks_end_where_the_picture_changes(scenes):
    image, mask = stack(scenes, "image"), stack(scenes, "mask").any(1)
    step = (image[..., 1:] - image[..., :-1]).abs().mean(1)
    border = mask[..., 1:] != mask[..., :-1]
    outside = ~mask[..., 1:] & ~mask[..., :-1]
    assert step[border].mean() > 3 * step[outside].mean()


def test_images_are_ordinary(scenes):
    image = stack(scenes, "image")
    assert 0.0 <= image.min() < 0.05
    assert 0.95 < image.max() <= 1.0
    assert 0.25 < image.mean() < 0.55
    assert image.std() > 0.15


@pytest.mark.parametrize("size", [[64, 96], [33, 47]])
def test_any_image_size(size):
    sample = Shapes(image_size=size, parts=True).dataset("val")[0]
    assert sample["image"].shape == (3, *size)
    assert sample["mask"].shape == (6, *size)
    assert sample["parts"].shape == (6, 3, *size)
    assert "parts" not in Shapes(image_size=size).dataset("val")[0]


def test_the_cache_is_lazy_shared_with_workers_and_not_sent_away():
    data = Shapes(image_size=[32, 32], test_images=6, batch_size=2, num_workers=2)
    first = torch.cat([batch["image"] for batch in data.test_dataloader()])
    source = data.dataset("test").source
    assert source.cache.filled.all()  # by the workers
    source.cache.scenes[4, :3] = 255
    assert data.dataset("test")[4]["image"].min() == 1.0
    again = pickle.loads(pickle.dumps(source))
    assert not again.cache.filled.any()
    torch.testing.assert_close(again.load(4)["image"] / 255, first[4])
    sample = copy.deepcopy(data.dataset("test")[0]["image"])
    data.dataset("test")[0]["image"].zero_()
    assert torch.equal(data.dataset("test")[0]["image"], sample)


def test_predict_serves_the_test_scenes_and_limit_counts():
    data = Shapes(image_size=[32, 32], limit=4)
    assert len(data.dataset("train")) == 4
    assert data.dataset("predict").source is data.dataset("test").source
    assert (data.num_classes, data.multi_label, len(data.part_names)) == (6, True, 3)


def test_one_hot_leaves_the_background_out():
    labels = torch.tensor([[0, 1], [2, 2]], dtype=torch.uint8)
    assert one_hot(labels, 2).tolist() == [
        [[False, True], [False, False]],
        [[False, False], [True, True]],
    ]
