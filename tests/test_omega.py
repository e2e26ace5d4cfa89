import math

import pytest
import torch

from explainers.omega import draw_k, gumbel, omega


def algorithm_1(scores, k, noise, first):
    """The paper's listing for one image and one k, with its sort, scatter and logsumexp."""
    flat = (scores - scores.logsumexp(dim=(0, 1))).flatten() + noise.flatten()
    ordered, index = flat.sort(descending=True)
    soft = torch.sigmoid(ordered - ordered[k - first])
    hard = (torch.arange(len(flat)) < k).to(soft)
    through = (hard - soft).detach() + soft
    return torch.zeros_like(flat).scatter(0, index, through).view_as(scores)


@pytest.mark.parametrize(("threshold", "first"), [("kth", 1), ("next", 0)])
@pytest.mark.parametrize("shared", [False, True])
def test_masks_and_gradients_are_those_of_algorithm_1(threshold, first, shared):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 9, 7, generator=generator, dtype=torch.float64).requires_grad_()
    noise = gumbel((3, 1 if shared else 4, 9, 7), generator).double()
    upstream = torch.randn(3, 4, 9, 7, generator=generator, dtype=torch.float64)
    k = draw_k(3, 4, 62, "stratified", generator)

    found = omega(scores, k, noise, threshold)
    (gradient,) = torch.autograd.grad((found * upstream).sum(), scores)
    rows = [
        [
            algorithm_1(scores[b], int(k[b, s]), noise[b, 0 if shared else s], first)
            for s in range(4)
        ]
        for b in range(3)
    ]
    expected = torch.stack([torch.stack(row) for row in rows])
    (wanted,) = torch.autograd.grad((expected * upstream).sum(), scores)

    assert found.detach().unique().tolist() == [0, 1]
    assert torch.equal(found.detach().round(), expected.detach().round())
    assert found.sum(dim=(2, 3)).tolist() == k.tolist()
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5)
    assert float(wanted.abs().max()) > 0.1


def test_k_follows_the_convention_of_the_threshold():
    scores = torch.arange(4.0).view(1, 2, 2)
    assert omega(scores, torch.tensor([[4]])).sum() == 4
    assert omega(scores, torch.tensor([[0]]), threshold="next").sum() == 0
    for k, threshold in ((0, "kth"), (5, "kth"), (4, "next")):
        with pytest.raises(ValueError, match="expected k in"):
            omega(scores, torch.tensor([[k]]), threshold=threshold)
    with pytest.raises(ValueError, match="int64"):
        omega(scores, torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match="expected noise"):
        omega(scores, torch.tensor([[1]]), torch.zeros(1, 2, 2, 2))


def test_half_precision_scores_are_ranked_in_float32():
    scores = torch.zeros(1, 2, 2, dtype=torch.float16)
    noise = torch.tensor([[[[3.0, 3.0001], [3.0002, 3.0003]]]])  # all the same in half precision
    assert omega(scores, torch.tensor([[2]]), noise).flatten().tolist() == [0, 0, 1, 1]


def test_gumbel_noise_is_finite_and_has_its_mean_and_variance(monkeypatch):
    noise = gumbel((200_000,), torch.Generator().manual_seed(0))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: torch.tensor([0.0, 1.0]))
    assert gumbel((2,)).isfinite().all()


def test_stratified_k_come_one_from_each_part():
    generator = torch.Generator().manual_seed(0)
    k = draw_k(500, 6, 60, "stratified", generator)
    for part in range(6):
        assert set(k[:, part].tolist()) == set(range(10 * part + 1, 10 * part + 11))
    k = draw_k(500, 6, 60, "uniform", generator)
    assert int(k.min()) == 1
    assert int(k.max()) == 60
    with pytest.raises(ValueError, match="fewer samples"):
        draw_k(1, 6, 5, "stratified", generator)
