"""Where scores come from: which classifier, methods with which arguments and weights, data."""

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from explainers import checkpoint
from explainers.base import Explainer
from explainers.explanandum.frozen import Explanandum
from explainers.metrics.base import PerImageMetric
from explainers.metrics.seconds import Seconds


def load_beside(explanandum: Explanandum, path: str) -> Explainer:
    """The explainer of a checkpoint, which must explain the same classifier.

    Raises:
        ValueError: If it explains another.
    """
    foreign = explanandum.architecture is None
    explainer = checkpoint.load(
        path, map_location="cpu", explanandum=copy.deepcopy(explanandum).cpu() if foreign else None
    )
    own = explainer.explanandum
    if fingerprint(own) != fingerprint(explanandum) or own.classes != explanandum.classes:
        raise ValueError(
            f"{path} explains another classifier than the module under test; "
            "score it in a run of its own"
        )
    return explainer


def fingerprint(module: nn.Module, leave_out: str | None = None) -> str:
    """Short hash of a module's weights, without those whose name starts with `leave_out`."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if leave_out is None or not name.startswith(leave_out):
            digest.update(name.encode())
            digest.update(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
    return digest.hexdigest()[:16]


def describe_run(
    explainers: Mapping[str, Explainer], metrics: Sequence[PerImageMetric]
) -> dict[str, Any]:
    """What makes two runs comparable row by row: methods, columns, metrics and classifier."""
    explanandum = next(iter(explainers.values())).explanandum
    columns = [name for metric in metrics for name in metric.names if name != "seconds"]
    return {
        "methods": {
            name: {**describe(method), "weights": fingerprint(method, leave_out="explanandum.")}
            for name, method in explainers.items()
        },
        "columns": [*dict.fromkeys(columns), "seconds"],
        "metrics": {
            # one class may serve several times, with other columns
            f"{type(metric).__name__}"
            + (f" {metric.names[0]}" if repeated(metric, metrics) else ""): arguments(metric)
            for metric in metrics
        },
        "explanandum": {
            "name": explanandum_name(explanandum),
            "weights": fingerprint(explanandum),
            "classes": explanandum.classes,
        },
    }


def repeated(metric: PerImageMetric, metrics: Sequence[PerImageMetric]) -> bool:
    """Whether another of the metrics is of the same class."""
    return sum(type(other) is type(metric) for other in metrics) > 1


def describe(explainer: Explainer) -> dict[str, Any]:
    """Class and plain init arguments of a method."""
    plain = {
        k: v
        for k, v in explainer.hparams.items()
        if isinstance(v, bool | int | float | str | list | tuple | None)
    }
    return {"class": type(explainer).__name__, **plain}


def arguments(metric: PerImageMetric) -> dict[str, Any]:
    """Plain public attributes that a metric has beyond the base's."""
    known = set(vars(Seconds()))
    return {
        k: v
        for k, v in vars(metric).items()
        if k not in known and isinstance(v, bool | int | float | str | list)
    }


def method_name(kind: type[Explainer]) -> str:
    """What a method is called in tables: its file if the class's name begins so, else its class.

    Example:
        >>> from explainers.methods import cam, nem_u
        >>> method_name(nem_u.NEMU), method_name(cam.GradCAMPlusPlus)
        ('nem_u', 'grad_cam_plus_plus')
    """
    file = kind.__module__.rpartition(".")[2]
    if kind.__name__.lower().startswith(file.replace("_", "")):
        return file
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__).lower()


def explanandum_name(explanandum: Explanandum) -> str:
    """Architecture of the classifier, or its class if it is a module of the user's own."""
    return explanandum.architecture or type(explanandum.model).__name__


def data_name(trainer: Trainer) -> str:
    """Name of the data module, or of the test data set without one."""
    if (data := getattr(trainer, "datamodule", None)) is not None:
        return type(data).__name__
    loader: Any = trainer.test_dataloaders or trainer.predict_dataloaders
    return type(getattr(loader, "dataset", loader)).__name__
