"""Names of methods, and the default folders of runs, named after what runs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = "runs"


def class_path(kind: type) -> str:
    """Import path of a class, as configuration files and checkpoints name it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def method_name(class_path: str) -> str:
    """Name of a method in tables: its file if the class name begins like it, else the class name.

    The class name is converted to snake case.

    Example:
        >>> method_name("explainers.methods.nem_u.NEMU")
        'nem_u'
        >>> method_name("explainers.methods.cam.GradCAMPlusPlus")
        'grad_cam_plus_plus'
    """
    module, _, name = class_path.rpartition(".")
    file = module.rpartition(".")[2]
    if file and name.lower().startswith(file.replace("_", "")):
        return file
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def run_folder(command: str, config: Mapping[str, Any], checkpoint: str | None) -> str:
    """Folder of a run that is given none: a fit's own folder, or one of a test below the fit's.

    Args:
        command: "fit", "test", "predict" or "validate".
        config: The whole configuration, as plain data.
        checkpoint: Path of the checkpoint under test, if any.

    Example:
        >>> data = {"class_path": "datamodules.folder.ImageFolder", "init_args": {"root": "cats"}}
        >>> config = {"model": {"class_path": "explainers.methods.rise.RISE"}, "data": data}
        >>> run_folder("test", config, None)
        'runs/rise/test-image_folder-cats'
    """
    kind = data_name(_dict(config, "data"))
    if command == "fit":
        return f"{ROOT}/{subject(config)}-{kind}"
    own = subject(config, method=command != "validate")  # which measures the classifier alone
    base = str(Path(checkpoint).parent) if checkpoint else f"{ROOT}/{own}"
    return f"{base}/{command}-{kind}"


def below_fit(folder: str, command: str, config: Mapping[str, Any]) -> str:
    """The folder of a test: the given one, or a folder inside it if it is that of a fit."""
    if command == "fit" or not any(Path(folder).glob("*.ckpt")):
        return folder
    return f"{folder}/{command}-{data_name(_dict(config, 'data'))}"


def subject(config: Mapping[str, Any], method: bool = True) -> str:
    """Method and classifier, such as "ra_nem-resnet50", or "classifier-resnet50" of a training.

    Args:
        config: The whole configuration, as plain data.
        method: Whether to name the method. A model without a classifier is named in any case.
    """
    model = _dict(config, "model")
    arguments = _dict(model, "init_args")
    name = method_name(str(model.get("class_path", "model")))
    if _dict(config, "score").get("methods"):
        name = f"compare_{name}"
    classifier = _dict(_dict(arguments, "explanandum"), "init_args") or arguments
    given = [classifier.get("model"), classifier.get("weights")]
    parts = [part for part in (word(value) for value in given if isinstance(value, str)) if part]
    return "-".join([name, *parts] if method or not parts else parts)


def data_name(data: Mapping[str, Any]) -> str:
    """Data set and folder, such as "image_folder-cats"."""
    path = str(data.get("class_path", "data"))
    root = _dict(data, "init_args").get("root")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path.rpartition(".")[2]).lower()
    return f"{name}-{word(str(root))}" if root and word(str(root)) else name


def word(value: str) -> str:
    """The telling part of a path or a model's name, without characters that a folder cannot have.

    Example:
        >>> word("my.nets:build"), word("weights/my net.pth"), word("runs/ra_nem/best.ckpt")
        ('build', 'my_net', 'ra_nem')
    """
    stem = re.sub(r"\.(ckpt|pth|pt|bin|safetensors)$", "", value.rstrip("/\\"))
    parts = re.split(r"[/:\\]", stem)
    name = parts[-2] if len(parts) > 1 and parts[-1] in ("last", "best", "weights") else parts[-1]
    return re.sub(r"[^\w.+-]+", "_", name).strip("._")[:60]


def _dict(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}
