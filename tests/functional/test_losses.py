import math

import pytest
import torch

from explainers.functional import losses


def test_classification_is_the_mean_over_classes_for_one_and_for_two_labels():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    targets = torch.tensor([[True, False], [True, True]])
    expected = torch.tensor([math.log(2), (math.log(4 / 3) + math.log(2)) / 2])
    torch.testing.assert_close(losses.classification(logits, targets), expected)


def test_negative_entropy_is_lowest_for_uniform_and_zero_for_certain_predictions():
    values = losses.negative_entropy(torch.tensor([[0.0] * 4, [1000.0, 0, 0, 0]]))
    torch.testing.assert_close(values, torch.tensor([-math.log(4) / 4, 0.0]))


def test_negative_entropy_survives_half_precision():
    logits = torch.tensor([[30.0, -30.0]], dtype=torch.float16, requires_grad=True)
    losses.negative_entropy(logits).sum().backward()
    assert logits.grad.isfinite().all()


def literal_bounds(mask, lower, upper):
    """Eq. 5 as printed: sorted mask against the two step vectors."""
    q = mask.flatten().sort(descending=True).values
    index = torch.arange(len(q))
    q_min = (index < int(len(q) * lower)).double()
    q_max = (index < int(len(q) * upper)).double()
    return (q_min - q).clamp(min=0).mean() + (q - q_max).clamp(min=0).mean()


@pytest.mark.parametrize(
    ("lower", "upper"), [(0.05, 0.3), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.3, 0.3)]
)
def test_area_bounds_equal_equation_5(lower, upper):
    masks = torch.rand(3, 7, 9, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([literal_bounds(mask, lower, upper) for mask in masks])
    torch.testing.assert_close(losses.area_bounds(masks, lower, upper), expected)


def test_area_bounds_push_only_what_breaks_them():
    mask = torch.tensor([[[0.9, 0.5], [0.25, 0.125]]], requires_grad=True)
    losses.area_bounds(mask, 0.25, 0.5).sum().backward()
    torch.testing.assert_close(mask.grad, torch.tensor([[[-0.25, 0.0], [0.25, 0.25]]]))


def test_area_bounds_refuse_a_lower_bound_above_the_upper():
    with pytest.raises(ValueError, match=r"lower=0\.4, upper=0\.3"):
        losses.area_bounds(torch.ones(1, 2, 2), 0.4, 0.3)


def test_total_variation_by_hand():
    mask = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    # right: 1 and 0; below: 0.5 and 0.5; over 4 pixels
    torch.testing.assert_close(losses.total_variation(mask), torch.tensor([0.5]))
    torch.testing.assert_close(losses.total_variation(mask, "reflect"), torch.tensor([1.0]))
    torch.testing.assert_close(
        losses.total_variation(mask, power=2), torch.tensor([(1 + 0.25 + 0.25) / 4])
    )


def test_mean_per_image_knows_which_value_belongs_to_which_image():
    targets = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    values = torch.tensor([1.0, 3.0, 5.0])
    torch.testing.assert_close(
        losses.mean_per_image(values, targets, "sum"), torch.tensor([4.0, 0.0, 5.0])
    )
    torch.testing.assert_close(
        losses.mean_per_image(values, targets, "mean"), torch.tensor([2.0, 0.0, 5.0])
    )
