"""Monte-Carlo areas and their bounds."""

import math

import pytest
import torch

from explainers.metrics.monte_carlo import half_width, monte_carlo_auc
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve
from tests import planted


def test_all_points_give_the_mean_of_the_curve_and_any_draw_some_of_them():
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(3, (6, 6))
    maps, curve = images.mean(1), Curve("most", "fill", "kernel_blur", pixels=1)
    inputs = (explanandum, images, maps, targets)
    (whole,) = curves.run(*inputs, [curve])
    everything = monte_carlo_auc(*inputs, curve, draws=36)
    torch.testing.assert_close(everything, whole.probability[:, 1:].mean(dim=1))
    seen = []
    explanandum.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    generator = torch.Generator().manual_seed(0)
    picked = torch.randperm(36, generator=generator)[:5] + 1
    some = monte_carlo_auc(*inputs, curve, 5, torch.Generator().manual_seed(0))
    assert sum(seen) == 3 * 5
    torch.testing.assert_close(some, whole.probability[:, picked].mean(dim=1))
    with pytest.raises(ValueError, match="draws"):
        monte_carlo_auc(*inputs, curve, 37)


def test_removal_curves_draw_their_own_points():
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(2, (4, 4))
    inputs = (explanandum, images, images.mean(1), targets)
    (whole,) = curves.run(*inputs, [Curve(steps=5)])
    estimate = monte_carlo_auc(*inputs, Curve(steps=5), 5)
    torch.testing.assert_close(estimate, whole.probability[:, 1:].mean(dim=1))


def test_the_inequalities_are_inverted():
    n, d, q, r, s2 = 100, 50176, 0.05, 0.7, 0.02
    t = half_width(n, d, 1 - q, r)
    assert 2 * math.exp(-2 * n * t**2 / ((1 - (n - 1) / d) * r**2)) == pytest.approx(q)
    t = half_width(n, d, 1 - q, r, variance=s2)
    assert (1 - (n - 1) / (d - 1)) * s2 / (n * t**2) == pytest.approx(q)
    assert half_width(d, d, variance=s2) == 0
    assert half_width(1, 1, variance=s2) == pytest.approx(math.sqrt(s2 / 0.05))


def test_the_bounds_hold_for_draws_without_replacement():
    generator = torch.Generator().manual_seed(0)
    population = torch.rand(50, generator=generator).double() ** 3
    picks = torch.rand(4000, 50, generator=generator).argsort(dim=1)[:, :20]
    errors = (population[picks].mean(dim=1) - population.mean()).abs()
    spread = (population.max() - population.min()).item()
    variance = population.var(correction=0).item()
    standard = math.sqrt(variance / 20 * 30 / 49)  # exact, of a mean without replacement
    torch.testing.assert_close(errors.square().mean().sqrt().item(), standard, rtol=0.05, atol=0)
    for bound in (half_width(20, 50, 0.9, spread), half_width(20, 50, 0.9, variance=variance)):
        assert (errors > bound).double().mean() <= 0.1
    assert half_width(20, 50, 1 - 1e-9, variance=variance) > half_width(20, 50, 0.9, spread)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0}, "draws"),
        ({"draws": 11}, "draws"),
        ({"confidence": 1.0}, "confidence"),
        ({"value_range": -1.0}, "negative"),
        ({"variance": -1.0}, "negative"),
    ],
)
def test_impossible_numbers_say_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        half_width(**{"draws": 5, "population": 10} | arguments)
