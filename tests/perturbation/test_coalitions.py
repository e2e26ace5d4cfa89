"""Subsets of players: which are drawn, and what their scores say of the players."""

import pytest
import torch

from explainers.perturbation.coalitions import coalitions, shapley


def generator():
    return torch.Generator().manual_seed(0)


def test_drawn_coalitions_follow_the_shapley_kernel():
    kept, weights, _ = coalitions(16, 20001, generator())
    assert kept[0].all()
    assert not kept[1].any()
    assert weights[:2].tolist() == [0, 0]
    assert weights.sum() == 19998  # pairs that do not fit leave one sample over
    assert torch.equal(kept[2::2], ~kept[3::2])
    assert torch.equal(weights[2::2], weights[3::2])
    assert len(kept.unique(dim=0)) == len(kept) < 19998
    sizes = kept.sum(dim=1)
    mass = torch.tensor([1 / (k * (16 - k)) for k in range(1, 16)], dtype=torch.float64)
    shares = sizes.bincount(weights, minlength=17)[1:16] / 19998
    torch.testing.assert_close(shares, mass / mass.sum(), rtol=0, atol=0.01)
    four = weights * (sizes == 4)  # any four alike
    drawn = four @ kept.double() / four.sum()
    torch.testing.assert_close(drawn, torch.full_like(drawn, 4 / 16), rtol=0, atol=0.05)


def test_all_coalitions_come_once_with_the_kernel_of_their_size():
    kept, weights, _ = coalitions(4, 16, generator())
    assert len(set(map(tuple, kept.tolist()))) == 16
    expected = [0, 3 / (4 * 1 * 3), 3 / (6 * 2 * 2), 3 / (4 * 3 * 1), 0]
    assert weights.tolist() == pytest.approx([expected[k] for k in kept.sum(dim=1).tolist()])


@pytest.mark.parametrize(("count", "samples"), [(1, 2), (2, 3), (5, 2), (5, 3), (40, 12)])
def test_too_few_coalitions_share_what_they_do_not_settle(count, samples):
    kept, weights, _ = coalitions(count, samples, generator())
    assert len(kept) == samples - samples % 2
    scores = kept.double().sum(dim=1, keepdim=True).square() * 0.01 + 0.1
    found = shapley(kept.double(), scores, weights)
    assert float(found.sum()) == pytest.approx(0.01 * count**2)
    if samples < 4:
        torch.testing.assert_close(found, torch.full_like(found, 0.01 * count))


def test_the_solution_is_the_closed_form_with_a_lagrange_multiplier():
    kept, weights, _ = coalitions(12, 200, generator())
    kept = kept.double()
    scores = torch.rand(len(kept), 2, generator=generator(), dtype=torch.float64)
    gram = kept.mT @ (weights[:, None] * kept)
    free = torch.linalg.solve(gram, kept.mT @ (weights[:, None] * (scores - scores[1])))
    ones = torch.linalg.solve(gram, torch.ones(12, 1, dtype=torch.float64))
    excess = free.sum(dim=0) - (scores[0] - scores[1])
    torch.testing.assert_close(
        shapley(kept, scores, weights), free - ones * excess / ones.sum(), rtol=0, atol=1e-10
    )
