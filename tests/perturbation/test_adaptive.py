"""When a budget ends: the standard error of a ranking, and who gets which samples."""

import math

import pytest
import torch

from explainers.perturbation.adaptive import Budget, check_tolerance, checkpoints, standard_error

pytestmark = pytest.mark.filterwarnings("ignore:images take all")


def noisy_halves(noise, size=(100, 100)):
    generator = torch.Generator().manual_seed(0)
    truth, *errors = torch.randn(3, *size, generator=generator)
    return truth, torch.stack([truth + noise * e for e in errors])


@pytest.mark.parametrize("noise", [0.2, 1.0, 2.0])
def test_the_standard_error_is_that_of_the_whole_map_against_the_truth(noise):
    truth, halves = noisy_halves(noise)
    error = standard_error(halves[:, None, None]).item()
    # Signal 1 and noise^2 / 2 in the mean of both halves: its squared correlation with the truth.
    assert error == pytest.approx(math.sqrt(1 - 1 / (1 + noise**2 / 2)), abs=0.03)
    r = torch.corrcoef(torch.stack([truth.flatten(), halves.mean(dim=0).flatten()]))[0, 1]
    assert error == pytest.approx(math.sqrt(1 - float(r) ** 2), abs=0.03)


def test_the_standard_error_by_hand():
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    b = torch.tensor([[1.0, 2.0], [4.0, 3.0]])  # r = 1 - 6 * 2 / (4 * 15) = 0.8
    tied = torch.tensor([[5.0, 5.0], [7.0, 7.0]])
    pairs = [(a, a.exp()), (a, b), (tied, tied + 1), (a, -a), (a, 0 * a), (a, a / 0)]
    halves = torch.stack([torch.stack(each) for each in zip(*pairs, strict=True)])
    expected = [0.0, math.sqrt(0.2 / 1.8), 0.0, math.inf, math.inf, math.inf]
    assert standard_error(halves[:, :, None]).tolist() == pytest.approx(expected)
    classes = halves[:, None, :2]  # of two classes, the least certain one
    assert standard_error(classes).tolist() == pytest.approx([expected[1]])


def test_checkpoints_double_up_to_the_whole_budget():
    assert checkpoints(4000) == [128, 256, 512, 1024, 2048, 4000]
    assert checkpoints(256) == [128, 256]
    assert checkpoints(5, first=8) == [5]


def test_a_budget_that_ends_before_it_is_judged_is_refused():
    check_tolerance(0.3, 129)
    check_tolerance(None, 1)
    with pytest.raises(ValueError, match="first judged after 8 samples, and the budget is 8: take"):
        check_tolerance(0.3, 8, first=8)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1, math.nan, "0.3"])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"tolerance must be in \(0, 1\), such as 0.2, or null"):
        check_tolerance(tolerance, 1000)


@pytest.mark.parametrize("size", [1, 3, 5, 20])
def test_halves_are_the_even_and_the_odd_samples_whatever_the_batches(size):
    budget, seen = Budget(20, 0.5, images=2, first=4), {0: [], 1: []}
    certain = noisy_halves(0.0, (4, 4))[1][:, None, None]
    due = []
    for part in budget.samples(torch.arange(20).split(size)):
        for half, place in enumerate(budget.slices()):
            seen[half] += part[place].tolist()
        if budget.is_due:
            due.append(int(part[-1]) + 1)
            budget.settle(torch.cat([certain, torch.zeros_like(certain)], 1)[:, budget.rows])
    assert due == [4, 8, 16]  # at the end nothing is left to decide
    assert seen == {0: list(range(0, 20, 2)), 1: list(range(1, 20, 2))}
    assert budget.rows == [1]
    assert budget.counts(torch.zeros(2, 1, 3)).tolist() == [[[4]], [[20]]]


def test_no_more_samples_are_drawn_when_all_images_are_certain():
    budget, certain = Budget(64, 0.5, images=1, first=4), noisy_halves(0.0, (4, 4))[1]
    drawn = []

    def batches():
        for number in range(32):
            drawn.append(number)
            yield torch.zeros(2)

    for _ in budget.samples(batches()):
        if budget.is_due:
            budget.settle(certain[:, None, None])
    assert len(drawn) <= 3
    assert budget.counts(torch.zeros(1, 1)).tolist() == [[4]]


def test_a_fixed_budget_is_one_sum_of_all_samples():
    budget = Budget(10, None, images=3, first=2)
    sizes = []
    for part in budget.samples(torch.arange(10).split(4)):
        sizes.append(len(part))
        assert budget.slices() == [slice(0, None, 1)]
        assert not budget.is_due
    assert sizes == [4, 4, 2]
    assert budget.counts(torch.zeros(3, 1)) == 10
