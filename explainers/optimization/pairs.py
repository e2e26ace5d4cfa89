"""Optimization of masks for one image at a time: the loops that all such methods share.

A pair is an image and one class to explain. Several pairs are optimized side by side, but
independently: losses are summed over the pairs, never averaged.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

Tick = Callable[[], object]  # to be called after every step
Solve = Callable[[Tensor, Tensor, Tick], Tensor]


def solve_pairs(
    solve: Solve, images: Tensor, classes: Tensor, steps: int, pairs: int, title: str
) -> Tensor:
    """Results (B, k, ...) of every image with each of its classes, computed `pairs` at a time.

    Args:
        solve: Function of images (n, 3, H, W), classes (n,) and a function to call after every
            step. It returns results (n, ...).
        images: Images (B, 3, H, W) in [0, 1].
        classes: Classes to explain, (B, k) int64.
        steps: Maximum number of steps of `solve`, for the progress bar.
        pairs: Number of pairs that are optimized side by side. It limits the memory and does not
            change the results.
        title: Title of the progress bar.
    """
    owner = torch.arange(len(images), device=images.device).repeat_interleave(classes.shape[1])
    flat = (torch.split(x, pairs) for x in (owner, classes.flatten()))
    parts = list(zip(*flat, strict=True))
    # The bar appears only in terminals, and only if the work takes longer than a second.
    bar = tqdm(total=steps * len(parts), desc=title, leave=False, delay=1, disable=None)
    with bar:
        found = [solve(images[rows], wanted, bar.update) for rows, wanted in parts]
    results = torch.cat(found).detach()
    return results.view(*classes.shape, *results.shape[1:])


def minimize(
    objective: Callable[[Tensor, int], Tensor],
    start: Tensor,
    steps: int,
    optimizer: Callable[[list[Tensor]], Optimizer],
    tick: Tick,
    limits: tuple[float, float] | None = None,
) -> Tensor:
    """Parameters (n, ...) after `steps` steps of a torch optimizer from `start`.

    Args:
        objective: Function of parameters (n, ...) and the number of the step, from 0. It returns
            losses (n,), each of which depends on its own row only.
        start: Initial parameters (n, ...).
        steps: Number of steps. Each evaluates the objective and its gradient once.
        optimizer: Function that creates the optimizer. Its steps must be elementwise, such as those
            of SGD and Adam, so that the rows stay independent.
        tick: Function that is called after every step.
        limits: Lower and upper limit, to which the parameters are clamped after every step.
    """
    parameters = start.detach().clone().requires_grad_()
    stepper = optimizer([parameters])
    for step in range(steps):
        stepper.zero_grad()
        torch.autograd.backward(objective(parameters, step).sum())
        stepper.step()
        if limits is not None:
            with torch.no_grad():
                parameters.clamp_(*limits)
        tick()
    return parameters.detach()


def until_done(
    advance: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]],
    state: Tensor,
    steps: int,
    tick: Tick,
) -> Tensor:
    """State (n, ...) after at most `steps` steps of each row, until the row is finished.

    Args:
        advance: Function of the unfinished rows of the state (m, ...), their indices (m,) and the
            number of the step. It returns their next state and whether each of them is finished,
            (m,) bool.
        state: Initial state (n, ...).
        steps: Maximum number of steps.
        tick: Function that is called after every step.
    """
    state, rows = state.clone(), torch.arange(len(state), device=state.device)
    for step in range(steps):
        state[rows], finished = advance(state[rows], rows, step)
        rows = rows[~finished]
        tick()
        if len(rows) == 0:
            break
    return state


def gradient(objective: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n,) and gradients (n, ...) of an objective at parameters (n, ...)."""
    parameters = at.detach().requires_grad_()
    values = objective(parameters)
    (gradients,) = torch.autograd.grad(values.sum(), parameters)
    return values.detach(), gradients
