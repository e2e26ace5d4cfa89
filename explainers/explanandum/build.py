"""Plain classifiers by name, their weights, and the input settings that their libraries state."""

import importlib
from typing import Any

from torch import nn

from explainers.explanandum import weights as weight_files


def build(
    model: str,
    num_classes: int | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    new_head: bool = False,
    model_args: dict[str, Any] | None = None,
) -> nn.Module:
    """Builds a plain classifier from normalized images (B, 3, H, W) to logits (B, num_classes).

    Args:
        model: Name of a timm model ("resnet50"), "torchvision/<name>", or
            "package.module:callable".
        num_classes: Number of outputs of the head. None keeps that of the architecture.
        pretrained: Whether to download the library's default weights.
        weights: Path of a local `.safetensors`, `.pth` or `.pt` file with the network's state dict.
        new_head: Whether to accept weights whose head has another shape. The new head then keeps
            its initialization.
        model_args: Further keyword arguments of the architecture, such as `img_size` of a ViT.

    Raises:
        ValueError: If the name is unknown or the weights do not fit.
        FileNotFoundError: If `weights` does not exist.
    """
    import timm  # imported here because it is slow, which would delay --help

    network: nn.Module
    kwargs = dict(model_args or {}) | ({} if num_classes is None else {"num_classes": num_classes})
    if ":" in model:
        module, _, name = model.partition(":")
        network = getattr(importlib.import_module(module), name)(**kwargs)
    elif model.startswith("torchvision/"):
        network = _build_torchvision(model.removeprefix("torchvision/"), pretrained, kwargs)
    elif timm.is_model(model):
        network = timm.create_model(model, pretrained=pretrained, **kwargs)
    else:
        near = timm.list_models(f"*{model.split('.')[0].split('_')[0]}*")[:5]
        raise ValueError(
            f"unknown model {model!r}: expected a timm name, 'torchvision/<name>', "
            f"'package.module:callable' or a Classifier checkpoint (.ckpt); near: {near}"
        )
    if weights is not None:
        weight_files.load_weights(network, weights, new_head)
    return network


def _build_torchvision(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError(
            f"unknown torchvision classifier {name!r}; see torchvision.models.list_models()"
        )
    network: nn.Module = models.get_model(name, weights=None, **kwargs)
    if pretrained:
        state = models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
        weight_files.load_state(network, state, new_head=True, source=f"torchvision's {name}")
    return network


def data_config(model: str, network: nn.Module) -> dict[str, Any]:
    """Mean, std, input_size [H, W] and class names, as stated by the network's own library."""
    if model.startswith("torchvision/"):
        from torchvision import models

        weights = models.get_model_weights(model.removeprefix("torchvision/")).DEFAULT
        preset = weights.transforms()
        return {
            "mean": list(preset.mean),
            "std": list(preset.std),
            "input_size": [preset.crop_size[0]] * 2,
            "class_names": weights.meta["categories"],
        }
    declared: Any = getattr(network, "pretrained_cfg", None)
    if declared is not None:
        import timm

        config = timm.data.resolve_model_data_config(network)
        # With model_args {img_size: ...}, a ViT takes another size than its pretrained weights.
        made_for = getattr(getattr(network, "patch_embed", None), "img_size", None)
        names = None
        if declared.get("num_classes") == 1000:
            info = timm.data.ImageNetInfo()
            names = [info.index_to_description(i) for i in range(1000)]
        return {
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "input_size": list(made_for or config["input_size"][1:]),
            "class_names": names,
        }
    return {"mean": None, "std": None, "input_size": None, "class_names": None}
