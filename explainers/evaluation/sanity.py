"""Reference rows with which all scores are compared."""

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.methods.constant import CentredGaussian, Constant, GroundTruth, Random

SANITY = ("constant_0", "constant_05", "constant_1", "random", "centred_gaussian", "ground_truth")


def sanity_rows(explanandum: Explanandum) -> dict[str, Explainer]:
    """The reference methods by their names in `SANITY`.

    They are methods that do not look at the image, and one that returns the ground truth.
    """
    methods = (
        *(Constant(explanandum, value) for value in (0.0, 0.5, 1.0)),
        Random(explanandum),
        CentredGaussian(explanandum),
        GroundTruth(explanandum),
    )
    return dict(zip(SANITY, methods, strict=True))
