import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from explainers.metrics.localization_boxes import (
    CropSaliency,
    LocalizationError,
    crop_logits,
    held_out,
)
from tests import planted

QUADRANTS = planted.quadrant_masks(8, 8)


def crop(images, maps, targets, explanandum=None, **arguments):
    inputs = {"maps": maps, "images": images, "targets": targets}
    return CropSaliency(**arguments).measure(
        **inputs, explanandum=explanandum or planted.explanandum()
    )


def test_saliency_of_a_crop_by_hand():
    images, targets = planted.scenes(2, (8, 8))
    corners = [images[:1, :, :4, :4], images[1:, :, :4, 4:]]
    resized = torch.cat([F.interpolate(c, (8, 8), mode="bilinear") for c in corners])
    for multi_label, activation in ((False, lambda x: x.log_softmax(1)), (True, F.logsigmoid)):
        explanandum = planted.explanandum(multi_label=multi_label)
        seen = activation(explanandum(resized).double()).diagonal()
        values = crop(images, QUADRANTS[:2], targets, explanandum, alpha=0.5)["CropSaliency"]
        torch.testing.assert_close(values, math.log(0.25) - seen)


def test_small_crops_gain_nothing_below_the_floor():
    images, targets = torch.ones(1, 3, 8, 8), torch.tensor([[True, False, False, False]])
    spot = torch.zeros(1, 8, 8)
    spot[0, 2, 2] = 1
    assert crop(images, spot, targets, alpha=0.5)["CropSaliency"].item() == pytest.approx(
        math.log(0.05) - math.log(0.25)
    )
    whole = crop(images, spot * 0, targets, alpha=0.5)["CropSaliency"].item()
    assert whole == pytest.approx(-math.log(0.25))  # a map that says nothing crops nothing
    assert crop(images, spot, ~targets & False, alpha=0.5)["CropSaliency"].isnan().all()


def test_equal_boxes_are_shown_once():
    images, _ = planted.scenes(4, (8, 8))
    explanandum = planted.explanandum()
    shown = []
    explanandum.register_forward_hook(lambda module, inputs, output: shown.append(len(inputs[0])))
    boxes = torch.tensor([[0, 0, 8, 8], [0, 0, 4, 4], [0, 0, 4, 4]]).expand(4, -1, -1)
    logits = crop_logits(images, boxes, explanandum)
    assert sum(shown) == 8
    torch.testing.assert_close(logits[:, 0], explanandum(images))
    assert torch.equal(logits[:, 1], logits[:, 2])


def test_casm_boxes_the_largest_component_above_the_mean():
    images, targets = planted.scenes(1, (8, 8))
    maps = 0.5 * QUADRANTS[:1].clone()
    maps[0, 7, 7] = 1
    casm = {"relative_to": "mean", "alpha": 1.0, "largest_component": True}
    assert crop(images, maps, targets, **casm) == crop(images, QUADRANTS[:1], targets, alpha=0.5)


def test_half_of_the_images_is_held_out_by_content_alone():
    images, _ = planted.scenes(400, (8, 8))
    half = held_out(images)
    assert 160 < half.sum() < 240
    assert torch.equal(held_out(images[7:9]), half[7:9])
    assert torch.equal(held_out(images.double()), half)


def test_the_best_threshold_elsewhere_gives_the_figure():
    metric = CropSaliency(alphas=[0.1, 0.5, 0.9])
    assert metric.names[0] == "CropSaliency/0.10"
    assert metric.reports == ("CropSaliency",)
    columns = {
        "CropSaliency/0.10": np.array([3.0, 1.0, np.nan, 7.0, 9.0]),
        "CropSaliency/0.50": np.array([1.0, 2.0, np.nan, 4.0, 5.0]),  # best where held out
        "CropSaliency/0.90": np.array([5.0, 5.0, np.nan, 0.0, 0.0]),  # best on the others
        "CropSaliency/held_out": np.array([1.0, 1.0, np.nan, 0.0, 0.0]),
    }
    assert metric.aggregate(columns) == {"CropSaliency": 4.5}
    alone = {name: values[:2] for name, values in columns.items()}
    assert np.isnan(metric.aggregate(alone)["CropSaliency"])  # nothing left to score
    nobody = {name: values[2:3] for name, values in columns.items()}
    assert np.isnan(metric.aggregate(nobody)["CropSaliency"])
    assert not metric.direction("CropSaliency")


