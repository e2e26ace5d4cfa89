from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam

from explainers.optimization import pairs


def never():
    """A progress bar that nobody watches."""


# solve_pairs


def tens_and_class(images, classes, tick):
    """Four values a pair: the image's mark, its class, and two that say which is which."""
    marks = images[:, 0, 0, 0]
    tick()
    return torch.stack([10 * marks + classes, marks], dim=1)


def marked(count):
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


@pytest.mark.parametrize("at_once", [1, 2, 4, 6, 100])
def test_pairs_come_back_by_image_and_class_however_they_are_split(at_once):
    classes = torch.tensor([[7, 8], [5, 6], [1, 1]])
    found = pairs.solve_pairs(tens_and_class, marked(3), classes, 1, at_once, "test")
    expected = [[[7.0, 0], [8, 0]], [[15, 1], [16, 1]], [[21, 2], [21, 2]]]
    assert found.tolist() == expected


def test_no_more_pairs_than_asked_are_solved_together():
    sizes = []

    def solve(images, classes, tick):
        sizes.append((len(images), len(classes)))
        return classes.float()

    pairs.solve_pairs(solve, marked(3), torch.zeros(3, 2, dtype=torch.long), 1, 4, "test")
    assert sizes == [(4, 4), (2, 2)]


def test_results_have_no_graph():
    def solve(images, classes, tick):
        return images[:, 0, 0, 0].clone().requires_grad_().square()

    found = pairs.solve_pairs(solve, marked(3), torch.zeros(3, 1).long(), 1, 2, "t")
    assert found.tolist() == [[0.0], [1.0], [4.0]]
    assert not found.requires_grad


# minimize


def parabolas(parameters, step):
    """Rows with minima at 1, 2, ...; the gradient is 2 (x - row - 1)."""
    goals = torch.arange(1.0, len(parameters) + 1)[:, None]
    return (parameters - goals).square().sum(dim=1)


def test_steps_of_gradient_descent_by_hand():
    start = torch.tensor([[0.0, 3.0], [0.0, 2.0]])
    found = pairs.minimize(parabolas, start, 2, partial(SGD, lr=0.25), never)
    # Each step halves the way to the minimum.
    assert found.tolist() == [[0.75, 1.5], [1.5, 2.0]]
    assert start.tolist() == [[0.0, 3.0], [0.0, 2.0]]
    assert not found.requires_grad


def test_parameters_keep_to_their_limits_after_every_step():
    start = torch.tensor([[0.0], [0.0]])
    sgd = partial(SGD, lr=0.25)
    assert pairs.minimize(parabolas, start, 9, sgd, never, (-1.0, 0.5)).tolist() == [[0.5]] * 2
    # The gradient at 0.5 is -1, at 0 it is 3: x = 0, 0.75 -> 0.5, 0.25 only if it was clamped.
    slopes = iter([-3.0, 1.0])

    def tilted(parameters, step):
        return next(slopes) * parameters.sum(dim=1)

    assert pairs.minimize(tilted, start[:1], 2, sgd, never, (0.0, 0.5)).tolist() == [[0.25]]


def test_the_objective_gets_the_number_of_the_step_and_the_bar_every_step():
    seen, ticks = [], []

    def objective(parameters, step):
        seen.append(step)
        return parameters.sum(dim=1)

    def tick():
        ticks.append(len(seen))

    pairs.minimize(objective, torch.zeros(1, 1), 3, partial(SGD, lr=1.0), tick)
    assert seen == [0, 1, 2]
    assert ticks == [1, 2, 3]


def test_rows_are_optimised_independently():
    def wavy(parameters, step):
        return (parameters.sin() * torch.tensor([1.0, 2.0, 3.0])).sum(dim=1)

    start = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    run = partial(pairs.minimize, wavy, steps=20, optimizer=partial(Adam, lr=0.1), tick=never)
    together = run(start=start)
    alone = torch.cat([run(start=row[None]) for row in start])
    torch.testing.assert_close(together, alone)
    assert (together - start).abs().min() > 0.1  # they did move


# until_done


def countdown(calls):
    def advance(state, rows, step):
        calls.append((state.tolist(), rows.tolist(), step))
        return state - 1, state - 1 <= 0

    return advance


def test_finished_rows_drop_out_and_all_finished_is_the_end():
    calls, ticks = [], []
    start = torch.tensor([2, 1, 3, 1])
    found = pairs.until_done(countdown(calls), start, 10, lambda: ticks.append(1))
    assert found.tolist() == [0, 0, 0, 0]
    assert calls == [
        ([2, 1, 3, 1], [0, 1, 2, 3], 0),
        ([1, 2], [0, 2], 1),
        ([1], [2], 2),
    ]
    assert len(ticks) == 3
    assert start.tolist() == [2, 1, 3, 1]


def test_no_row_steps_more_often_than_allowed():
    calls = []
    found = pairs.until_done(countdown(calls), torch.tensor([5, 1]), 2, never)
    assert found.tolist() == [3, 0]
    assert len(calls) == 2


# gradient


def test_values_and_gradients_of_rows():
    at = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    values, slopes = pairs.gradient(lambda x: x[:, 0].square() * x[:, 1], at)
    assert values.tolist() == [2.0, -9.0]
    assert slopes.tolist() == [[4.0, 1.0], [-6.0, 9.0]]
    assert not values.requires_grad
    assert not at.requires_grad
