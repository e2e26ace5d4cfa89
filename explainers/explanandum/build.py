"""Plain classifiers by name, their weights, and the input settings that their libraries state."""

import difflib
import functools
import importlib
from pathlib import Path
from typing import Any

from torch import nn

from explainers.explanandum import weights as weight_files
from explainers.explanandum import wrappers


def build(
    model: str,
    num_classes: int | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    new_head: bool = False,
    model_args: dict[str, Any] | None = None,
    weights_key: str | None = None,
) -> nn.Module:
    """Builds a plain classifier from normalized images (B, 3, H, W) to logits (B, num_classes).

    Args:
        model: Name of a timm model ("resnet50"), "torchvision/<name>", or
            "package.module:callable".
        num_classes: Number of outputs of the head. None keeps that of the architecture.
        pretrained: Whether to download the library's default weights.
        weights: Path of a local file of torch or safetensors with the network's state dict.
        new_head: Whether to accept weights whose head has another shape. The new head then keeps
            its initialization.
        model_args: Further keyword arguments of the architecture, such as `img_size` of a ViT.
        weights_key: Entry of the weights file, or prefix of its names, if several fit.

    Raises:
        ValueError: If the name is unknown, the arguments are wrong, or the weights do not fit.
        FileNotFoundError: If `weights` does not exist.
    """
    import timm  # imported here because it is slow, which would delay --help

    network: nn.Module
    kwargs = dict(model_args or {}) | ({} if num_classes is None else {"num_classes": num_classes})
    if ":" in model:
        network = wrappers.unwrap(_call(model, kwargs))
    elif model.startswith("torchvision/"):
        network = _build_torchvision(model.removeprefix("torchvision/"), pretrained, kwargs)
    elif timm.is_model(model):
        try:
            network = timm.create_model(model, pretrained=pretrained, **kwargs)
        except TypeError as error:
            raise ValueError(f"{model} does not take {kwargs}: {error}") from error
    elif Path(model).suffix in (".pth", ".pt", ".bin", ".safetensors"):
        raise ValueError(
            f"{model!r} is a file of weights: give it as weights, and the architecture as model"
        )
    else:
        near = difflib.get_close_matches(model, timm.list_models(), 5)
        raise ValueError(
            f"unknown model {model!r}: expected a timm name, 'torchvision/<name>', "
            f"'package.module:callable' or a Classifier checkpoint (.ckpt); near: {near}"
        )
    if weights is not None:
        weight_files.load_weights(network, weights, new_head, weights_key)
    return network


def _call(model: str, kwargs: dict[str, Any]) -> nn.Module:
    """What "package.module:callable" returns; the callable may be a method, as of a class."""
    package, _, name = model.partition(":")
    try:
        found = functools.reduce(getattr, name.split("."), importlib.import_module(package))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model {model!r} cannot be imported: {error}") from error
    try:
        network: Any = found(**kwargs)  # type: ignore[operator]
    except TypeError as error:
        raise ValueError(f"{model} does not take {kwargs}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{model} must return a torch.nn.Module, got {type(network).__name__}")
    return network


def _build_torchvision(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        near = difflib.get_close_matches(name, models.list_models(module=models), 5)
        raise ValueError(f"unknown torchvision classifier {name!r}; near: {near}")
    network: nn.Module = models.get_model(name, weights=None, **kwargs)
    if pretrained:
        state = models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
        weight_files.load_state(network, state, new_head=True, source=f"torchvision's {name}")
    return network


def data_config(model: str, network: nn.Module) -> dict[str, Any]:
    """What the network's own library states of it, or None for each entry.

    Args:
        model: Name that it was built by, empty for a module of the user.
        network: The network.

    Returns:
        Its `mean`, `std`, `input_size` [H, W] and `class_names`, and the number of classes of the
        library's own weights, `pretrained_classes`.
    """
    if model.startswith("torchvision/"):
        stated = _torchvision_config(model.removeprefix("torchvision/"), network)
    elif getattr(network, "pretrained_cfg", None) is not None:
        stated = _timm_config(network)
    else:
        stated = _hugging_face_config(network)
    keys = ("mean", "std", "input_size", "class_names", "pretrained_classes")
    return {key: stated.get(key) for key in keys}


def _torchvision_config(name: str, network: nn.Module) -> dict[str, Any]:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    preset, made_for = weights.transforms(), getattr(network, "image_size", None)  # of a ViT
    return {
        "mean": list(preset.mean),
        "std": list(preset.std),
        "input_size": [made_for or preset.crop_size[0]] * 2,
        "class_names": weights.meta["categories"],
        "pretrained_classes": len(weights.meta["categories"]),
    }


def _timm_config(network: Any) -> dict[str, Any]:
    import timm

    config = timm.data.resolve_model_data_config(network)
    # With model_args {img_size: ...}, a ViT takes another size than its pretrained weights.
    made_for = getattr(getattr(network, "patch_embed", None), "img_size", None)
    count, names = network.pretrained_cfg.get("num_classes"), None
    if count == 1000:
        info = timm.data.ImageNetInfo()
        names = [info.index_to_description(i) for i in range(1000)]
    return {
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "input_size": list(made_for or config["input_size"][1:]),
        "class_names": names,
        "pretrained_classes": count,
    }


def _hugging_face_config(network: Any) -> dict[str, Any]:
    config = getattr(network, "config", None)
    labels, size = getattr(config, "id2label", None), getattr(config, "image_size", None)
    if not isinstance(labels, dict):
        return {}
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    named = not all(name.startswith("LABEL_") for name in names)  # their names of nothing
    return {
        "input_size": [size] * 2 if isinstance(size, int) else size and list(size),
        "class_names": names if named else None,
    }
