"""Explainers from checkpoint files, and whether they explain the same classifier."""

import hashlib
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from explainers import files
from explainers.base import Explainer
from explainers.explanandum import Explanandum


def load(
    path: str | Path, map_location: Any = "cpu", explanandum: Explanandum | None = None
) -> Explainer:
    """Loads an explainer of any method from its checkpoint, in eval mode.

    Args:
        path: Path of a checkpoint written by a fit.
        map_location: Device of the explainer.
        explanandum: Classifier to explain. Needed only if it was an `nn.Module` of your own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the checkpoint of an explainer, or its explanandum was a module of
            your own and is not passed.
    """
    checkpoint = files.read_explainer(path)
    kind = explainer_class(checkpoint["class_path"])
    return kind.restore(checkpoint, str(path), explanandum).eval().to(map_location)


def load_beside(explanandum: Explanandum, path: str) -> Explainer:
    """Loads an explainer with a given explanandum, which must be the classifier that it explains.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it explains another classifier.
    """
    checkpoint = files.read_explainer(path)
    if not explains(checkpoint, explanandum):
        raise ValueError(
            f"{path} explains another classifier than this one; "
            "use it in a run of its own, with the classifier that it explains"
        )
    kind = explainer_class(checkpoint["class_path"])
    return kind.restore(checkpoint, path, explanandum).eval()


def explainer_class(class_path: str) -> type[Explainer]:
    """Class of a method, from its import path.

    Raises:
        ValueError: If there is no such explainer.
    """
    module, _, name = class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Explainer)):
        raise ValueError(f"{class_path} is no Explainer")
    return kind


def explains(checkpoint: dict[str, Any], explanandum: Explanandum) -> bool:
    """Whether the checkpoint of an explainer belongs to exactly this classifier.

    The same classifier has equal weights, classes, mean, std and kind of probability. If the
    checkpoint does not contain the weights, those that its own arguments find are compared.
    """
    config, own = checkpoint["explanandum"], explanandum.config
    if any(config[key] != own[key] for key in ("classes", "mean", "std", "multi_label")):
        return False
    stored = {
        name.removeprefix("explanandum."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("explanandum.")
    }
    if not stored and config["model"] is None:
        return True  # a module of the user, whose weights are stored nowhere else
    stored = stored or Explanandum(**config).state_dict()
    weights = explanandum.state_dict()
    return stored.keys() == weights.keys() and all(
        torch.equal(value, weights[name].cpu()) for name, value in stored.items()
    )


def fingerprint(module: nn.Module, leave_out: str | None = None) -> str:
    """Short hash of a module's weights, except those whose names start with `leave_out`."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if leave_out is None or not name.startswith(leave_out):
            digest.update(name.encode())
            digest.update(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
    return digest.hexdigest()[:16]


def plain_config(checkpoint: dict[str, Any], path: str) -> dict[str, Any]:
    """Class path and constructor arguments of the module in a checkpoint, as in a config file.

    Raises:
        ValueError: If its explanandum cannot be rebuilt.
    """
    config = checkpoint["explanandum"]
    if config["model"] is None:
        raise ValueError(
            f"{path} explains an nn.Module of your own: give the explanandum a model "
            "package.module:callable instead"
        )
    explanandum = {"class_path": "explainers.Explanandum", "init_args": config}
    return {
        "class_path": checkpoint["class_path"],
        "init_args": {**checkpoint["hyper_parameters"], "explanandum": explanandum},
    }
