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
from typing import Any

# Functions that build a classifier, and read nothing but an installed package.
WITH_WEIGHTS = ("explainers.explanandum.lite0:efficientnet_lite0",)
WITHOUT_WEIGHTS = ("explainers.explanandum.cifar_resnet:cifar_resnet",)
CALLABLES = (*WITH_WEIGHTS, *WITHOUT_WEIGHTS)
CLASSIFIER = "explainers.explanandum.classifier.Classifier"
# Arguments that read or download something. Checkpoints of ours never have them.
READING = {
    *("pretrained", "weights", "weights_key", "weights_backbone", "backbone_weights", "bank"),
    *("checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "trust"),
}
PACKAGE = __name__.partition(".")[0]
# Types of the arguments of a classifier, and of the entries if they are lists.
TYPES: dict[str, tuple[Any, Any, str]] = {
    "num_classes": (int | None, object, "an integer or None"),
    "model_args": (dict | None, object, "a dict or None"),
    "multi_label": (bool | None, object, "True or False"),
    "in_checkpoint": (bool | None, object, "True or False"),
    "expected_accuracy": (int | float | None, object, "a number or None"),
    "classes": (list | None, int, "a list of integers or None"),
    "input_size": (list | None, int, "a list of integers or None"),
    "mean": (list | tuple | None, int | float, "a list of numbers"),
    "std": (list | tuple | None, int | float, "a list of numbers"),
    "class_names": (list | tuple | None, str, "a list of names or None"),
    "feature_layers": (list | None, str, "a list of names or None"),
}
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # which a terminal obeys
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
# Choices and names of layers or architectures, but no path, no address and no import.
NAME = re.compile(r"(torchvision/)?[\w.+ -]*")
FILES = (".ckpt", ".pth", ".pt", ".ts", ".pt2", ".onnx", ".safetensors")

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
    elif isinstance(value, str) and CONTROL.search(value):
        raise ValueError(f"{where} holds control characters: {value!r}")


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
    check_types(config, path)
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
    elif not NAME.fullmatch(model) or model.endswith(FILES):
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


def check_types(config: Mapping[str, Any], path: str) -> None:
    """Checks the types of the arguments of a classifier.

    Raises:
        ValueError: If one has another type.
    """
    for name, (kind, inner, words) in TYPES.items():
        value = config.get(name)
        entries = value if isinstance(value, list | tuple) else ()
        if not (isinstance(value, kind) and all(isinstance(each, inner) for each in entries)):
            raise ValueError(f"{path} sets {name} to {value!r}, expected {words}")


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
    elif isinstance(arguments, str) and (
        not NAME.fullmatch(arguments) or arguments.lower().endswith(FILES)
    ):
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
    if root == PACKAGE or not (root.isidentifier() and root.isascii()):  # or a name of a hub
        return "give your own, in a -c file or in Python"
    return f"add --trust {root} (in Python, trust=[{root!r}])"
