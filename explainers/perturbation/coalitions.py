"""Coalitions: subsets of the regions of an image that are kept, and Shapley values from them."""

import math

import torch
from torch import Tensor


def coalitions(
    count: int, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Different subsets (N, S) bool of S players, N <= `samples`, and their weights (N,) float64.

    The first subset is all players and the second the empty set. Both have weight 0, because
    `shapley` treats them as constraints. If `samples` is at least 2^S, all other subsets follow,
    weighted by the Shapley kernel. Otherwise subsets are drawn in proportion to that kernel, each
    with its complement, and weighted by how often they were drawn. The kernel of a subset of s
    players is (S - 1) / (binomial(S, s) s (S - s)).

    The third result is the order in which the pairs were drawn, int64: pair i is the subsets 2 + 2i
    and 3 + 2i. It is None if all subsets are given.

    Args:
        count: Number S of players, at least 1.
        samples: Maximum number of subsets, at least 2.
        generator: Random number generator on the CPU.
    """
    ends = torch.tensor([[True], [False]]).expand(-1, count)
    if 2**count <= samples:
        codes = torch.arange(1, 2**count - 1)
        kept = (codes[:, None] >> torch.arange(count)) % 2 == 1
        kernel = [0.0] + [
            (count - 1) / (math.comb(count, size) * size * (count - size))
            for size in range(1, count)
        ]
        weights = torch.tensor(kernel, dtype=torch.float64)[kept.sum(dim=1)]
    else:
        sizes, pairs = torch.arange(1, count), samples // 2
        mass = 1 / (sizes * (count - sizes))  # total kernel weight of the subsets of each size
        drawn = 1 + torch.multinomial(mass, pairs, replacement=True, generator=generator)
        places = torch.rand(pairs, count, generator=generator).argsort(dim=1)
        half = places < drawn[:, None]
        half ^= ~half[:, :1]  # of each pair of complements, the one with the first player
        half, order = torch.unique(half[: pairs - 1], dim=0, return_inverse=True)
        kept = torch.stack([half, ~half], dim=1).flatten(0, 1)
        return torch.cat([ends, kept]), drawn_weights(order, len(half)), order
    return torch.cat([ends, kept]), torch.cat([weights.new_zeros(2), weights]), None


def drawn_weights(order: Tensor, pairs: int) -> Tensor:
    """Weights (2 + 2 `pairs`,) float64 of subsets, from the pairs that were drawn, `order`."""
    times = order.bincount(minlength=pairs).repeat_interleave(2).double()
    return torch.cat([times.new_zeros(2), times])


def shapley(kept: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Shapley values (S, k), by weighted least squares from the scores of subsets of S players.

    The sum of the values of a subset, plus the score of the empty set, approximates the score of
    the subset. It is exact for the empty set, `scores[1]`, and for all players, `scores[0]`. If the
    subsets do not determine the values, the solution closest to equal values is returned.

    Args:
        kept: Subsets (N, S) of 0 and 1, from `coalitions`.
        scores: Scores (N, k) of the subsets.
        weights: Weights (N,) of the subsets.
    """
    equal = (scores[0] - scores[1]) / kept.shape[1]  # (k,): all players have the same value
    rest = scores - scores[1] - kept.sum(dim=1, keepdim=True) * equal
    # Deviations from equal values must sum to 0: the least-norm solution for rows of mean 0 does.
    rows = kept - kept.mean(dim=1, keepdim=True)
    root = weights.sqrt()[:, None]
    found: Tensor = torch.linalg.lstsq(root * rows, root * rest, driver="gelsd").solution
    return equal + found
