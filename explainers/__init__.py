"""Learned explainers of image classifiers: which pixels made the classifier decide."""

from explainers.base import Explainer, LearnedExplainer, load
from explainers.explanandum import Explanandum

__all__ = ["Explainer", "Explanandum", "LearnedExplainer", "load"]