def test_any_batching_gives_the_same_figure():
    images, targets = planted.scenes(12, (8, 8))
    maps = (QUADRANTS[targets.int().argmax(1)] + 0.2 * images.mean(1)) / 1.2
    figures = []
    for size in (1, 5, 12):
        metric = CropSaliency()
        for rows in torch.arange(12).split(size):
            inputs = {"maps": maps[rows], "images": images[rows], "targets": targets[rows]}
            metric.update(
                rows, targets[rows].int().argmax(1), explanandum=planted.explanandum(), **inputs
            )
        figures.append(metric.compute()["CropSaliency"].item())
    assert figures == [pytest.approx(figures[0], abs=1e-5)] * 3
    assert abs(figures[0]) < 1e-3  # the whole image, in which each class is certain


def localize(maps, targets, images=None, **given):
    arguments = {k: given.pop(k) for k in ("alpha", "iou") if k in given}
    images = torch.zeros(len(maps), 3, *maps.shape[1:]) if images is None else images
    return LocalizationError(**arguments).measure(
        maps=maps, targets=targets, images=images, **given
    )


def test_hits_and_misses_by_hand():
    maps = torch.zeros(1, 8, 8)
    maps[0, :4, :3] = 1.0  # box of 12 pixels
    maps[0, 6, 6] = 0.3
    target = torch.tensor([[True, False]])
    boxes = torch.tensor([[[1.0, 0, 0, 8, 8], [0, 0, 0, 4, 4], [-1, -1, -1, -1, -1]]])
    assert localize(maps, target, boxes=boxes, alpha=0.5)["LocalizationError"] == 0  # 12 / 16
    assert localize(maps, target, boxes=boxes, alpha=0.5, iou=0.8)["LocalizationError"] == 1
    assert localize(maps, target, boxes=boxes, alpha=0.2)["LocalizationError"] == 1  # 16 / 49
    assert localize(maps, ~target, boxes=boxes, alpha=0.2)["LocalizationError"] == 0  # 49 / 64
    columns = localize(maps, target, boxes=boxes)
    assert len(columns) == 21
    missed = [columns[f"LocalizationError/{a / 20:.2f}"].item() for a in range(20)]
    assert missed == [1.0] * 7 + [0.0] * 13  # alpha 0 is the whole image; 0.3 is within until 0.30


def test_the_mask_stands_in_for_boxes_and_nothing_is_missing():
    target = torch.ones(2, 1, dtype=torch.bool)
    mask = torch.stack([QUADRANTS[0].bool(), torch.zeros(8, 8, dtype=torch.bool)])
    values = localize(QUADRANTS[:2], target, mask=mask, alpha=0.5)["LocalizationError"]
    assert values[0] == 0
    assert values[1].isnan()
    assert localize(QUADRANTS[:2], target, alpha=0.5)["LocalizationError"].isnan().all()
    none = torch.full((2, 3, 5), -1.0)
    columns = localize(QUADRANTS[:2], target, boxes=none, mask=mask)  # boxes, where there are any
    assert all(column.isnan().all() for column in columns.values())


@pytest.mark.parametrize("metric", [CropSaliency, LocalizationError])
def test_thresholds_are_checked(metric):
    with pytest.raises(ValueError, match="thresholds >= 0"):
        metric(alpha=-1.0)
    fixed = metric(alpha=0.5)
    assert fixed.names == fixed.reports == (metric.__name__,)
    assert fixed.aggregate({metric.__name__: np.array([1.0, np.nan, 4.0])})[metric.__name__] == 2.5


def test_choices_are_checked():
    with pytest.raises(ValueError, match="relative_to"):
        CropSaliency(relative_to="median")
    with pytest.raises(ValueError, match="iou"):
        LocalizationError(iou=0)
