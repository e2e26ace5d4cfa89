"""Learned explainers of image classifiers: which pixels made the classifier decide."""

from explainers.base import Explainer
from explainers.checkpoint import load
from explainers.explanandum.frozen import Explanandum
from explainers.learned import LearnedExplainer

__all__ = ["Explainer", "Explanandum", "LearnedExplainer", "load"]
