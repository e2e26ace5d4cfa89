import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from explainers.optimization import completeness
from explainers.perturbation import patches

SIZE = (9, 7)


def problem(l1=1e-3, tv=(0.02, 0.03), size=SIZE, side=3, count=40, seed=0):
    """A gap and responses (2, count) of two maps, in float64."""
    generator = torch.Generator().manual_seed(seed)
    sums = patches.PatchSums(
        [patches.draw_patches(count, size, s, 0.5, generator) for s in (side, 2 * side)]
    )
    responses = torch.rand(2, 2 * count, generator=generator, dtype=torch.float64)
    return completeness.Gap(sums, l1, tv), responses


def noise(size=SIZE, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 0.01 * torch.randn(2, *size, generator=generator, dtype=torch.float64)


def pixels(gap):
    return torch.cat([g.pixels(0, len(g.kept)) for g in gap.sums.groups]).double()


def literal(gap, maps, responses):
    """The loss as the paper writes it, differentiable."""
    total = 0.0
    for mask, response in zip(pixels(gap), responses.unbind(1), strict=True):
        total = total + (response - (maps * mask).sum(dim=(1, 2))) ** 2 / mask.sum()
    down, across = maps[:, 1:] - maps[:, :-1], maps[:, :, 1:] - maps[:, :, :-1]
    return (
        total / (2 * responses.shape[1])
        + gap.l1 * maps.abs().sum(dim=(1, 2))
        + gap.tv[0] * (down**2).sum(dim=(1, 2))
        + gap.tv[1] * (across**2).sum(dim=(1, 2))
    )


def test_loss_by_hand():
    whole = patches.Patches((1, 2), 1, torch.tensor([[[True, True]], [[True, False]]]), zeros(2))
    gap = completeness.Gap(patches.PatchSums([whole]), 0.5, (7.0, 0.25))
    found = completeness.loss(gap, torch.tensor([[[1.0, -3.0]]]), torch.tensor([[0.0, 3.0]]))
    # Gaps 2 and 2; L1 of 4; one difference of 4.
    assert found.tolist() == pytest.approx([(4 / 2 + 4 / 1) / 4 + 0.5 * 4 + 0.25 * 16])


def zeros(count):
    return torch.zeros(count, 2, dtype=torch.int64)


def test_loss_and_gradient_are_those_of_the_formula():
    gap, responses = problem()
    maps = noise().requires_grad_()
    expected = literal(gap, maps, responses)
    torch.testing.assert_close(completeness.loss(gap, maps, responses), expected)
    (slopes,) = torch.autograd.grad(expected.sum(), maps)
    torch.testing.assert_close(completeness.gradient(gap, maps.detach(), responses), slopes)


def test_adam_is_torch_s_with_a_step_schedule():
    gap, responses = problem()
    start = noise()
    maps = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([maps], lr=0.01, eps=1e-6)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.5)
    for _ in range(50):
        optimizer.zero_grad()
        literal(gap, maps, responses).sum().backward()
        optimizer.step()
        schedule.step()
    before = start.clone()
    found = completeness.adam(gap, responses, start, 50, 0.01, decay=0.5, decay_every=20, eps=1e-6)
    torch.testing.assert_close(found, maps.detach())
    assert torch.equal(start, before)


def test_factors_solve_the_linear_system():
    gap, _ = problem()
    found = completeness.Factors(gap, rho=0.3).solve(noise())
    masked, n = pixels(gap).flatten(1), math.prod(SIZE)
    system = masked.mT @ (gap.weights[:, None] * masked) + 0.3 * torch.eye(n)
    steps = torch.eye(n).double().view(n, *SIZE)
    for dim, weight in zip((1, 2), gap.tv, strict=True):
        slopes = steps.diff(dim=dim).flatten(1)
        system += 2 * weight * slopes @ slopes.mT
    expected = torch.linalg.solve(system, noise().flatten(1).mT).mT.view(-1, *SIZE)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def minimum(gap, responses):
    """The best loss and map that a generic bounded solver finds, |a| split into two signs."""
    n = math.prod(SIZE)

    def split(x):
        return torch.from_numpy(x[:n] - x[n:]).view(1, *SIZE)

    def value(x):
        smooth = completeness.Gap(gap.sums, 0.0, gap.tv)
        maps = split(x).requires_grad_()
        loss = literal(smooth, maps, responses).sum()
        loss.backward()
        slopes = maps.grad.flatten().numpy()
        return float(loss.detach()) + gap.l1 * x.sum(), np.concatenate([slopes, -slopes]) + gap.l1

    options = {"maxiter": 20000, "maxfun": 50000, "ftol": 1e-15, "gtol": 1e-10}
    result = minimize(
        value,
        np.zeros(2 * n),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * 2 * n,
        options=options,
    )
    return result.fun, split(result.x)


