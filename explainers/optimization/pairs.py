"""Optimising masks for one image at a time: the loop that all such methods share.

A pair is an image and one class to explain. Pairs are optimised side by side and know nothing of
each other: losses are summed over them, never averaged.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

Tick = Callable[[], object]  # call it once a step
Solve = Callable[[Tensor, Tensor, Tick], Tensor]


def solve_pairs(
    solve: Solve, images: Tensor, classes: Tensor, steps: int, pairs: int, title: str
) -> Tensor:
    """Results (B, k, ...) of every image with each of its classes, `pairs` of them at a time.

    Args:
        solve: Takes images (n, 3, H, W), classes (n,) and what to call once a step; returns
            (n, ...). Gradients are enabled, so this works where the caller's are not.
        images: (B, 3, H, W) in [0, 1].
        classes: (B, k) int64.
        steps: How often `solve` calls it at most, for the progress bar.
        pairs: How many are optimised side by side; it bounds the memory and changes no result.
        title: Of the progress bar.
    """
    owner = torch.arange(len(images), device=images.device).repeat_interleave(classes.shape[1])
    flat = (torch.split(x, pairs) for x in (owner, classes.flatten()))
    parts = list(zip(*flat, strict=True))
    # A bar only in terminals, and only for what takes longer than a second.
    bar = tqdm(total=steps * len(parts), desc=title, leave=False, delay=1, disable=None)
    with torch.inference_mode(False), torch.enable_grad(), bar:
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
    """Where `steps` of a torch optimiser lead from `start` (n, ...).

    Args:
        objective: Takes parameters (n, ...) and the number of the step, from 0; returns losses
            (n,), each a function of its own row alone.
        start: Parameters to begin with.
        steps: Number of steps; each calls the objective once and its gradient once.
        optimizer: Makes the optimiser, one whose steps are elementwise (SGD, Adam), so that rows
            stay independent.
        tick: Called after every step.
        limits: Parameters are clamped to these after every step.
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
    """Step the rows of a state (n, ...) that are not finished yet, at most `steps` times.

    Args:
        advance: Takes the unfinished part of the state (m, ...), which rows these are (m,), and the
            number of the step; returns their next state and which of them are finished (m,) bool.
        state: State to begin with.
        steps: The most steps of a row.
        tick: Called after every step.
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
    """Values (n,) of an objective at parameters (n, ...), and their gradients (n, ...)."""
    parameters = at.detach().requires_grad_()
    values = objective(parameters)
    (gradients,) = torch.autograd.grad(values.sum(), parameters)
    return values.detach(), gradients
