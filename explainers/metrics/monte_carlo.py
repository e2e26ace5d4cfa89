"""Monte-Carlo areas under perturbation curves, and how far they may be from the whole area."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve


def monte_carlo_auc(
    explanandum: Explanandum,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    curve: Curve,
    draws: int,
    generator: torch.Generator | None = None,
    batch_size: int = 16,
    channels_last: bool = True,
) -> Tensor:
    """Estimate the mean probability over points 1 to n of a curve from some of them, (B,) float64.

    The points are drawn uniformly WITHOUT replacement, the same for all images; `draws` points take
    `draws` forward passes an image. With `Curve(pixels=1)` the population is that of Ra-NEM, one
    point for each of the H W pixels. Unbiased; the error is bounded by `half_width`.

    Source: Ra-NEM, eq. 6. Its training draws with replacement, for which the bounds do not hold.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        maps: Relevance (B, H, W).
        targets: The class to follow, one-hot (B, K) bool.
        curve: The curve whose area is wanted; point 0, where it starts, is left out.
        draws: Points to look at.
        generator: Randomness, on the CPU.
        batch_size: Images a forward pass.
        channels_last: Memory layout of these batches.

    Raises:
        ValueError: If the curve has fewer points than `draws`, or `draws` is below 1.
    """
    part = drawn(curve, maps[0].numel(), draws, generator)
    found = curves.run(
        explanandum, images, maps, targets, [part], batch_size, channels_last=channels_last
    )
    return found[0].probability.mean(dim=1)


def drawn(curve: Curve, size: int, draws: int, generator: torch.Generator | None = None) -> Curve:
    """A curve of some points 1 to n of another, drawn uniformly without replacement.

    Args:
        curve: The whole curve; point 0, where it starts, is left out.
        size: Number of pixels of the images.
        draws: Number of points.
        generator: Randomness, on the CPU.

    Raises:
        ValueError: If the curve has fewer points than `draws`, or `draws` is below 1.
    """
    replaced = curve.replaced(size)[1:]
    if not 1 <= draws <= len(replaced):
        raise ValueError(f"draws must be in [1, {len(replaced)}], got {draws}")
    picked = torch.randperm(len(replaced), generator=generator)[:draws].sort().values.tolist()
    changed = [replaced[i] if curve.start == "image" else size - replaced[i] for i in picked]
    return replace(curve, steps=None, pixels=None, counts=tuple(changed))


def half_width(
    draws: int,
    population: int,
    confidence: float = 0.95,
    value_range: float = 1.0,
    variance: float | None = None,
) -> float:
    """Half-width t of the interval that holds the mean of a population with the given confidence.

    For draws WITHOUT replacement from a finite population of any values, so for `monte_carlo_auc`
    of one image and map. With d = population, n = draws and failure probability q = 1 - confidence:

    - without `variance`, Ra-NEM's Theorem A.1: q = 2 exp(-2 n t^2 / ((1 - (n - 1) / d) r^2)), r the
      range of the values. The paper prints r where Serfling's inequality has r^2.
    - with `variance`, Corollary A.2: q = (1 - (n - 1) / (d - 1)) s^2 / (n t^2), Chebyshev's
      inequality. The paper prints a leading 2, but that inequality is two-sided already.

    Source: Ra-NEM, appendix A; Serfling, Annals of Statistics 2(1), 1974, corollary 1.1 and
    eq. 1.4.

    Args:
        draws: Number of draws.
        population: Number of points of the curve.
        confidence: Probability that the interval holds the mean, in (0, 1).
        value_range: Largest minus smallest value; at most 1 for probabilities.
        variance: Of the population (divided by d); at most value_range^2 / 4.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> round(half_width(100, 50176), 4), round(half_width(100, 50176, variance=0.01), 4)
        (0.1357, 0.0447)
        >>> half_width(50, 50, variance=0.01)
        0.0
    """
    if not 1 <= draws <= population or not 0 < confidence < 1:
        raise ValueError(
            "expected 1 <= draws <= population and confidence in (0, 1), "
            f"got {draws}, {population} and {confidence}"
        )
    if value_range < 0 or (variance is not None and variance < 0):
        raise ValueError(f"range and variance can't be negative: {value_range}, {variance}")
    failure = 1 - confidence
    if variance is None:
        left = 1 - (draws - 1) / population
        return value_range * math.sqrt(left * math.log(2 / failure) / (2 * draws))
    left = 1 - (draws - 1) / max(1, population - 1)
    return math.sqrt(left * variance / (draws * failure))
