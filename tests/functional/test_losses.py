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


def test_variation_by_hand():
    masks = torch.tensor([[[0.0, 1.0, 3.0], [2.0, 1.0, 0.0]], [[1.0, 1.0, 1.0]] * 2])
    # Down 2, 0, 3; across 1, 2 and 1, 1.
    assert losses.variation(masks, 1).tolist() == [10.0, 0.0]
    assert losses.variation(masks, 2).tolist() == [13.0 + 7.0, 0.0]
    assert losses.variation(masks, 3).tolist() == [35.0 + 11.0, 0.0]
    assert losses.variation(torch.stack([masks, 2 * masks], dim=1), 2).tolist() == [100.0, 0.0]


@pytest.mark.parametrize("multi_label", [False, True])
def test_log_odds_are_those_of_the_probability(multi_label):
    logits = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    p = (logits.sigmoid() if multi_label else logits.softmax(dim=1))[torch.arange(6), classes]
    torch.testing.assert_close(losses.log_odds(logits, classes, multi_label), (p / (1 - p)).log())


@pytest.mark.parametrize("multi_label", [False, True])
def test_log_odds_are_exact_where_probabilities_round(multi_label):
    logits = torch.tensor([[500.0, -500.0], [-500.0, 500.0], [90.0, 0.0]], requires_grad=True)
    found = losses.log_odds(logits, torch.tensor([0, 0, 0]), multi_label)
    expected = [500.0, -500.0, 90.0] if multi_label else [1000.0, -1000.0, 90.0]
    assert found.tolist() == expected
    (slopes,) = torch.autograd.grad(found.sum(), logits)
    assert slopes.tolist() == [[1.0, 0.0 if multi_label else -1.0]] * 3


def test_log_odds_of_equal_logits_are_those_of_chance():
    found = losses.log_odds(torch.zeros(1, 10), torch.tensor([3]), multi_label=False)
    assert found.item() == pytest.approx(-math.log(9))


def test_only_half_precision_is_widened():
    for dtype, wide in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert losses.widen(torch.ones(1, dtype=dtype)).dtype == wide


def test_area_gap_is_that_of_the_sorted_mask_with_its_gradient():
    masks = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ones = torch.tensor([1, 7, 17])  # of 20, rounded
    steps = (torch.arange(20) >= 20 - ones[:, None]).float()
    expected = (masks.flatten(2).sort(dim=2).values - steps).square().mean(dim=2)
    found = losses.area_gap(masks, [0.05, 0.33, 0.85])
    torch.testing.assert_close(found, expected)
    found_sorted = losses.area_gap(masks, [0.05, 0.33, 0.85], ties="sorted")
    torch.testing.assert_close(found_sorted, expected)
    pulls = [torch.autograd.grad(gap.sum(), masks)[0] for gap in (found, found_sorted, expected)]
    torch.testing.assert_close(pulls[0], pulls[2])
    torch.testing.assert_close(pulls[1], pulls[2])


def test_area_gap_favours_none_of_equal_pixels():
    half = 0.5 + 1e-6  # equal but for rounding
    masks = torch.tensor([[0.9, 0.5, half], [0.5, half, 0.2]]).view(1, 1, 2, 3).requires_grad_()
    found = losses.area_gap(masks, [0.5])  # three ones: 0.9 and two of the four halves
    torch.testing.assert_close(found.item(), (0.1**2 + 4 * 0.5**2 + 0.2**2) / 6, rtol=0, atol=1e-5)
    found.sum().backward()
    expected = torch.tensor([[-0.2, 0.0, 0.0], [0.0, 0.0, 0.4]]) / 6
    torch.testing.assert_close(masks.grad[0, 0], expected)
