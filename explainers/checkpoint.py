"""An explainer from a checkpoint file."""

import importlib
from typing import Any

from explainers import files
from explainers.base import Explainer
from explainers.explanandum import Explanandum


def load(path: str, map_location: Any = None, explanandum: Explanandum | None = None) -> Explainer:
    """A ready explainer, in eval mode, from a checkpoint of any method.

    Args:
        path: A checkpoint file written by a fit.
        map_location: Device, as for `torch.load`.
        explanandum: Needed only if the checkpoint's was an `nn.Module` of your own.
    """
    module, _, name = class_path(path).rpartition(".")
    cls: type[Explainer] = getattr(importlib.import_module(module), name)
    return cls.load_from_checkpoint(path, map_location=map_location, explanandum=explanandum).eval()


def class_path(path: str) -> str:
    """Import path of the explainer class in a checkpoint file."""
    checkpoint = files.read_checkpoint(path)
    if "class_path" not in checkpoint or "explanandum" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of an explainer")
    return str(checkpoint["class_path"])
