import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    binary_average_precision,
    multiclass_jaccard_index,
)

from explainers.metrics.segmentation import SegmentationScores, average_precision, counts


def scenes(count=6, size=(12, 10)):
    generator = torch.Generator().manual_seed(0)
    maps = (8 * torch.rand(count, *size, generator=generator)).round() / 8  # with ties
    return maps, torch.rand(count, *size, generator=generator) + maps > 1.2


def figures(maps, mask, **more):
    metric = SegmentationScores()
    metric.update(torch.arange(len(maps)), maps=maps, mask=mask, **more)
    return {name: value.item() for name, value in metric.compute().items()}


def test_counts_by_hand():
    maps = torch.tensor([[[4.0, 0.0], [2.0, 2.0]]])  # mean 2, which is not exceeded
    mask = torch.tensor([[[True, True], [False, False]]])
    assert counts(maps, mask).tolist() == [[1, 0, 1, 2]]
    void = torch.tensor([[[True, False], [False, False]]])  # then the mean is 4 / 3
    assert counts(maps, mask, void).tolist() == [[0, 2, 1, 0]]


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_average_precision_agrees_with_torchmetrics(digits):
    generator = np.random.default_rng(0)
    scores, labels = generator.random(200).round(digits), generator.random(200) > 0.7
    expected = binary_average_precision(torch.tensor(scores), torch.tensor(labels).long())
    assert average_precision(scores, labels) == pytest.approx(expected.item(), abs=1e-6)
    assert np.isnan(average_precision(scores, labels & False))


def test_average_precision_agrees_with_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics").average_precision_score
    maps, mask = scenes()
    expected = []
    for m, g in zip(maps.double().numpy(), mask.numpy(), strict=True):
        m = (m - m.min()) / (m.max() - m.min())
        expected.append(reference(np.stack([~g, g]).ravel(), np.stack([1 - m, m]).ravel()))
    assert figures(maps, mask)["MeanAP"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_totals_agree_with_torchmetrics():
    maps, mask = scenes()
    found = maps > maps.mean((1, 2), keepdim=True)
    expected = multiclass_jaccard_index(found.long(), mask.long(), num_classes=2, average="macro")
    result = figures(maps, mask)
    assert result["MeanIoU"] == pytest.approx(expected.item(), abs=1e-6)
    assert result["PixelAccuracy"] == pytest.approx((found == mask).double().mean().item())


def test_totals_weigh_large_objects_more_than_a_mean_over_images_would():
    maps = torch.zeros(2, 4, 4)
    maps[:, 0] = 1
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 0], mask[1, 1:] = True, True  # perfect; all wrong
    result = figures(maps, mask)
    assert result["PixelAccuracy"] == 0.5
    assert result["MeanIoU"] == pytest.approx((4 / (4 + 4 + 12) + 12 / (12 + 4 + 12)) / 2)


def test_scale_does_not_matter_and_perfect_is_one():
    maps, mask = scenes()
    assert figures(maps / 2 + 0.25, mask) == pytest.approx(figures(maps, mask))
    assert set(figures(mask.float(), mask).values()) == {1.0}


def test_empty_masks_are_missing_and_void_pixels_count_nowhere():
    maps, mask = scenes()
    void = torch.zeros_like(mask)
    void[:, :3] = True
    wrong = mask ^ void
    a, b = figures(maps, mask & ~void, void=void), figures(maps, wrong & ~void, void=void)
    assert a == b
    mask[1:] = False
    assert figures(maps, mask) == figures(maps[:1], mask[:1])
    assert np.isnan(list(figures(maps, mask & False).values())).all()
