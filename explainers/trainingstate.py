"""The state of a training in a checkpoint: what a fit may take from a file of a stranger."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

OLDEST = "2.6"  # Lightning that can have written a checkpoint of ours
FILES = ("best_model_path", "kth_best_model_path", "last_model_path")  # of a ModelCheckpoint
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
        old = not isinstance(written, str) or Version(written) < Version(OLDEST)
    except InvalidVersion:
        old = True
    if old:
        raise ValueError(
            f"{path} was written by Lightning {str(written)[:20]!r}, and a fit goes on from "
            f"checkpoints of {OLDEST} or newer: start a new fit"
        )
    callbacks = checkpoint.get("callbacks")
    if not isinstance(callbacks, Mapping):  # Lightning would not ask any callback
        raise ValueError(f"{path} is damaged: it lacks the states of the callbacks")
    # Lightning takes "~" and "file:" for a place.
    for text in _texts(callbacks):
        if re.match(r"~|[\w+.-]+:", text) or "::" in text or ".." in Path(text).parts:
            raise ValueError(
                f"{path} lists {text!r} among its files, which leads out of its folder"
            )
    for state in callbacks.values():
        if isinstance(state, Mapping) and "best_model_path" in state:
            _check_saved(state, path)


def _check_saved(state: Mapping[str, Any], path: str) -> None:
    """Checks the files of a ModelCheckpoint, which deletes those that are no longer the best.

    It deletes them only below its own folder, but there anything, also whole folders.
    """
    best = state.get("best_k_models", {})
    check_like(best, dict.fromkeys(best, 0.0) if isinstance(best, Mapping) else {}, path)
    files = [(key, state.get(key, "")) for key in FILES]
    files += [("best_k_models", name) for name in best]
    for key, file in files:
        if not isinstance(file, str):
            raise ValueError(f"{path} is damaged: its {key} is {file!r}, no path")
        if file and (not file.endswith(".ckpt") or Path(file).is_dir()):
            raise ValueError(f"{path} lists {file!r} as its {key}, which is no checkpoint file")
    if state.get("kth_best_model_path", "") not in ("", *best):
        raise ValueError(f"{path} is damaged: its kth_best_model_path is not among the best")


def check_like(stored: Any, own: Any, where: str) -> None:
    """Checks that a stored state has the types of one at hand, as far as both have the same keys.

    Args:
        stored: What a file holds.
        own: What the object at hand holds. None stands for anything.
        where: Path of the file and of the value, for messages.

    Raises:
        ValueError: If a value has another type, or a list another length.
    """
    if isinstance(own, Mapping):
        good = isinstance(stored, Mapping)
        for key in own.keys() & stored.keys() if good else ():
            check_like(stored[key], own[key], f"{where}: {key}")
    elif isinstance(own, list | tuple):
        good = isinstance(stored, list | tuple) and len(stored) == len(own)
        for one, other in zip(stored, own, strict=True) if good else ():
            check_like(one, other, where)
    elif isinstance(own, bool | str):
        good = isinstance(stored, type(own))
    elif isinstance(own, int | float | torch.Tensor):
        good = isinstance(stored, int | float) and not isinstance(stored, bool)
        good = good or (isinstance(stored, torch.Tensor) and stored.numel() == 1)
        if good and isinstance(own, int):  # counters that torch can hold
            good = bool(abs(stored) < 2**62)
    else:
        good = True
    if not good:
        shown = " ".join(repr(stored).split())
        raise ValueError(f"{where} is damaged: expected a value like {own!r}, got {shown[:60]}")


def check_schedulers(states: Any, own: Sequence[Any], path: str) -> None:
    """Checks the states of schedules of learning rates, which become attributes of theirs.

    Args:
        states: What a file holds.
        own: Schedules at hand.
        path: Path of the file.

    Raises:
        ValueError: If a state is not one of its schedule.
    """
    known = [schedule.state_dict() for schedule in own]
    check_like(states, known, f"{path}: lr_schedulers")
    for state, schedule, mine in zip(states, own, known, strict=True):
        for name in state.keys() - mine.keys():
            if hasattr(schedule, str(name)):  # a method, say; what it does not know has no effect
                raise ValueError(f"{path}: lr_schedulers is damaged: {name} is no state")


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
    check_like(state, {"state": {}, "param_groups": [{}] * len(own)}, f"{path}: optimizer")
    groups, values = state["param_groups"], state["state"]
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(group["params"]) for group in own]:
        raise ValueError(
            f"{path} holds the state of {sum(sizes)} parameters in {len(sizes)} groups, expected "
            f"{sum(len(group['params']) for group in own)} in {len(own)}: it is of another network"
        )
    for old, new in zip(groups, own, strict=True):
        options = {key: value for key, value in new.items() if key not in ("params", *KERNELS)}
        check_like(old, options, f"{path}: optimizer")
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
