import pytest
import torch

from explainers.metrics.localization import MAE, SoftAccuracy, SoftIoU, mae, soft_accuracy, soft_iou

# m = .5 1 / 0 .25, g = 1 1 / 0 0
MAPS = torch.tensor([[[0.5, 1.0], [0.0, 0.25]]])
MASK = torch.tensor([[[True, True], [False, False]]])
VOID = torch.tensor([[[True, False], [False, False]]])


def test_by_hand():
    assert soft_accuracy(MAPS, MASK).tolist() == [(0.5 + 1 + 1 + 0.75) / 4]
    assert soft_iou(MAPS, MASK).tolist() == [1.5 / 2.25]
    assert mae(MAPS, MASK).tolist() == [0.75 / 4]


def test_void_pixels_count_nowhere():
    assert soft_accuracy(MAPS, MASK, VOID).tolist() == [2.75 / 3]
    assert soft_iou(MAPS, MASK, VOID).tolist() == [1 / 1.25]
    assert mae(MAPS, MASK, VOID).tolist() == [0.25 / 3]


def test_accuracy_is_one_less_the_error_for_binary_masks_only():
    maps = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    mask = maps.roll(1, 0) > 0.5
    torch.testing.assert_close(soft_accuracy(maps, mask), 1 - mae(maps, mask))
    soft = maps.roll(1, 0)
    assert ((soft_accuracy(maps, soft) - 1 + mae(maps, soft)).abs() > 0.01).all()


@pytest.mark.parametrize("function", [soft_accuracy, soft_iou, mae])
def test_an_image_without_object_is_missing(function):
    masks = torch.stack([MASK[0], torch.zeros(2, 2, dtype=torch.bool)])
    assert function(MAPS.expand(2, -1, -1), masks).isnan().tolist() == [False, True]
    assert function(MAPS, MASK, MASK).isnan().all()  # the object is all void


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2, 2\) and \(1, 4, 2, 2\)"):
        mae(MAPS, torch.ones(1, 4, 2, 2))


@pytest.mark.parametrize(
    ("metric", "value"), [(SoftAccuracy, 0.8125), (SoftIoU, 2 / 3), (MAE, 0.1875)]
)
def test_classes_report_the_functions(metric, value):
    metric = metric()
    metric.update(torch.tensor([3]), maps=MAPS, mask=MASK, images="not needed")
    name = type(metric).__name__
    assert metric.compute() == {name: pytest.approx(value)}
    assert metric.direction(name) == (name != "MAE")
    assert metric.wants_unit_maps
