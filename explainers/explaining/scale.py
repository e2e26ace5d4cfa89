"""What the values of maps mean, and which of them the two ends of a color scale stand for."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from explainers.base import Explainer

Kind = Literal["mask", "signed", "score"]
Array = NDArray[np.float64]

CLIPPED = (1, 99)  # percentiles of a map that its colors cover


def kind(explainer: Explainer) -> Kind:
    """What the values of an explainer's maps mean.

    Those of a "mask" are in [0, 1]. Those of "signed" maps speak for the class above 0 and against
    it below. All others are a "score" that only ranks the pixels.
    """
    if explainer.is_mask:
        return "mask"
    return "signed" if explainer.is_signed else "score"


def limits(values: Array, kind: Kind) -> tuple[float, float]:
    """Values at the two ends of the colors of a map, of which at least two values differ.

    Masks use [0, 1]. Signed maps use a range around 0 that contains 99 % of the values. Scores use
    their 1st to 99th percentile. If these are equal, because few pixels differ from the others, all
    values are used.
    """
    if kind == "mask":
        return 0.0, 1.0
    if kind == "signed":
        sizes = np.abs(values)
        end = float(np.percentile(sizes, CLIPPED[1])) or float(sizes.max())
        return -end, end
    low, high = np.percentile(values, CLIPPED)
    if low == high:
        low, high = values.min(), values.max()
    return float(low), float(high)


def difference(maps: Tensor, kind: Kind) -> Array:
    """Map of the first class minus that of the second, from maps (2, H, W).

    Scores have no common scale: each map is first scaled to [0, 1] between its `limits`.
    """
    first, second = maps.double().cpu().numpy()
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return np.full_like(first, np.nan)
    if kind == "score":
        first, second = _scaled(first), _scaled(second)
    result: Array = first - second
    return result


def fault(values: Array) -> str:
    """What makes a map worthless, or an empty string."""
    lost = 1 - np.isfinite(values).mean()
    if lost:
        return f"{lost:.0%} of the pixels\nare not finite" if lost >= 0.005 else "not finite"
    if values.min() == values.max():
        return "all zero" if values.max() == 0 else f"constant, {values.max():.3g}"
    return ""


def _scaled(values: Array) -> Array:
    """Values as fractions of the range of their colors."""
    low, high = limits(values, "score")
    result: Array = ((values - low) / (high - low if high > low else 1)).clip(0, 1)
    return result
