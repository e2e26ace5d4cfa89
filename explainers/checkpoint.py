"""Explainers from checkpoint files, and whether they explain the same classifier."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.explanandum.weights import fingerprint
from explainers.naming import class_path
from explainers.options import without_sources
from explainers.reading import (
    check_explainer,
    read_checkpoint,
    read_classifier,
    read_explainer,
)
from explainers.trainingstate import check_state
from explainers.trust import CLASSIFIER, granting

ROUNDED = 1e-5  # limit of `_same`, relative to the largest weight of a tensor
# Arguments of an explanandum that say where it comes from.
SOURCE = ("model", "model_args", "weights", "pretrained", "weights_key", "trust")


def load(
    path: str | Path,
    map_location: Any = "cpu",
    explanandum: Explanandum | None = None,
    trust: Sequence[str] = (),
) -> Explainer:
    """Loads an explainer of any method from its checkpoint, in eval mode.

    Args:
        path: Path of a checkpoint written by a fit.
        map_location: Device of the explainer.
        explanandum: Classifier to explain. Needed only if it was an `nn.Module` of your own, or if
            the checkpoint does not contain its weights.
        trust: Names of your packages whose explainers and functions the checkpoint may name.
            Nothing else is imported that is not of this package.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the checkpoint of an explainer, it names what is not trusted, or
            its classifier is needed and not passed.
    """
    with granting(trust):
        given = [] if explanandum is None else ["explanandum"]
        checkpoint = read_explainer(path, given)
        kind = explainer_class(checkpoint["class_path"])
        return kind.restore(checkpoint, str(path), explanandum).eval().to(map_location)


def export(ckpt_path: str, out: str, classifier: bool = True, trust: Sequence[str] = ()) -> None:
    """Writes a checkpoint to publish: all that explaining needs, nothing that only a fit needs.

    Args:
        ckpt_path: Path of the checkpoint of an explainer.
        out: Path of the new file, a .ckpt that does not exist yet.
        classifier: Whether it holds the weights of the classifier. If not, whoever loads it must
            have them.
        trust: Packages that the checkpoint may name, see SECURITY.md.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is something else, or `out` exists or is no .ckpt.
    """
    if not out.endswith(".ckpt") or Path(out).exists():
        raise ValueError(f"out is a new file whose name ends with .ckpt, not {out!r}")
    explainer = load(ckpt_path, trust=trust)
    explainer.explanandum.in_checkpoint = classifier
    stored = read_checkpoint(ckpt_path)
    facts = ["cost", "pytorch-lightning_version"]
    kept = {name: stored[name] for name in facts if name in stored}
    exported: dict[str, Any] = {**kept, "state_dict": explainer.state_dict()}
    explainer.on_save_checkpoint(exported)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    torch.save(exported, out)


def load_beside(explanandum: Explanandum, path: str) -> Explainer:
    """Loads an explainer with a given explanandum, which must be the classifier that it explains.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it explains another classifier.
    """
    checkpoint = read_explainer(path, ["explanandum"])
    if not explains(checkpoint, explanandum):
        raise ValueError(
            f"{path} explains another classifier than this one; "
            "use it in a run of its own, with the classifier that it explains"
        )
    kind = explainer_class(checkpoint["class_path"])
    return kind.restore(checkpoint, path, explanandum).eval()


def explainer_class(class_path: str) -> type[Explainer]:
    """Class of a method, from its import path, which must be trusted: see `trust.check_class`.

    Raises:
        ValueError: If there is no such explainer.
    """
    module, _, name = class_path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"{class_path} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Explainer)):
        raise ValueError(f"{class_path} is no Explainer")
    return kind


def explains(checkpoint: dict[str, Any], explanandum: Explanandum) -> bool:
    """Whether the checkpoint of an explainer belongs to exactly this classifier.

    The same classifier has equal weights, classes, mean, std and kind of probability. Stored
    weights may differ by 1e-5 of the largest of their tensor, since a moving average rounds them.
    If the checkpoint does not contain the weights, a hash of them is compared.
    """
    config, own = checkpoint["explanandum"], explanandum.config
    if any(config.get(key) != own[key] for key in ("classes", "mean", "std", "multi_label")):
        return False
    stored = {
        name.removeprefix("explanandum."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("explanandum.")
    }
    if not stored:  # nor is there a hash in files of earlier versions
        return checkpoint.get("explanandum_weights") in (None, fingerprint(explanandum))
    weights = explanandum.state_dict()
    return stored.keys() == weights.keys() and all(
        _same(value, weights[name].cpu()) for name, value in stored.items()
    )


def _same(stored: Tensor, own: Tensor) -> bool:
    """Whether weights are equal up to the rounding of a moving average."""
    if stored.shape != own.shape or not stored.is_floating_point():
        return torch.equal(stored, own)
    limit = ROUNDED * own.abs().max() if own.numel() else 0.0
    return bool(((stored - own).abs() <= limit).all())


def model_config(path: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint, and class path and arguments of its module, as in a config file.

    Args:
        path: Path of the checkpoint of an explainer or of a `Classifier`.
        given: What the user's own files and flags say of the module. They need no trust, and their
            arguments take the place of those in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, it names what is not trusted, or its classifier is
            needed and not given.
    """
    brought = [
        name
        for name in given.get("init_args") or {}
        if name != "explanandum" or brings_classifier(given)
    ]
    if "explanandum" not in (checkpoint := read_checkpoint(path)):
        inner, _, _ = read_classifier(path, brought)
        return checkpoint, {"class_path": CLASSIFIER, "init_args": inner}
    checkpoint = check_explainer(checkpoint, path, brought, known=[str(given.get("class_path"))])
    explainer_class(str(given.get("class_path") or checkpoint["class_path"]))
    config = dict(checkpoint["explanandum"])
    if "explanandum" in brought:
        config = {name: value for name, value in config.items() if name not in SOURCE}
    elif config["model"] is None:
        raise ValueError(
            f"{path} explains an nn.Module of your own: give the explanandum a model "
            "package.module:callable, in a -c file"
        )
    explanandum = {"class_path": "explainers.Explanandum", "init_args": config}
    inner = without_sources(checkpoint["hyper_parameters"])
    return checkpoint, {
        "class_path": checkpoint["class_path"],
        "init_args": {**inner, "explanandum": explanandum},
    }


