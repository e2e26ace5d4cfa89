"""Checkpoints as plain data that is checked before anything is built from it, see `trust`."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from explainers import files
from explainers.trust import (
    CLASSIFIER,
    WITH_WEIGHTS,
    check_arguments,
    check_class,
    check_classifier,
    check_plain,
    check_types,
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint on the CPU, plain types and tensors only, under today's names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    if not Path(files.find(path)).is_file():
        beside = [each.as_posix() for each in Path(path).parent.glob("*.ckpt")]
        near = difflib.get_close_matches(Path(path).as_posix(), beside, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist{advice}")
    try:
        checkpoint = files.load(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint: {error}") from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} is not a checkpoint: it has no state_dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} is not a checkpoint: its state_dict holds more than tensors")
    plain = ("class_path", "hyper_parameters", "explanandum", "trained", "cost")
    described = {key: checkpoint[key] for key in plain if key in checkpoint}
    for key, value in described.items():
        check_plain(value, f"{path}: {key}")
        if key != "class_path" and not isinstance(value, dict):
            raise ValueError(f"{path} is not a checkpoint: its {key} is no dict")
    if not all(isinstance(each, int | float) for each in described.get("cost", {}).values()):
        raise ValueError(f"{path} is not a checkpoint: its cost holds more than numbers")
    return {**checkpoint, **files.renew(described, "hyper_parameters")}


def read_explainer(
    path: str | Path, given: Collection[str] = (), known: Collection[str] | None = ()
) -> dict[str, Any]:
    """A checkpoint that names an explainer: class path, hyper-parameters, explanandum, state dict.

    Args:
        path: Path of the file.
        given: Names of the arguments that the user passes instead of those in the file. With
            "explanandum", the classifier that the file names is not built.
        known: Class paths that the user names as well. None: the class is not taken from the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, or names what is not trusted.
    """
    return check_explainer(read_checkpoint(path), str(path), given, known)


def check_explainer(
    checkpoint: dict[str, Any],
    path: str,
    given: Collection[str] = (),
    known: Collection[str] | None = (),
) -> dict[str, Any]:
    """Checks the checkpoint of an explainer that is already read, see `read_explainer`."""
    if "model" not in checkpoint.get("explanandum", {}):
        raise ValueError(f"{path} is not a checkpoint of an explainer")
    if not isinstance(checkpoint.get("class_path"), str):
        raise ValueError(f"{path} is not a checkpoint of an explainer: it names no class")
    if known is not None and checkpoint["class_path"] not in known:
        check_class(checkpoint["class_path"], path)
    stored = checkpoint.get("hyper_parameters", {})
    arguments = {name: value for name, value in stored.items() if name not in given}
    check_arguments(arguments, path)
    if "explanandum" not in given:
        check_classifier(checkpoint["explanandum"], path)
        whole = any(name.startswith("explanandum.") for name in checkpoint["state_dict"])
        if checkpoint["explanandum"].get("model") not in (None, *WITH_WEIGHTS) and not whole:
            raise ValueError(
                f"{path} does not hold the weights of its classifier, "
                f"{checkpoint['explanandum']['model']}: give the classifier, "
                "-c configs/explananda/<name>.yaml or explanandum=Explanandum(...)"
            )
    return {**checkpoint, "hyper_parameters": arguments}


def read_classifier(
    path: str | Path, given: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Plain arguments, facts and the network's state dict in a checkpoint of `Classifier`.

    The facts are the image size that it was trained at, `input_size`, and its accuracy on the last
    validation, `expected_accuracy`, if the checkpoint has them.

    Args:
        path: Path of the file.
        given: Names of the arguments that the user passes instead of those in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, or names what is not trusted.
    """
    checkpoint = read_checkpoint(path)
    plain = {"class_path": CLASSIFIER, "init_args": checkpoint.get("hyper_parameters", {})}
    arguments = files.renew(plain)["init_args"]
    state = {
        name.removeprefix("network."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    if not state or not {"model", "num_classes"} <= {*arguments, *given}:
        raise ValueError(
            f"{path} is not a checkpoint of our Classifier; of another network, "
            f"give the architecture as model and {path} as weights"
        )
    arguments = {name: value for name, value in arguments.items() if name not in given}
    check_classifier(arguments, str(path))
    check_types(trained := checkpoint.get("trained", {}), str(path))
    return arguments, trained, state


@contextmanager
def building(path: str) -> Iterator[None]:
    """Tells which file is at fault when arguments of its own cannot be taken.

    Raises:
        ValueError: If a class does not take what the file holds.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError) as error:
        text = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} holds arguments that cannot be used ({text})") from error
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
