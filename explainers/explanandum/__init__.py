"""What is explained: frozen classifiers, how they are built, looked into, and trained."""

from explainers.explanandum.frozen import Explanandum

__all__ = ["Explanandum"]
