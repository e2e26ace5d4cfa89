"""Learned explainers of image classifiers: which pixels made the classifier decide."""

from explainers.base import Explainer
from explainers.checkpoint import load
from explainers.explaining.byname import method
from explainers.explaining.explain import show
from explainers.explanandum import Explanandum
from explainers.learned import LearnedExplainer

__all__ = [
    "Explainer",
    "Explanandum",
    "LearnedExplainer",
    "__version__",
    "load",
    "method",
    "show",
]
__version__ = "0.1.0"
