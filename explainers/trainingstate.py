"""The state of a training in a checkpoint: what a fit may take from a file of a stranger."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

OLDEST = "2.6"  # Lightning that can have written a checkpoint of ours
# Options of an optimizer that choose its code, not its numbers.
KERNELS = ("foreach", "fused", "capturable", "differentiable")


def check_state(checkpoint: Mapping[str, Any], path: str) -> None:
    """Checks the parts that are taken up before a callback sees them.

    Raises:
        ValueError: If the file cannot be resumed from, or names files that are not its own.
    """
    if not {"loops", "optimizer_states"} <= checkpoint.keys():
        raise ValueError(
            f"{path} holds weights without the state of their training: no fit can go on from it; "
            "give the file that was written to resume from, such as last.ckpt"
        )
    written = checkpoint.get("pytorch-lightning_version")
    try:
        old = Version(str(written)) < Version(OLDEST)
    except InvalidVersion:
        old = True
    if old:
        raise ValueError(
            f"{path} was written by Lightning {str(written)[:20]!r}, and a fit goes on from "
            f"checkpoints of {OLDEST} or newer: start a new fit"
        )
    callbacks = checkpoint.get("callbacks", {})
    # Lightning takes "~" and "file:" for a place.
    for text in _texts(callbacks):
        if re.match(r"~|[\w+.-]+:", text) or "::" in text or ".." in Path(text).parts:
            raise ValueError(
                f"{path} lists {text!r} among its files, which leads out of its folder"
            )
    states = callbacks.values() if isinstance(callbacks, Mapping) else ()
    for state in states:
        if isinstance(state, Mapping) and "best_model_path" in state:
            _check_saved(state, path)


def _check_saved(state: Mapping[str, Any], path: str) -> None:
    """Checks the files of a ModelCheckpoint, which deletes those that are no longer the best.

    It deletes whole folders, too. A name with a metric such as `val/loss` lies in one of its own.
    """
    folder = Path(str(state.get("dirpath")))
    for key, value in state.items():
        for file in () if key == "dirpath" else _texts(value):
            if file and not (file.endswith(".ckpt") and folder in Path(file).parents):
                raise ValueError(
                    f"{path} lists {file!r} as its {key}, which is no checkpoint in its folder"
                )


def settle_optimizer(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, path: str
) -> dict[str, Any]:
    """The state of an optimizer as this optimizer can safely load it.

    Fused kernels read and write memory as far as the parameter says, whatever the state's own size.

    Args:
        state: State of an optimizer, as in a checkpoint.
        optimizer: Optimizer that is to go on from it.
        path: Path of the file, for messages.

    Raises:
        ValueError: If the state is not one of this optimizer.
    """
    own = optimizer.param_groups
    groups, values = state["param_groups"], state["state"]
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(group["params"]) for group in own]:
        raise ValueError(
            f"{path} holds the state of {sum(sizes)} parameters in {len(sizes)} groups, expected "
            f"{sum(len(group['params']) for group in own)} in {len(own)}: it is of another network"
        )
    groups = [
        {**old, **{key: new[key] for key in KERNELS if key in new}}
        for old, new in zip(groups, own, strict=True)
    ]
    if "fused" not in own[0]:  # its states may have other shapes
        return {**state, "param_groups": groups}
    parameters = {
        number: parameter
        for old, new in zip(groups, own, strict=True)
        for number, parameter in zip(old["params"], new["params"], strict=True)
    }
    values = {
        number: {
            name: _like(value, parameters[number], f"{path}: optimizer state {name}")
            for name, value in kept.items()
        }
        for number, kept in values.items()
        if number in parameters
    }
    return {**state, "param_groups": groups, "state": values}


def _like(value: Any, parameter: torch.Tensor, what: str) -> Any:
    """A tensor of a state, laid out in memory as its parameter; scalars are left alone."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape not in ((), parameter.shape) or value.layout != torch.strided:
        found = list(value.shape) if value.layout == torch.strided else value.layout
        raise ValueError(
            f"{what} has the shape {found}, expected {list(parameter.shape)} or a single number: "
            "it is of another network, or damaged"
        )
    return torch.empty_like(parameter if value.ndim else value, dtype=value.dtype).copy_(value)


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_texts(key), *_texts(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
