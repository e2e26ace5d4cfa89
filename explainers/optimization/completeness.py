"""The completeness-gap problem of SLOC, and two solvers for it: Adam and ADMM.

For maps a (N, H, W) and responses r (N, M) to masks m, the loss of each map is

    1 / (2 M) sum_m (r_m - a . m)^2 / |m| + l1 sum |a| + tv_down sum (a[i + 1, j] - a[i, j])^2
    + tv_across sum (a[i, j + 1] - a[i, j])^2,

SLOC eq. 4. It is convex. Both solvers treat the N maps independently.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from explainers.perturbation.patches import PatchSums

Observer = Callable[[int, Tensor], None]  # called with the number of steps and maps (N, H, W)


class SolverOptions(TypedDict, total=False):
    """Options of the solver that optimizes the map.

    Args:
        name: Solver. "admm" reaches the minimum of the loss. "adam" comes close to it in the
            published number of steps.
        steps: Number of steps. None selects 20 for ADMM and the published 501 for Adam.
        lr: Learning rate of Adam, in the units of the released code: a step changes a pixel by
            about lr / (3 H W).
        lr_decay: Factor that multiplies the learning rate every 45 steps. The released code names
            45 and 0.9, but its runs keep the learning rate, which is 1.
        monitor: Whether to return the best of several maps of Adam, the variant SLOC_m. The
            candidates are the maps after steps 61, 76, 91, ... and after the last step. The best
            one has the highest insertion minus deletion score (`KeepBest`). It is selected by what
            SLOCCurves measures, so any table of results should say so. Each candidate costs 20
            forward passes.
    """

    name: Literal["admm", "adam"]
    steps: int | None
    lr: float
    lr_decay: float
    monitor: bool


STEPS = {"adam": 501, "admm": 20}
SOLVER: SolverOptions = {"name": "admm", "lr": 0.1, "lr_decay": 1.0, "monitor": False}


@dataclass(frozen=True)
class Gap:
    """Parameters of the loss that do not depend on the map and its responses.

    Args:
        sums: The masks, which give the sums of maps under them.
        l1: Weight of the sum of absolute values.
        tv: Weights of the squared differences between neighboring pixels, (down, across).
    """

    sums: PatchSums
    l1: float
    tv: tuple[float, float]

    @property
    def weights(self) -> Tensor:
        """Weight of the squared residual of each mask m, 1 / (M |m|). The loss uses half of it."""
        return 1 / (self.sums.areas * len(self.sums.areas))


def loss(gap: Gap, maps: Tensor, responses: Tensor) -> Tensor:
    """Loss (N,) of maps (N, H, W) with responses (N, M)."""
    misses = responses - gap.sums(maps)
    total = 0.5 * (gap.weights * misses.square()).sum(dim=1) + gap.l1 * maps.abs().sum(dim=(1, 2))
    for dim, weight in zip((1, 2), gap.tv, strict=True):
        total = total + weight * maps.diff(dim=dim).square().sum(dim=(1, 2))
    return total


def gradient(gap: Gap, maps: Tensor, responses: Tensor) -> Tensor:
    """Gradient (N, H, W) of the loss of each map. The derivative of |a| at 0 is taken as 0."""
    result = gap.sums.adjoint(gap.weights * (gap.sums(maps) - responses))
    result += gap.l1 * maps.sign()
    for dim, weight in zip((1, 2), gap.tv, strict=True):
        slopes = 2 * weight * maps.diff(dim=dim)
        size = slopes.shape[dim]
        result.narrow(dim, 1, size).add_(slopes)
        result.narrow(dim, 0, size).sub_(slopes)
    return result


@torch.no_grad()
def adam(
    gap: Gap,
    responses: Tensor,
    start: Tensor,
    steps: int,
    lr: float,
    decay: float = 1.0,
    decay_every: int = 45,
    eps: float = 1e-8,
    observe: Observer | None = None,
) -> Tensor:
    """Minimizes the loss by full-batch Adam with betas 0.9 and 0.999.

    Args:
        gap: Parameters of the loss.
        responses: Responses (N, M) to the masks.
        start: Initial maps (N, H, W).
        steps: Number of steps.
        lr: Learning rate, which is about the change of a pixel in one step.
        decay: Factor that multiplies the learning rate every `decay_every` steps.
        decay_every: Number of steps between two decays.
        eps: Constant that is added to the square root of the second moment.
        observe: Function that is called after every step.

    Returns:
        Maps (N, H, W) after the last step.
    """
    maps = start.clone()
    first, second = torch.zeros_like(maps), torch.zeros_like(maps)
    for step in _bar(steps, "SLOC: Adam"):
        slopes = gradient(gap, maps, responses)
        first.lerp_(slopes, 0.1)
        second.mul_(0.999).addcmul_(slopes, slopes, value=0.001)
        scale = math.sqrt(1 - 0.999**step)
        rate = lr * decay ** ((step - 1) // decay_every) / (1 - 0.9**step)
        maps.addcdiv_(first, second.sqrt().div_(scale).add_(eps), value=-rate)
        if observe is not None:
            observe(step, maps)
    return maps


@torch.no_grad()
def admm(
    factors: "Factors",
    responses: Tensor,
    start: Tensor,
    steps: int,
    observe: Observer | None = None,
) -> Tensor:
    """Minimizes the loss by ADMM, which splits the absolute values from the quadratic terms.

    An iteration solves a least-squares problem exactly and then applies soft thresholding.

    Source: Boyd et al., "Distributed Optimization and Statistical Learning via ADMM", 2011,
    sections 3.4.3 (over-relaxation, here 1.6) and 6.4.

    Args:
        factors: Factorized problem, which serves all maps of a set of masks.
        responses: Responses (N, M) to the masks.
        start: Initial maps (N, H, W).
        steps: Number of iterations. 10 or 20 are enough.
        observe: Function that is called after every iteration.

    Returns:
        Maps (N, H, W) after the last iteration.
    """
    gap, rho = factors.gap, factors.rho
    attraction = gap.sums.adjoint(gap.weights * responses)
    maps, threshold = start.clone(), gap.l1 / rho
    # The dual variable of the minimum, if the minimum has the signs of the start. A good start is
    # then kept.
    slopes = gradient(gap, start, responses) / rho
    dual = threshold * start.sign() - slopes.where(start == 0, 0.0).clamp(-threshold, threshold)
    for step in _bar(steps, "SLOC: ADMM"):
        smooth = factors.solve(attraction + rho * (maps - dual))
        relaxed = 1.6 * smooth - 0.6 * maps
        maps = F.softshrink(relaxed + dual, threshold)
        dual = dual + relaxed - maps
        if observe is not None:
            observe(step, maps)
    return maps


class Factors:
    """Solver of (X' D X + 2 tv L + rho) a = b, with masks X, their weights D and the Laplacian L.

    The matrix 2 tv L + rho is diagonal in the cosine basis; let K be its inverse. By the Woodbury
    identity, it remains to factorize one M by M matrix, 1 / D + X K X'. This is done once for a set
    of masks, whatever the images, classes and classifiers.

    Args:
        gap: Parameters of the loss.
        rho: Penalty parameter of ADMM. Values from 0.003 to 0.03 work equally well at any image
            size.
    """

    def __init__(self, gap: Gap, rho: float = 0.01) -> None:
        self.gap, self.rho = gap, rho
        # A GPU may round float32 to ten bits in matrix products, too coarse for the solution.
        device = gap.sums.areas.device
        self.dtype = torch.float64 if device.type == "cuda" else torch.float32
        height, width = gap.sums.size
        self._down, self._across = (cosines(n).to(device, self.dtype) for n in (height, width))
        down, across = (
            2 * weight * (2 - 2 * torch.cos(math.pi * torch.arange(n, dtype=torch.float64) / n))
            for weight, n in zip(gap.tv, (height, width), strict=True)
        )
        damping = down[:, None] + across + rho
        self._inverse = damping.reciprocal().to(device, self.dtype)  # K in the cosine basis
        matrix = torch.diag(1 / gap.weights).to(self.dtype)
        for rows, spectra in gap.sums.spectra(self._down, self._across):
            flat = spectra.flatten(1)
            matrix.addmm_(flat * self._inverse[rows].flatten(), flat.mT)
        self._cholesky = torch.linalg.cholesky(matrix)

    def solve(self, maps: Tensor) -> Tensor:
        """Solutions a (N, H, W) for right-hand sides b (N, H, W)."""
        smoothed = self._smooth(maps.to(self.dtype))
        seen = torch.cholesky_solve(self.gap.sums(smoothed).mT, self._cholesky).mT
        return (smoothed - self._smooth(self.gap.sums.adjoint(seen))).to(maps)

    def _smooth(self, maps: Tensor) -> Tensor:
        spectrum = self._down @ maps @ self._across.mT
        result: Tensor = self._down.mT @ (spectrum * self._inverse) @ self._across
        return result


@lru_cache(maxsize=8)
def factors(gap: Gap) -> Factors:
    """`Factors` of a problem, cached for later calls with the same masks and weights."""
    return Factors(gap)


def cosines(n: int) -> Tensor:
    """Orthonormal DCT-II as a matrix (n, n) in float64, with one row for each frequency.

    Example:
        >>> basis = cosines(3)
        >>> bool((basis @ basis.T - torch.eye(3)).abs().max() < 1e-12)
        True
    """
    places = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * places[:, None] * (places + 0.5)) * math.sqrt(2 / n)
    basis[0] = math.sqrt(1 / n)
    return basis


def _bar(steps: int, name: str) -> "tqdm[int]":
    """Numbers of the steps from 1. Terminals show a bar if this takes longer than a second."""
    return tqdm(range(1, steps + 1), name, leave=False, delay=1, disable=None)
