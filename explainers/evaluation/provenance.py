"""Origin of scores: the classifier, the methods with their arguments and weights, and the data."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer

from explainers.base import Explainer
from explainers.checkpoint import fingerprint
from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric
from explainers.metrics.seconds import Seconds


def describe_run(
    explainers: Mapping[str, Explainer], metrics: Sequence[PerImageMetric]
) -> dict[str, Any]:
    """Everything on which two runs must agree to be comparable row by row.

    These are the methods, columns, metrics and the classifier.
    """
    explanandum = next(iter(explainers.values())).explanandum
    columns = [name for metric in metrics for name in metric.names if name != "seconds"]
    return {
        "methods": {
            name: {**describe(method), "weights": fingerprint(method, leave_out="explanandum.")}
            for name, method in explainers.items()
        },
        "columns": [*dict.fromkeys(columns), "seconds"],
        "metrics": {
            # A metric class may be used several times, with different columns.
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
    """Whether another one of the metrics has the same class."""
    return sum(type(other) is type(metric) for other in metrics) > 1


def describe(explainer: Explainer) -> dict[str, Any]:
    """Class and constructor arguments of a method, also nested ones, except `speed_only` ones."""
    plain = {
        name: value
        for name, value in explainer.hparams.items()
        if name not in explainer.speed_only
        and isinstance(value, bool | int | float | str | list | tuple | dict | None)
    }
    return {"class": type(explainer).__name__, **plain}


def arguments(metric: PerImageMetric) -> dict[str, Any]:
    """Plain public attributes of a metric that its base does not have, except `speed_only` ones."""
    known = set(vars(Seconds()))
    return {
        k: v
        for k, v in vars(metric).items()
        if k not in known
        and k not in metric.speed_only
        and isinstance(v, bool | int | float | str | list | dict)
    }


def method_name(kind: type[Explainer]) -> str:
    """Name of a method in tables: its file if the class name begins like it, else the class name.

    The class name is converted to snake case.

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
    """Architecture of the classifier, or the class of a module that the user provides."""
    return explanandum.architecture or type(explanandum.model).__name__


def data_name(trainer: Trainer) -> str:
    """Name of the data module or, without one, of the test data set."""
    if (data := getattr(trainer, "datamodule", None)) is not None:
        return type(data).__name__
    loader: Any = trainer.test_dataloaders or trainer.predict_dataloaders
    return type(getattr(loader, "dataset", loader)).__name__
