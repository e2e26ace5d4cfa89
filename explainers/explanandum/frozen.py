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
    """A frozen classifier: images (B, 3, H, W) in [0, 1] -> logits (B, num_classes).

    It normalises inside, its parameters never require gradients, and `train()` leaves it in eval
    mode, so BatchNorm and dropout stay as they were trained. Gradients with respect to the images
    do flow.

    Args:
        model: A timm name, "torchvision/<name>", "package.module:callable", the path of a
            `Classifier` checkpoint (.ckpt), or any module from normalised images to logits.
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
        in_checkpoint: Write the weights into every explainer's checkpoint, so that one file is
            enough. False keeps checkpoints small; then the same arguments must find the weights
            again when loading.
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
        """Plain arguments that rebuild this explanandum, for a checkpoint."""
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
        """Stay in eval mode, whoever asks: BatchNorm and dropout must never wake up."""
        return super().train(False)

    def normalize(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the classifier's input space."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
        # In the images' own memory layout: broadcasting (1, 3, 1, 1) is three times slower.
        plane = torch.zeros_like(images[:1])
        return (images - (plane + self.mean)).div_(plane + self.std)

    def fill(
        self,
        name: FillName,
        generator: torch.Generator | int | None = None,
        sigma: float = 10.0,
        bank: Tensor | None = None,
    ) -> Fill:
        """A fill by its name, with the mean and std of this classifier.

        Args:
            name: See `fills.fill`.
            generator: Randomness of "noise" and "images", on the CPU. An integer seeds a fresh
                generator in each call, so that every call draws the same.
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
        """Images (B, 3, H, W) in [0, 1] -> logits (B, num_classes)."""
        return self._slice(self.model(self.normalize(images)))

    def _slice(self, logits: Tensor) -> Tensor:
        return logits if self.classes is None else logits[:, self.classes]

    def to_probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B, K) -> probabilities (B, K), by sigmoid if `multi_label`, else softmax."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> probabilities (B, num_classes)."""
        return self.to_probabilities(self(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Predicted targets (B, K) bool: the top class; with `multi_label` also all above 0.5."""
        return self.to_targets(self(images))

    def to_targets(self, logits: Tensor, never_empty: bool = True) -> Tensor:
        """Logits (B, K) -> predicted targets (B, K) bool.

        Without `multi_label` the top class. With it all classes above 0.5, and the top class too if
        a prediction is `never_empty`.
        """
        if self.multi_label and not never_empty:
            return logits > 0
        top = F.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
        return top | (logits > 0) if self.multi_label else top

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature pyramid, shallow to deep: (B, C_i, h_i, w_i) at falling resolution."""
        return self.features_and_logits(images)[0]

    def features_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The pyramid and the logits (B, num_classes), from one forward pass.

        CNNs give their stages from stride 2 on. A plain ViT has one resolution: five of its blocks,
        evenly spaced, are resized by nearest neighbour to strides 2, 4, 8, 16 and 32 (Ra-NEM,
        section 5).

        Raises:
            ValueError: If the model is not timm's and `feature_layers` is not given.
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