@pytest.mark.parametrize("solver", ["adam", "admm"])
def test_toy_example_the_shared_stripe_carries_the_whole_response(solver):
    """The slides' owl: four masks that share the central stripe, each with a response of 0.8."""
    kept = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0]]).bool()[:, None]
    stripes = patches.Patches((6, 6), 2, kept.expand(-1, 3, -1), torch.zeros(4, 2).long())
    gap = completeness.Gap(patches.PatchSums([stripes]), 1e-6, (1e-6, 1e-6))
    start = torch.full((1, 6, 6), 0.8 / 36)
    responses = torch.full((1, 4), 0.8)
    if solver == "adam":
        found = completeness.adam(gap, responses, start, 2000, 1e-3, decay=0.9)
    else:
        found = completeness.admm(completeness.factors(gap), responses, start, 200)
    carried = found[0].view(6, 3, 2).sum(dim=(0, 2))
    torch.testing.assert_close(carried, torch.tensor([0.0, 0.8, 0.0]), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("l1", "tv"), [(1e-3, (0.02, 0.03)), (2e-2, (0.1, 0.0))])
def test_admm_finds_the_minimum_that_a_generic_solver_finds(l1, tv):
    gap, responses = problem(l1, tv)
    loss, best = minimum(gap, responses[:1])
    found = completeness.admm(completeness.Factors(gap), responses[:1], noise()[:1], 300)
    assert float(completeness.loss(gap, found, responses[:1])) == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(found, best, rtol=0, atol=0.01 * float(best.abs().max()))
    assert ((found == 0) == (best.abs() < 1e-5)).float().mean() > 0.9  # |a| makes exact zeros


def test_twenty_iterations_of_admm_beat_a_thousand_steps_of_adam():
    size = (48, 48)
    gap, responses = problem(0.01 / (3 * 48 * 48), (0.1, 0.1), size, side=7, count=150)
    start = noise(size)
    by_adam = completeness.adam(gap, responses, start, 1000, 0.1 / (3 * 48 * 48))
    by_admm = completeness.admm(completeness.Factors(gap), responses, start, 20)
    losses = [completeness.loss(gap, maps, responses) for maps in (by_admm, by_adam)]
    assert (losses[0] <= losses[1]).all()


def test_a_good_start_is_kept_and_helps():
    gap, responses = problem()
    factors = completeness.Factors(gap)
    best = completeness.admm(factors, responses, noise(), 300)
    low = completeness.loss(gap, best, responses)
    for solve in (
        lambda start: completeness.admm(factors, responses, start, 3),
        lambda start: completeness.adam(gap, responses, start, 3, 1e-5),
    ):
        warm, cold = (completeness.loss(gap, solve(s), responses) for s in (best, noise()))
        assert (warm < low * 1.001).all()
        assert (cold > low * 1.02).all()


def test_maps_do_not_depend_on_the_others():
    gap, responses = problem()
    factors = completeness.Factors(gap)
    for solve in (
        lambda r, start: completeness.admm(factors, r, start, 10),
        lambda r, start: completeness.adam(gap, r, start, 30, 1e-3),
    ):
        alone = solve(responses[1:], noise()[1:])
        torch.testing.assert_close(solve(responses, noise())[1:], alone, rtol=0, atol=2e-6)


def test_a_large_l1_gives_a_map_of_zeros():
    gap, responses = problem(l1=1.0)
    assert not completeness.admm(completeness.Factors(gap), responses, noise(), 100).any()


@pytest.mark.parametrize("name", ["adam", "admm"])
def test_every_step_is_observed(name):
    gap, responses = problem()
    seen = {}

    def observe(step, maps):
        seen[step] = maps.clone()

    def solve(steps, observe=None):
        if name == "adam":
            return completeness.adam(gap, responses, noise(), steps, 1e-3, observe=observe)
        return completeness.admm(completeness.factors(gap), responses, noise(), steps, observe)

    solve(6, observe)
    assert list(seen) == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(seen[4], solve(4), rtol=0, atol=0)


def test_factors_are_made_once_for_a_problem():
    gap, _ = problem()
    assert completeness.factors(gap) is completeness.factors(
        completeness.Gap(gap.sums, gap.l1, gap.tv)
    )
    assert completeness.factors(gap) is not completeness.factors(
        completeness.Gap(gap.sums, 0.5, gap.tv)
    )
