"""The explanandum, a frozen classifier: how it is built, inspected and trained."""

from explainers.explanandum.frozen import Explanandum

__all__ = ["Explanandum"]
