"""Reading files of weights as plain data, each file once; names of earlier versions."""

import pickle
import re
import sys
import zipfile
from argparse import Namespace
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


def load(path: str | Path) -> Any:
    """Tensors and plain types in a file of torch or safetensors. Nothing else is unpickled.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is something else. The message says what, without the path.
    """
    file = find(path)
    with open(file, "rb") as stream:
        start = stream.read(64)
    size = Path(file).stat().st_size
    header = 8 + int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header < 8 + 100_000_000:  # safetensors, whatever its name
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except Exception as error:
            raise ValueError(_fault(file, start, error)) from error
    if size and zipfile.is_zipfile(file) and _is_scripted(file):
        raise ValueError(
            "it is a TorchScript program: "
            "save torch.jit.load(FILE).state_dict() by torch.save, and use that file"
        )
    try:
        # A stream, because torch judges a path by its ending. A Namespace is plain arguments.
        with open(file, "rb") as stream, torch.serialization.safe_globals([Namespace]):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(_fault(file, start, error)) from error


def _is_scripted(file: str) -> bool:
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _fault(file: str, start: bytes, error: Exception) -> str:
    """What a file is that could not be read, from its first bytes and from the error."""
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer instead of the file: run git lfs pull"
    if start.lstrip().startswith(b"<"):
        return "it is a web page: download the file itself"
    unpickled = isinstance(error, pickle.UnpicklingError)
    zipped, old = start.startswith(b"PK"), start.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF")
    whole = zipfile.is_zipfile(file) if zipped else unpickled
    if not whole and (zipped or old or start[8:9] == b"{"):
        return "it is incomplete: copy or download it again"
    found = re.search(r"GLOBAL ([\w.]+)|class (\S+)", str(error))
    if start.startswith(b"\x80") or (zipped and unpickled):
        named = f" ({found[1] or found[2]})" if found else ""
        return (
            f"it holds Python objects{named}, which are never loaded: save the weights alone, "
            "torch.save(network.state_dict(), FILE), where it was made"
        )
    return "it is no file of torch or safetensors"


def read_states(path: str) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a file of weights, by their place in it, such as "model" or "".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is something else.
    """
    if not Path(find(path)).is_file():
        raise FileNotFoundError(
            f"weights file {path!r} does not exist; relative paths start at the working directory"
        )
    try:
        content = load(path)
    except ValueError as error:
        raise ValueError(f"{path} is no file of weights: {error}") from error
    if not (states := _states(content)):
        got = f"a dict of {list(content)[:5]}" if isinstance(content, dict) else type(content)
        raise ValueError(f"{path} is no file of weights: expected a state dict, got {got}")
    return states


def _states(content: Any, place: str = "") -> dict[str, dict[str, Tensor]]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return {}
    inner: dict[str, dict[str, Tensor]] = {}
    for key, value in content.items():
        inner |= _states(value, f"{place}.{key}".removeprefix("."))
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    # Among tensors, other values are the version of a module or the like.
    return inner or ({place: tensors} if len(tensors) > len(content) / 2 else {})


def read_state(path: str) -> dict[str, Tensor]:
    """The only state dict in a file of weights, or that of the network in a `Classifier`'s .ckpt.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is something else, or holds several.
    """
    states = read_states(path)
    if path.endswith(".ckpt"):
        states = {"": states["state_dict"]} if "state_dict" in states else states
        prefix = "network."
    else:
        prefix = "module."
    if len(states) > 1:
        raise ValueError(f"{path} holds several state dicts: {', '.join(states)}")
    return {name.removeprefix(prefix): v for name, v in next(iter(states.values())).items()}
