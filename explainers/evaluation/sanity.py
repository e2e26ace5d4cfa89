"""The rows that every score is read against."""

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.methods.constant import CentredGaussian, Constant, GroundTruth, Random

SANITY = ("constant_0", "constant_05", "constant_1", "random", "centred_gaussian", "ground_truth")


def sanity_rows(explanandum: Explanandum) -> dict[str, Explainer]:
    """The methods that look at no image, and the one that is told the answer, by `SANITY`."""
    methods = (
        *(Constant(explanandum, value) for value in (0.0, 0.5, 1.0)),
        Random(explanandum),
        CentredGaussian(explanandum),
        GroundTruth(explanandum),
    )
    return dict(zip(SANITY, methods, strict=True))
