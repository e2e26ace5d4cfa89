"""Checkpoints are data: what they may name, so that loading one runs nothing and reads no other.

A checkpoint holds plain types and tensors. It names the class of an explainer, an architecture of a
classifier, and their arguments. The class must be one of this package, and the architecture one of
timm, torchvision or `CALLABLES`. Anything else needs the user's word, see `granting`. This is
checked before anything is imported or built. See SECURITY.md.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import Tensor

from explainers import files

# Functions that build a classifier, without reading anything but an installed package.
CALLABLES = ("explainers.explanandum.lite0:efficientnet_lite0",)
CLASSIFIER = "explainers.explanandum.classifier.Classifier"
# Arguments that read or download something. Checkpoints of ours never have them.
READING = {
    *("pretrained", "weights", "weights_key", "weights_backbone", "backbone_weights", "bank"),
    *("checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "trust"),
}
PACKAGE = __name__.partition(".")[0]
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
# Choices and names of layers or architectures, but no path, no address and no import.
NAME = re.compile(r"(torchvision/)?[\w.+ -]*")

_granted: ContextVar[frozenset[str]] = ContextVar("granted", default=frozenset())


@contextmanager
def granting(packages: Collection[str] | str | None) -> Iterator[None]:
    """Lets checkpoints name classes and functions of these packages, within the block.

    Args:
        packages: Names of packages or modules, such as "my_package". The ones inside them count.

    Raises:
        ValueError: If one is no name of a package.
    """
    given = [packages] if isinstance(packages, str) else list(packages or [])
    if wrong := [name for name in given if not re.fullmatch(r"\w+(\.\w+)*", str(name))]:
        raise ValueError(f"trust must be names of packages, such as my_package, got {wrong[0]!r}")
    token = _granted.set(_granted.get() | frozenset(given))
    try:
        yield
    finally:
        _granted.reset(token)


def trusted(module: str) -> bool:
    """Whether the user has given their word for a module, or for a package that contains it."""
    return any(module == name or module.startswith(f"{name}.") for name in _granted.get())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint on the CPU, plain types and tensors only, under today's names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    if not Path(files.find(path)).is_file():
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    try:
        checkpoint = files.load(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint: {error}") from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} is not a checkpoint: it has no state_dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} is not a checkpoint: its state_dict holds more than tensors")
    plain = ("class_path", "hyper_parameters", "explanandum", "trained")
    described = {key: checkpoint[key] for key in plain if key in checkpoint}
    for key, value in described.items():
        check_plain(value, f"{path}: {key}")
        if key != "class_path" and not isinstance(value, dict):
            raise ValueError(f"{path} is not a checkpoint: its {key} is no dict")
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
        if checkpoint["explanandum"].get("model") not in (None, *CALLABLES) and not whole:
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
    return arguments, checkpoint.get("trained", {}), state


def check_plain(value: Any, where: str) -> None:
    """Checks that a value is made of plain types.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            # The command line takes a key such as "model.class_path" apart at its dots.
            if not (isinstance(key, str) and key.isidentifier()):
                raise ValueError(f"{where} has the key {key!r}, expected a plain name")
            check_plain(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            check_plain(inner, where)
    elif not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"{where} holds a {type(value).__name__}, expected plain types")


def check_class(class_path: str, path: str) -> None:
    """Checks that a class may be imported because a checkpoint names it.

    Raises:
        ValueError: If it is neither of this package nor trusted.
    """
    module = class_path.rpartition(".")[0]
    own = module.partition(".")[0] == PACKAGE
    if not CLASS_PATH.fullmatch(class_path) or not (own or trusted(module)):
        raise ValueError(
            f"{path} names the class {class_path!r}, which is not of this package: if you trust "
            f"both, {_advice(module)}"
        )


def check_classifier(config: Mapping[str, Any], path: str) -> None:
    """Checks the architecture and the arguments of a classifier that a checkpoint names.

    Raises:
        ValueError: If they would import, read or download something that is not trusted.
    """
    model = config.get("model")
    if _names_class(config.get("model_args")):
        raise ValueError(f"{path} names a class among the model_args, which loading would build")
    if model is None:  # given by the user
        check_arguments(config.get("model_args") or {}, path)
        return
    if not isinstance(model, str):
        raise ValueError(f"{path} names the model {model!r}, expected the name of an architecture")
    if ":" in model:
        module = model.partition(":")[0]
        if model not in CALLABLES and not trusted(module):
            raise ValueError(
                f"{path} names the model {model!r}, a function that loading would call: if you "
                f"trust both, {_advice(module)}"
            )
    elif not NAME.fullmatch(model) or model.endswith((".ckpt", ".pth", ".pt", ".safetensors")):
        raise ValueError(
            f"{path} names the model {model!r}, expected an architecture of timm or torchvision: "
            "give the classifier, -c configs/explananda/<name>.yaml or explanandum=Explanandum(...)"
        )
    if ":" not in model or model in CALLABLES:
        check_arguments(config.get("model_args") or {}, path)
    for name in ("weights", "pretrained", "trust"):
        if config.get(name) is not None and (name != "pretrained" or config[name] is not False):
            raise ValueError(
                f"{path} names {name} {config[name]!r} of its classifier, and loading reads no "
                "other file: give the classifier, -c configs/explananda/<name>.yaml or "
                "explanandum=Explanandum(...)"
            )


def check_arguments(arguments: Any, path: str, name: str = "") -> None:
    """Checks the arguments of an explainer or an architecture that a checkpoint names.

    Raises:
        ValueError: If one would import, read or download something.
    """
    if isinstance(arguments, Mapping):
        for key, value in arguments.items():
            if key == "class_path":
                raise ValueError(f"{path} names the class {value!r} among its arguments")
            if key in READING and value is not None and value is not False:
                raise ValueError(
                    f"{path} sets {key} to {value!r}, and loading reads no other file: pass it "
                    f"yourself, {key}=... or a -c file"
                )
            check_arguments(value, path, key)
    elif isinstance(arguments, list | tuple):
        for value in arguments:
            check_arguments(value, path, name)
    elif isinstance(arguments, str) and not NAME.fullmatch(arguments):
        raise ValueError(
            f"{path} sets {name} to {arguments!r}, expected a plain name: loading neither imports "
            "nor reads what a checkpoint names"
        )


def _names_class(value: Any) -> bool:
    """Whether a class path is anywhere in nested dicts and lists, which the parser would build."""
    if isinstance(value, Mapping):
        return "class_path" in value or any(map(_names_class, value.values()))
    return isinstance(value, list | tuple) and any(map(_names_class, value))


def _advice(module: str) -> str:
    root = module.partition(".")[0]
    return f"add --trust {root} (in Python, trust=[{root!r}])"