def brings_classifier(given: Mapping[str, Any]) -> bool:
    """Whether the configuration of an explainer names the model of its explanandum."""
    explanandum = (given.get("init_args") or {}).get("explanandum") or {}
    return "model" in (explanandum.get("init_args") or {})


def restore(module: LightningModule, checkpoint: dict[str, Any], path: str, compare: bool) -> None:
    """Loads the weights of a checkpoint into a module that was built for it.

    Args:
        module: Module that receives them.
        checkpoint: Content of the file.
        path: Path of the file.
        compare: Whether the user has given the classifier, which must then be the one explained.

    Raises:
        ValueError: If they do not fit, or the classifier is another than the one it explains.
    """
    own = module.explanandum if isinstance(module, Explainer) and compare else None
    if own is not None and not own.untrained and not explains(checkpoint, own):
        raise ValueError(
            f"{path} explains another classifier than the one that is given: other weights, "
            "classes, mean, std or multi_label"
        )
    module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {type(module).__name__}: {error}") from error


def check_resumable(path: str, kind: type[LightningModule]) -> None:
    """Checks that a fit of a class can be resumed from a checkpoint, which is read as plain data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    checkpoint = read_checkpoint(path)
    stored = checkpoint.get("class_path", CLASSIFIER)
    own = class_path(kind)
    if stored != own:
        raise ValueError(f"{path} is a checkpoint of {stored}, not of {own}")
    check_state(checkpoint, path)


def is_loaded(module: LightningModule) -> bool:
    """Whether a classifier to train has been given weights, so that it can be measured."""
    hparams = module.hparams
    return bool(hparams.get("weights") or hparams.get("pretrained")) and not hparams.get("head")
