"""The explanandum: a frozen image classifier that takes images in [0, 1]."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers import files
from explainers.explanandum import build, features, taps
from explainers.functional import fills
from explainers.functional.fills import Fill, FillName


class Explanandum(nn.Module):
    """A frozen classifier from images (B, 3, H, W) in [0, 1] to logits (B, num_classes).

    The images are normalized inside. The parameters never require gradients, and `train()` leaves
    the network in eval mode, so that BatchNorm and dropout keep their behavior after training.
    Gradients with respect to the images are available.

    Args:
        model: Name of a timm model, "torchvision/<name>", "package.module:callable", the path of a
            `Classifier` checkpoint (.ckpt), or a module from normalized images to logits.
        weights: Path of a local `.safetensors`, `.pth` or `.pt` file with the network's state dict.
        pretrained: Whether to download the library's weights.
        num_classes: Number of outputs of the head. None keeps that of the architecture.
        model_args: Further keyword arguments of the architecture.
        multi_label: Whether probabilities are computed by a sigmoid instead of a softmax.
        classes: Indices of the logits to keep, in this order. The others are dropped before the
            softmax or sigmoid. None keeps all.
        class_names: Name of each class, or of each kept class if `classes` is given. None takes
            those of the model's library or checkpoint, else "class 0" and so on.
        mean: Mean of each channel of images in [0, 1], for the normalization. None takes the
            model's own.
        std: Standard deviation of each channel, for the normalization. None takes the model's own.
        input_size: Height and width that the model was made for. None takes the model's own.
        feature_layers: Names of the modules whose outputs make the feature pyramid, from shallow to
            deep. Needed for models that are not from timm.
        in_checkpoint: Whether to write the weights into every explainer's checkpoint, so that one
            file is enough. False keeps the checkpoints small. The same arguments must then find the
            weights again when a checkpoint is loaded.
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
            given, state = files.read_classifier(model)
            model, num_classes, model_args = (
                given["model"],
                given["num_classes"],
                given["model_args"],
            )
            multi_label, class_names = given["multi_label"], class_names or given["class_names"]
        self.architecture = model if isinstance(model, str) else None
        self.model_args, self.head_width = dict(model_args or {}), num_classes
        self.multi_label = multi_label
        if isinstance(model, str):
            self.model = build.build(model, num_classes, pretrained, weights, model_args=model_args)
            own = build.data_config(model, self.model) | {
                k: v for k, v in given.items() if v is not None
            }
        else:
            self.model, own = model, build.data_config("", model)
        if state:
            self.model.load_state_dict(state)
        self.input_size = list(input_size or own["input_size"] or (224, 224))
        self.feature_layers = feature_layers
        for name, value, default in (
            ("mean", mean, [0.485, 0.456, 0.406]),
            ("std", std, [0.229, 0.224, 0.225]),
        ):
            channels = torch.tensor([float(v) for v in value or own[name] or default])
            self.register_buffer(name, channels.view(1, 3, 1, 1), persistent=False)

        self.model.requires_grad_(False)
        self.eval()
        self.head_classes = num_classes or self._count_classes()
        self.classes = list(classes) if classes is not None else None
        if self.classes and not 0 <= min(self.classes) <= max(self.classes) < self.head_classes:
            raise ValueError(
                f"classes must lie in [0, {self.head_classes - 1}], got {self.classes}"
            )
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
        """Plain arguments that rebuild this explanandum from a checkpoint."""
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

    def train(self, mode: bool = True) -> "Explanandum":
        """Stays in eval mode, whatever the argument, so that BatchNorm and dropout never change."""
        return super().train(False)

    def normalize(self, images: Tensor) -> Tensor:
        """Input of the network, normalized from images (B, 3, H, W) in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
        # In the memory layout of the images: broadcasting (1, 3, 1, 1) is three times slower.
        plane = torch.zeros_like(images[:1])
        return (images - (plane + self.mean)).div_(plane + self.std)

    def fill(
        self,
        name: FillName,
        generator: torch.Generator | int | None = None,
        sigma: float = 10.0,
        bank: Tensor | None = None,
    ) -> Fill:
        """The fill of a given name, with the mean and std of this classifier.

        Args:
            name: Name of the fill, see `fills.fill`.
            generator: Random number generator of "noise" and "images", on the CPU. An integer is
                the seed of a new generator in each call, so that all calls draw the same numbers.
            sigma: Width of "blur" in pixels.
            bank: Pictures (N, 3, H, W) for "images".
        """

        def filled(images: Tensor, masks: Tensor | None = None) -> Tensor:
            source = generator
            if isinstance(source, int):
                source = torch.Generator().manual_seed(source)
            return fills.fill(name, images, self.mean, self.std, source, sigma, bank)

        return filled

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W) in [0, 1]."""
        return self._slice(self.model(self.normalize(images)))

    def _slice(self, logits: Tensor) -> Tensor:
        return logits if self.classes is None else logits[:, self.classes]

    def to_probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, K) of logits (B, K), by a sigmoid if `multi_label`, else a softmax."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities (B, num_classes) of images (B, 3, H, W) in [0, 1]."""
        return self.to_probabilities(self(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Predicted targets (B, K) bool: the top class, with `multi_label` also all above 0.5."""
        return self.to_targets(self(images))

    def to_targets(self, logits: Tensor, never_empty: bool = True) -> Tensor:
        """Predicted targets (B, K) bool, from logits (B, K).

        Args:
            logits: Logits (B, K).
            never_empty: Whether the top class is always predicted. It only matters with
                `multi_label`, where all classes above 0.5 are predicted, possibly none. Without
                `multi_label`, the prediction is the top class.
        """
        if self.multi_label and not never_empty:
            return logits > 0
        top = F.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
        return top | (logits > 0) if self.multi_label else top

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature pyramid, shallow to deep: maps (B, C_i, h_i, w_i) of decreasing resolution."""
        return self.features_and_logits(images)[0]

    def features_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Feature pyramid and logits (B, num_classes), from one forward pass.

        The levels of a CNN are its stages from stride 2 on. A plain ViT has a single resolution:
        five of its blocks, evenly spaced, are resized by nearest neighbor to strides 2, 4, 8, 16
        and 32 (Ra-NEM, section 5).

        Raises:
            ValueError: If the model is not from timm and `feature_layers` is not given.
        """
        inputs = self.normalize(images)
        if self.feature_layers:
            with taps.recorded(self.model, self.feature_layers) as outputs:
                logits = self.model(inputs)
            height, width = images.shape[-2:]
            levels = [
                features.as_map(outputs[name], height / width) for name in self.feature_layers
            ]
        elif hasattr(self.model, "forward_intermediates"):
            timm_model: Any = self.model
            last, levels = timm_model.forward_intermediates(inputs)
            logits = timm_model.forward_head(last)
            levels = [f for f in levels if f.shape[-1] < inputs.shape[-1]]
        else:
            raise ValueError(
                f"{type(self.model).__name__} has no known feature pyramid; name its layers: "
                "feature_layers: [layer1, layer2, ...] (names as in model.named_modules())"
            )
        return features.pyramid(levels, images.shape[-2:]), self._slice(logits)
