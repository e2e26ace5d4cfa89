import math

import pytest
import torch

from explainers.functional.soft_masks import soft_masks, stratified_shares, tempered


def test_a_mask_is_half_at_the_score_of_its_share():
    scores = torch.tensor([[[0.0, 1.0], [3.0, 2.0]]])
    masks = soft_masks(scores, torch.tensor([0.25]), sharpness=2.0)
    expected = [[1 / (1 + math.exp(-2 * (s - 2))) for s in row] for row in ((0, 1), (3, 2))]
    torch.testing.assert_close(masks[0], torch.tensor(expected))


def test_shares_from_nothing_to_everything():
    scores = torch.arange(100.0).view(1, 10, 10).repeat(3, 1, 1)
    masks = soft_masks(scores, torch.tensor([0.0, 0.5, 1.0]), sharpness=50.0)
    kept = (masks > 0.25).sum(dim=(1, 2)).tolist()  # the one at the level has 1/2
    assert kept == [1, 51, 100]


def test_a_shift_of_all_scores_changes_nothing():
    scores = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    scores.requires_grad_()
    weights = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    (soft_masks(scores, torch.tensor([0.3, 0.7])) * weights).sum().backward()
    total = scores.grad.sum(dim=(1, 2))
    torch.testing.assert_close(total, torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_shares_lie_one_in_each_part():
    shares = stratified_shares(50, torch.Generator().manual_seed(0))
    assert sorted((shares * 50).int().tolist()) == list(range(50))
    assert (shares * 50).int().tolist() != list(range(50))


def test_a_temperature_widens_the_range_with_a_gradient():
    odds = torch.tensor([-6.0, 0.0, 6.0], requires_grad=True)
    probabilities = tempered(odds)
    assert probabilities.tolist() == pytest.approx([0.1192, 0.5, 0.8808], abs=1e-4)
    assert tempered(odds, 1.0).tolist() == odds.sigmoid().tolist()


def test_the_gradient_keeps_the_area_and_spreads_over_the_edge():
    """As if the level were moved so that the area of the mask stays, which differences show."""
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(2)).double().view(1, 5, 8)
    share, weights = torch.tensor([0.4]), torch.linspace(-1, 1, 40).view(1, 5, 8).double()
    level = scores.flatten().sort(descending=True).values[16]
    area = (8 * (scores - level)).sigmoid().sum()

    def masks_of_equal_area(changed):
        low, high = level - 3, level + 3
        for _ in range(60):
            middle = (low + high) / 2
            small = (8 * (changed - middle)).sigmoid().sum() < area
            low, high = (low, middle) if small else (middle, high)
        return (8 * (changed - middle)).sigmoid()

    leaf = scores.clone().requires_grad_()
    (soft_masks(leaf, share) * weights).sum().backward()
    for i in (0, 7, 19, 33):
        step = torch.zeros_like(scores)
        step.view(-1)[i] = 1e-5
        up, down = (masks_of_equal_area(scores + sign * step) for sign in (1, -1))
        slope = ((up - down) * weights).sum() / 2e-5
        torch.testing.assert_close(leaf.grad.flatten()[i], slope, rtol=1e-4, atol=1e-6)
