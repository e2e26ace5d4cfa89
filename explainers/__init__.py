"""Learned explainers of image classifiers: which pixels made the classifier decide."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explainers.base import Explainer
    from explainers.checkpoint import load
    from explainers.explaining.byname import method
    from explainers.explaining.explain import show
    from explainers.explaining.photofiles import photograph
    from explainers.explanandum import Explanandum
    from explainers.learned import LearnedExplainer

__all__ = [
    "Explainer",
    "Explanandum",
    "LearnedExplainer",
    "__version__",
    "load",
    "method",
    "photograph",
    "show",
]
__version__ = "0.1.0"

# Imported when they are asked for: torch and Lightning take seconds, which --help need not wait.
_PLACES = {
    "Explainer": "explainers.base",
    "Explanandum": "explainers.explanandum",
    "LearnedExplainer": "explainers.learned",
    "load": "explainers.checkpoint",
    "method": "explainers.explaining.byname",
    "photograph": "explainers.explaining.photofiles",
    "show": "explainers.explaining.explain",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
