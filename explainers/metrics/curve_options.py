"""Options of the metrics that are computed from perturbation curves."""

from typing import Literal, TypedDict


class AreaOptions(TypedDict, total=False):
    """Options for the area under a curve.

    Args:
        rule: "trapezoid" for the trapezoidal rule, or "mean" for the mean of the points.
        part: Range of the curve that counts, [start, end] as fractions of its steps.
        skip_first: Whether to leave out the first point of that range.
        scale: Factor that multiplies the area, such as 100.
    """

    rule: Literal["trapezoid", "mean"]
    part: list[float]
    skip_first: bool
    scale: float


class FillOptions(TypedDict, total=False):
    """Options of a fill.

    Args:
        sigma: Width of the fill "blur" in pixels.
        bank: Folder of pictures for the fill "images". None takes other images of the batch, so
            that the value depends on the batch.
        count: Number of independent fills "noise" or "images"; the curves are averaged over them.
        seed: Seed of the fills "noise" and "images".
    """

    sigma: float
    bank: str | None
    count: int
    seed: int


AREA: AreaOptions = {"rule": "trapezoid", "part": [0.0, 1.0], "skip_first": False, "scale": 1.0}
FILL: FillOptions = {"sigma": 10.0, "bank": None, "count": 1, "seed": 0}


class ResponseOptions(TypedDict, total=False):
    """Options for what the curves follow, and for pixels of equal value.

    Args:
        kind: Height of a point. "class": the probability of the followed class. "similarity":
            how alike a layer's representations of the perturbed and of the whole image are,
            (1 + cosine) / 2. It needs no class, so that maps of encoders without a head are ranked.
        layer: Layer of the representation: a level of the feature pyramid, -1 for the deepest, or
            the name of a module.
        ties: Order of pixels of equal value. "order": the later pixel counts as larger. "gaussian":
            the pixel nearer to the center does, as in the masking-explanations paper, appendix C.
    """

    kind: Literal["class", "similarity"]
    layer: int | str
    ties: Literal["order", "gaussian"]


RESPONSE: ResponseOptions = {"kind": "class", "layer": -1, "ties": "order"}
