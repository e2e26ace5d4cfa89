"""Monte Carlo estimates of areas under perturbation curves, and bounds on their error."""

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
    channels_last: bool | None = None,
) -> Tensor:
    """Unbiased estimate (B,) float64 of the mean probability over points 1 to n of a curve.

    The estimate is the mean over points drawn uniformly without replacement, the same for all
    images. `half_width` bounds its error. With `Curve(pixels=1)` the population is that of Ra-NEM:
    one point for each of the H W pixels.

    Source: Ra-NEM, eq. 6. Its training draws with replacement, for which the bounds do not hold.

    Cost for each image: `draws` forward passes.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        maps: Relevance (B, H, W).
        targets: The class to follow, one-hot (B, K) bool.
        curve: Curve whose area is estimated. Its starting point, point 0, is left out.
        draws: Number of points to evaluate.
        generator: Random number generator on the CPU.
        batch_size: Number of images in each forward pass.
        channels_last: Whether these batches are in the channels-last memory layout. None takes
            `Explanandum.channels_last`.

    Raises:
        ValueError: If the curve has fewer points than `draws`, or `draws` is below 1.
    """
    part = drawn(curve, maps[0].numel(), draws, generator)
    found = curves.run(
        explanandum, images, maps, targets, [part], batch_size, channels_last=channels_last
    )
    return found[0].probability.mean(dim=1)


def drawn(curve: Curve, size: int, draws: int, generator: torch.Generator | None = None) -> Curve:
    """The given curve, restricted to points drawn from 1 to n uniformly without replacement.

    Args:
        curve: The whole curve. Its starting point, point 0, is left out.
        size: Number of pixels of an image.
        draws: Number of points to draw.
        generator: Random number generator on the CPU.

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
    """Half-width t of the interval that contains the population mean with a given confidence.

    The interval is centered at the mean of n draws, without replacement, from a finite population
    of d arbitrary values. It applies to `monte_carlo_auc` for a single image and map. The failure
    probability is q = 1 - confidence:

    - Without `variance`, Theorem A.1 of Ra-NEM: q = 2 exp(-2 n t^2 / ((1 - (n - 1) / d) r^2)),
      where r is the range of the values. The paper prints r where Serfling's inequality has r^2.
    - With `variance` s^2, Corollary A.2 (Chebyshev's inequality): q = (1 - (n - 1) / (d - 1)) s^2 /
      (n t^2). The paper prints a leading 2, but this inequality is already two-sided.

    Source: Ra-NEM, appendix A; Serfling, Annals of Statistics 2(1), 1974, corollary 1.1 and
    eq. 1.4.

    Args:
        draws: Number of draws n.
        population: Size d of the population, such as the number of points of a curve.
        confidence: Probability that the interval contains the mean, in (0, 1).
        value_range: Range r, the largest minus the smallest value; at most 1 for probabilities.
        variance: Variance s^2 of the population (divided by d), at most value_range^2 / 4.

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
