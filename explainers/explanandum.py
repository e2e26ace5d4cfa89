"""The explanandum: a frozen image classifier, and the builders of the plain network inside it."""

import importlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as torchvision_models


def build(
    model: str,
    num_classes: int | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    new_head: bool = False,
    model_args: dict[str, Any] | None = None,
) -> nn.Module:
    """Build a plain classifier from normalised images (B, 3, H, W) to logits (B, num_classes).

    Args:
        model: A timm name ("resnet50"), "torchvision/<name>", or "package.module:callable".
        num_classes: Width of the head; None keeps the architecture's own.
        pretrained: Download the library's default weights.
        weights: A local `.safetensors`, `.pth` or `.pt` file with the network's state dict.
        new_head: Accept weights whose head has another shape, and leave the new head at its initialisation.
        model_args: Further keyword arguments of the architecture, such as `img_size` of a ViT.

    Raises:
        ValueError: If the name is unknown or the weights do not fit.
        FileNotFoundError: If `weights` does not exist.
    """
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
        load_weights(network, weights, new_head)
    return network


def _build_torchvision(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    if name not in torchvision_models.list_models(module=torchvision_models):
        raise ValueError(f"unknown torchvision classifier {name!r}; see torchvision.models.list_models()")
    network = torchvision_models.get_model(name, weights=None, **kwargs)
    if pretrained:
        state = torchvision_models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
        _load_state(network, state, new_head=True, source=f"torchvision's {name}")
    return network


def load_weights(network: nn.Module, path: str, new_head: bool = False) -> None:
    """Load a state dict file into a network; half precision is widened."""
    _load_state(network, read_state(path), new_head, source=path)


def read_state(path: str) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pth or .pt file, without a wrapper's "module." prefix.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights file {path!r} does not exist; relative paths start at the working directory")
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    return {name.removeprefix("module."): value for name, value in state.items()}


def _load_state(network: nn.Module, state: dict[str, Tensor], new_head: bool, source: str) -> None:
    own = network.state_dict()
    other = [name for name in state if name in own and own[name].shape != state[name].shape]
    if other and not new_head:
        name = other[0]
        raise ValueError(
            f"{source}: {name} has shape {tuple(state[name].shape)}, the network expects "
            f"{tuple(own[name].shape)}; set num_classes to the file's, or new_head: true for a new head"
        )
    result = network.load_state_dict({n: v for n, v in state.items() if n not in other}, strict=False)
    wrong = sorted(set(result.missing_keys) - set(other)) + result.unexpected_keys
    if wrong:
        raise ValueError(f"{source} does not fit {type(network).__name__}: {len(wrong)} keys differ, first {wrong[0]!r}")


def data_config(model: str, network: nn.Module) -> dict[str, Any]:
    """Mean, std (3 floats each), input_size [H, W] and class names as the network's own library states them."""
    if model.startswith("torchvision/"):
        weights = torchvision_models.get_model_weights(model.removeprefix("torchvision/")).DEFAULT
        preset = weights.transforms()
        return {
            "mean": list(preset.mean),
            "std": list(preset.std),
            "input_size": [preset.crop_size[0]] * 2,
            "class_names": weights.meta["categories"],
        }
    if hasattr(network, "pretrained_cfg"):
        config = timm.data.resolve_model_data_config(network)
        names = None
        if network.pretrained_cfg.get("num_classes") == 1000:
            info = timm.data.ImageNetInfo()
            names = [info.index_to_description(i) for i in range(1000)]
        return {
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "input_size": list(config["input_size"][1:]),
            "class_names": names,
        }
    return {"mean": None, "std": None, "input_size": None, "class_names": None}


class Explanandum(nn.Module):
    """A frozen classifier: images (B, 3, H, W) in [0, 1] -> logits (B, num_classes).

    It normalises inside, its parameters never require gradients, and `train()` leaves it in eval mode, so
    BatchNorm and dropout stay as they were trained. Gradients with respect to the images do flow.

    Args:
        model: A timm name, "torchvision/<name>", "package.module:callable", the path of a `Classifier`
            checkpoint (.ckpt), or any module from normalised images to logits.
        weights: A local `.safetensors`, `.pth` or `.pt` file.
        pretrained: Download the library's weights.
        num_classes: Width of the head; None keeps the architecture's own.
        model_args: Further arguments of the architecture.
        multi_label: Probabilities by sigmoid (True) or softmax (False).
        classes: Keep only these logits, in this order, before the softmax or sigmoid.
        class_names: One name a class (of the kept ones, if `classes` is given).
        mean: Normalisation mean per channel of images in [0, 1]; None takes the model's own.
        std: Normalisation standard deviation per channel; None takes the model's own.
        input_size: [H, W] the model was made for; None takes the model's own.
        feature_layers: Module names of a pyramid, shallow to deep, for models that are not timm's.
        in_checkpoint: Write the weights into every explainer's checkpoint, so that one file is enough. False
            keeps checkpoints small; then the same arguments must find the weights again when loading.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: str | nn.Module,
        weights: str | None = None,
        pretrained: bool = False,
        num_classes: int | None = None,
        model_args: dict[str, Any] | None = None,
        multi_label: bool = False,
        classes: list[int] | None = None,
        class_names: list[str] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        input_size: list[int] | None = None,
        feature_layers: list[str] | None = None,
        in_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        self.pretrained, self.weights, self.in_checkpoint = pretrained, weights, in_checkpoint
        self.source = model if isinstance(model, str) else None
        state: dict[str, Tensor] = {}
        given: dict[str, Any] = {}
        if isinstance(model, str) and model.endswith(".ckpt"):
            given, state = _read_classifier(model)
            model, num_classes, model_args = given["model"], given["num_classes"], given["model_args"]
            multi_label, class_names = given["multi_label"], class_names or given["class_names"]
        self.architecture = model if isinstance(model, str) else None
        self.model_args, self.head_width = dict(model_args or {}), num_classes
        self.multi_label = multi_label
        if isinstance(model, str):
            self.model = build(model, num_classes, pretrained, weights, model_args=model_args)
            own = data_config(model, self.model) | {k: v for k, v in given.items() if v is not None}
        else:
            self.model, own = model, data_config("", model)
        if state:
            self.model.load_state_dict(state)
        self.input_size = list(input_size or own["input_size"] or (224, 224))
        self.feature_layers = feature_layers
        for name, value, default in (("mean", mean, [0.485, 0.456, 0.406]), ("std", std, [0.229, 0.224, 0.225])):
            channels = torch.tensor([float(v) for v in value or own[name] or default])
            self.register_buffer(name, channels.view(1, 3, 1, 1), persistent=False)

        self.model.requires_grad_(False)
        self.eval()
        self.head_classes = num_classes or self._count_classes()
        self.classes = list(classes) if classes is not None else None
        if self.classes and not 0 <= min(self.classes) <= max(self.classes) < self.head_classes:
            raise ValueError(f"classes must lie in [0, {self.head_classes - 1}], got {self.classes}")
        self.num_classes = len(self.classes) if self.classes else self.head_classes
        self.class_names = self._names(class_names, own["class_names"])

    def _count_classes(self) -> int:
        if isinstance(count := getattr(self.model, "num_classes", None), int):
            return count
        size = self.input_size
        with torch.no_grad():
            return int(self.model(torch.zeros(1, 3, *size)).shape[1])

    def _names(self, names: list[str] | None, own: list[str] | None) -> list[str]:
        if names is None and own is not None and len(own) == self.head_classes:
            names = [own[c] for c in self.classes] if self.classes else list(own)
        if names is None:
            names = [f"class {c}" for c in self.classes or range(self.num_classes)]
        if len(names) != self.num_classes:
            raise ValueError(f"expected {self.num_classes} class names, got {len(names)}")
        return list(names)

    @property
    def config(self) -> dict[str, Any]:
        """Plain arguments that rebuild this explanandum; a checkpoint holds them beside the weights."""
        stored = self.in_checkpoint
        return {
            "model": self.architecture if stored else self.source,
            "weights": None if stored else self.weights,
            "pretrained": False if stored else self.pretrained,
            "num_classes": self.head_width,
            "model_args": self.model_args,
            "multi_label": self.multi_label,
            "classes": self.classes,
            "class_names": self.class_names,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "input_size": self.input_size,
            "feature_layers": self.feature_layers,
            "in_checkpoint": stored,
        }

    def train(self, mode: bool = True) -> "Explanandum":  # noqa: ARG002
        """Stay in eval mode, whoever asks: BatchNorm and dropout must never wake up."""
        return super().train(False)

    def normalize(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the classifier's input space."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, num_classes)."""
        return self._slice(self.model(self.normalize(images)))

    def _slice(self, logits: Tensor) -> Tensor:
        return logits if self.classes is None else logits[:, self.classes]

    def to_probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B, K) -> probabilities (B, K), by sigmoid if `multi_label`, else softmax; in float32."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> probabilities (B, num_classes)."""
        return self.to_probabilities(self(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Predicted targets (B, num_classes) bool: the top class, and with `multi_label` all above 0.5 as well."""
        return self.to_targets(self(images))

    def to_targets(self, logits: Tensor) -> Tensor:
        """Logits (B, K) -> predicted targets (B, K) bool, never empty."""
        top = F.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
        return top | (logits > 0) if self.multi_label else top

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature pyramid, shallow to deep: (B, C_i, h_i, w_i) at falling resolution."""
        return self.features_and_logits(images)[0]

    def features_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The pyramid and the logits (B, num_classes), from one forward pass.

        CNNs give their stages from stride 2 on. A plain ViT has one resolution: five of its blocks, evenly
        spaced, are resized by nearest neighbour to strides 2, 4, 8, 16 and 32 (Ra-NEM, section 5).

        Raises:
            ValueError: If the model is not timm's and `feature_layers` is not given.
        """
        inputs = self.normalize(images)
        if self.feature_layers:
            with _recorded(self.model, self.feature_layers) as outputs:
                logits = self.model(inputs)
            height, width = images.shape[-2:]
            levels = [_as_map(outputs[name], height / width) for name in self.feature_layers]
        elif hasattr(self.model, "forward_intermediates"):
            last, levels = self.model.forward_intermediates(inputs)
            logits = self.model.forward_head(last)
            levels = [f for f in levels if f.shape[-1] < inputs.shape[-1]]
        else:
            raise ValueError(
                f"{type(self.model).__name__} has no known feature pyramid; name its layers, shallow to deep: "
                "feature_layers: [layer1, layer2, ...] (names as in model.named_modules())"
            )
        return _pyramid(levels, images.shape[-2:]), self._slice(logits)


def _read_classifier(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"classifier checkpoint {path!r} does not exist; train one: see configs/methods/classifier")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    hparams = checkpoint.get("hyper_parameters", {})
    state = {
        name.removeprefix("network."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    if "model" not in hparams or not state:
        raise ValueError(f"{path} is not a checkpoint of explainers.classifier.Classifier")
    keys = ("model", "num_classes", "model_args", "multi_label", "class_names", "mean", "std", "input_size")
    return {key: hparams.get(key) for key in keys}, state


@contextmanager
def _recorded(model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of named modules during the block; the hooks are gone after it."""
    modules, outputs, handles = dict(model.named_modules()), {}, []
    if missing := [name for name in names if name not in modules]:
        raise ValueError(f"no module {missing[0]!r} in {type(model).__name__}; some names: {list(modules)[1:8]}")
    try:
        for name in names:
            handles.append(modules[name].register_forward_hook(lambda *a, n=name: outputs.update({n: a[2]})))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _as_map(features: Tensor, aspect: float) -> Tensor:
    """Tokens (B, prefix + h*w, C) -> (B, C, h, w), h / w nearest to the image's aspect; maps pass unchanged."""
    if features.ndim == 4:
        return features
    count = features.shape[1]
    for prefix in range(6):  # class, distillation and register tokens
        height = round(((count - prefix) * aspect) ** 0.5)
        if height and (count - prefix) % height == 0 and abs(height**2 / (count - prefix) / aspect - 1) < 0.05:
            return features[:, prefix:].mT.unflatten(2, (height, -1))
    raise ValueError(f"cannot lay {count} tokens out as a grid of aspect {aspect:.2f}")


def _pyramid(levels: list[Tensor], size: torch.Size) -> list[Tensor]:
    if all(a.shape[-1] > b.shape[-1] for a, b in itertools.pairwise(levels)):
        return levels
    if len({f.shape[-2:] for f in levels}) > 1:  # keep the last map of each resolution
        return [a for a, b in zip(levels, [*levels[1:], None], strict=True) if b is None or a.shape != b.shape]
    # Blocks 2, 4, 6, 8, 10 of 12, as published; scaled to other depths.
    chosen = [levels[min(len(levels) - 1, round(len(levels) * i / 12))] for i in (2, 4, 6, 8, 10)]
    sizes = [(-(-size[0] // s), -(-size[1] // s)) for s in (2, 4, 8, 16, 32)]
    return [F.interpolate(f, size=s, mode="nearest") for f, s in zip(chosen, sizes, strict=True)]
