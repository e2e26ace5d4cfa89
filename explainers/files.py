"""Reading checkpoints and weights as plain data, each file once; names of earlier versions."""

import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PACKAGE = Path(__file__).parent

# Modules that were called otherwise, as files of earlier versions name them.
MOVED = {
    "explainers.classifier": "explainers.explanandum.classifier",
    "explainers.photos": "explainers.explanandum.lite0",
    "explainers.callbacks.faithfulness": "explainers.callbacks.validation",
    "explainers.callbacks.wandb": "explainers.callbacks.loggers",
}

_BACKBONE = ("backbone", "pretrained", "backbone_weights", "freeze_backbone")
_DEEPLAB = {
    "network": (*_BACKBONE, "decoder_channels", "atrous_rates", "output_stride"),
    "optimizer": ("lr", "schedule"),
}
_NEM = {
    "network": ("block", "widths", "dropout"),
    "optimizer": ("optimizer", "lr", "weight_decay", "anneal_epochs"),
}
# Arguments of earlier versions that are options of a group today, by class.
GROUPED: dict[str, dict[str, tuple[str, ...]]] = {
    "explainers.methods.deeplab.DeepLabExplainer": _DEEPLAB,
    "explainers.methods.rtis.RTIS": _DEEPLAB,
    "explainers.methods.nem_u.NEMU": _NEM,
    "explainers.methods.nem_t.NEMt": _NEM,
    "explainers.methods.ra_nem.RaNEM": _NEM
    | {"selection": ("sampling", "draw", "shared_noise", "threshold")},
    "explainers.methods.sloc.SLOC": {
        "patches": ("sides", "probability", "tuning_masks"),
        "solver": ("solver", "steps", "lr", "lr_decay", "monitor"),
    },
    "explainers.metrics.faithfulness.CurveAUC": {
        "area": ("rule", "part", "skip_first", "scale"),
        "fill_options": ("sigma", "bank", "seed"),
    },
    "explainers.explanandum.classifier.Classifier": {
        "optimizer": ("lr", "weight_decay", "schedule"),
    },
}


def find(path: str | Path) -> str:
    """The file at a path as given, else the packed file of this name.

    The folders `configs` and `checkpoints` are installed with the package, and stand beside it in a
    checkout. A path that begins with one of them is looked up there, which one line on stderr says.
    """
    path = str(path)
    folder, _, rest = path.replace("\\", "/").removeprefix("./").partition("/")
    if Path(path).exists() or folder not in ("configs", "checkpoints"):
        return path
    for home in (PACKAGE, PACKAGE.parent):  # of an installation, of a checkout
        if (packed := home / folder / rest).is_file():
            print(f"{path} is not here: {packed} is used", file=sys.stderr)
            return str(packed)
    return path


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint on the CPU, plain types and tensors only, under today's names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    file = find(path)
    if not Path(file).is_file():
        raise FileNotFoundError(f"checkpoint {path!r} does not exist")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint")
    plain = ("class_path", "hyper_parameters", "explanandum")
    described = {key: checkpoint[key] for key in plain if key in checkpoint}
    return {**checkpoint, **renew(described, "hyper_parameters")}


def read_explainer(path: str | Path) -> dict[str, Any]:
    """A checkpoint that names an explainer: class path, hyper-parameters, explanandum, state dict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    checkpoint = read_checkpoint(path)
    if "class_path" not in checkpoint or "explanandum" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of an explainer")
    return checkpoint


def renew(value: Any, arguments: str = "init_args") -> Any:
    """Plain data of an earlier version under today's names; anything else comes back as it is.

    Class paths and `package.module:callable` strings of modules that have moved are renamed, and
    arguments that became options of a group are moved there, in any nested dict or list.

    Args:
        value: Plain data, as a config file or a checkpoint holds it.
        arguments: Key of the arguments beside a `class_path`.

    Example:
        >>> renew({"class_path": "explainers.methods.rtis.RTIS", "init_args": {"lr": 0.1}})
        {'class_path': 'explainers.methods.rtis.RTIS', 'init_args': {'optimizer': {'lr': 0.1}}}
    """
    if isinstance(value, str):
        for old, new in MOVED.items():
            if value.startswith((f"{old}.", f"{old}:")):
                return new + value.removeprefix(old)
        return value
    if isinstance(value, list):
        return [renew(each, arguments) for each in value]
    if not isinstance(value, dict):
        return value
    renewed = {key: renew(each, arguments) for key, each in value.items()}
    groups = GROUPED.get(str(renewed.get("class_path")))
    if groups and isinstance(renewed.get(arguments), dict):
        renewed[arguments] = _grouped(renewed[arguments], groups)
    return renewed


def _grouped(arguments: dict[str, Any], groups: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Arguments with those of each group in a dict under its name."""
    members = {old: group for group, names in groups.items() for old in names}
    result: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in members and not isinstance(value, dict):
            # A group may be called as its own first member was: that member is its name today.
            key = "name" if name == members[name] else name
            result.setdefault(members[name], {})[key] = value
        elif name in groups and isinstance(value, dict):
            result[name] = {**value, **result.get(name, {})}
        else:
            result[name] = value
    return result


def read_state(path: str) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pth or .pt file, or in a `Classifier`'s .ckpt.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    file = find(path)
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"weights file {path!r} does not exist; relative paths start at the working directory"
        )
    if path.endswith(".ckpt"):
        return read_classifier(path)[1]
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(file)
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_classifier(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain arguments and the network's state dict in a checkpoint of `Classifier`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    checkpoint = read_checkpoint(path)
    hparams = checkpoint.get("hyper_parameters", {})
    state = {
        name.removeprefix("network."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    if "model" not in hparams or not state:
        raise ValueError(f"{path} is not a checkpoint of our Classifier")
    keys = (
        "model",
        "num_classes",
        "model_args",
        "multi_label",
        "class_names",
        "mean",
        "std",
        "input_size",
    )
    return {key: hparams.get(key) for key in keys}, state
