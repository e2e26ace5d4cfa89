"""Origin of scores: the classifier, the methods with their arguments and weights, and the data."""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.explanandum.inpainters import without_paths
from explainers.explanandum.weights import fingerprint
from explainers.metrics.base import PerImageMetric
from explainers.metrics.seconds import Seconds

# Arguments of a classifier that decide its numbers beside its weights.
CLASSIFIER = (
    *("classes", "class_names", "multi_label", "mean", "std"),
    *("model_args", "feature_layers"),
)


def describe_run(
    explainers: Mapping[str, Explainer], metrics: Sequence[PerImageMetric]
) -> dict[str, Any]:
    """Everything on which two runs must agree to be comparable row by row, but for the data.

    These are the methods, columns, metrics, the classifier and the versions of the libraries.
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
        "explanandum": describe_classifier(explanandum),
        "versions": versions(),
    }


def describe_classifier(explanandum: Explanandum) -> dict[str, Any]:
    """Name, weights, classes and normalization of the classifier."""
    config = explanandum.config
    return {
        "name": explanandum_name(explanandum),
        "weights": fingerprint(explanandum),
        **{key: plain(config[key]) for key in CLASSIFIER},
    }


def describe_data(trainer: Trainer, stage: str) -> dict[str, Any]:
    """Everything that decides the images of a stage, "train", "test" or "predict".

    Data modules of ours say it themselves, by their method `identity(split, count)`. Of others, the
    class and the stored arguments are known.
    """
    data = getattr(trainer, "datamodule", None)
    if (identity := getattr(data, "identity", None)) is not None:
        return dict(identity(stage, _count(trainer, stage)))
    return {
        "class": data_name(trainer),
        **{name: plain(value) for name, value in getattr(data, "hparams", {}).items()},
    }


def _count(trainer: Trainer, stage: str) -> int | None:
    """Largest number of images that a limit on the batches leaves, or None without a limit."""
    limit = getattr(trainer, f"limit_{stage}_batches", None)
    if limit is None or (isinstance(limit, float) and limit == 1.0):  # 1 is a single batch
        return None
    batches, loader = (
        (trainer.num_test_batches, trainer.test_dataloaders)
        if stage == "test"
        else (trainer.num_predict_batches, trainer.predict_dataloaders)
    )
    if stage == "train" or not batches or batches[0] == float("inf"):
        return None
    return int(batches[0]) * batch_size(loader) * trainer.world_size


def batch_size(loader: Any) -> int:
    """Size of the batches of a loader. Lightning gives that of a prediction a batch sampler."""
    sampler = getattr(loader, "batch_sampler", None)
    return getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None) or 1


def repeated(metric: PerImageMetric, metrics: Sequence[PerImageMetric]) -> bool:
    """Whether another one of the metrics has the same class."""
    return sum(type(other) is type(metric) for other in metrics) > 1


def describe(explainer: Explainer) -> dict[str, Any]:
    """Class and constructor arguments of a method, also nested ones, except `speed_only` ones."""
    given = {
        name: plain(without_paths(value, name))
        for name, value in explainer.hparams.items()
        if name not in explainer.speed_only
    }
    return {"class": _path(type(explainer)), **given}


def arguments(metric: PerImageMetric) -> dict[str, Any]:
    """Public attributes of a metric that its base does not have, except `speed_only` ones."""
    known = set(vars(Seconds()))
    return {
        name: plain(without_paths(value, name))
        for name, value in vars(metric).items()
        if name not in known and name not in metric.speed_only and not name.startswith("_")
    }


def plain(value: Any) -> Any:
    """A value as JSON types, so that equal values and no others are equal.

    Functions and classes are given by their path, tensors and modules by a hash of their values,
    and other objects by their class and their attributes.

    Example:
        >>> plain({"areas": (0.1, 0.2), "change": functools.partial(round, ndigits=2)})
        {'areas': [0.1, 0.2], 'change': {'function': 'builtins.round', 'args': [], 'ndigits': 2}}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(each) for each in value), key=str)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, torch.Tensor):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"tensor {list(value.shape)} {hashlib.sha256(raw.data).hexdigest()[:16]}"
    if isinstance(value, nn.Module):
        return {"class": _path(type(value)), "weights": fingerprint(value)}
    if isinstance(value, functools.partial):
        given = {name: plain(each) for name, each in value.keywords.items()}
        return {"function": plain(value.func), "args": plain(value.args), **given}
    if hasattr(value, "__qualname__"):
        return _path(value)
    attributes = getattr(value, "__dict__", {})
    return {
        "class": _path(type(value)),
        **{name: plain(each) for name, each in attributes.items() if not name.startswith("_")},
    }


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def explanandum_name(explanandum: Explanandum) -> str:
    """Architecture of the classifier, or the class of a module that the user provides."""
    return explanandum.architecture or type(explanandum.model).__name__


def data_name(trainer: Trainer) -> str:
    """Name of the data module or, without one, of the test data set."""
    if (data := getattr(trainer, "datamodule", None)) is not None:
        return type(data).__name__
    loader: Any = trainer.test_dataloaders or trainer.predict_dataloaders
    return type(getattr(loader, "dataset", loader)).__name__


def versions() -> dict[str, str]:
    """Versions of Python, of the libraries that determine the numbers, and of this project."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "lightning", "timm", "learned-explainers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
