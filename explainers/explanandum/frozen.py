"""The explanandum: a frozen image classifier that takes images in [0, 1]."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import (
    build,
    contract,
    features,
    inpainters,
    layouts,
    normalization,
    outputs,
    precision,
    selection,
    wrappers,
)
from explainers.explanandum import weights as weight_files
from explainers.explanandum.features import Sources
from explainers.functional.fills import Fill, FillName
from explainers.reading import read_classifier
from explainers.trust import WITHOUT_WEIGHTS, granting


class Explanandum(nn.Module):
    """A frozen classifier from images (B, 3, H, W) in [0, 1] to logits (B, num_classes).

    The images are normalized inside. The parameters never require gradients, and `train()` leaves
    the network in eval mode, so that BatchNorm and dropout keep their behavior after training.
    Gradients with respect to the images are available. Whatever the data type of the network, the
    logits are float32, or float64 if it computes so.

    A pass of a few random images at construction checks that the network returns logits (B, K),
    without a softmax or sigmoid. It may return them as `.logits` of an object, or in a tuple or
    dict. A single output z is read as two classes with the logits [0, z], or as one class with
    `multi_label`. For networks of gray images, these are made inside (ITU-R BT.601).

    Args:
        model: Name of a timm model, "torchvision/<name>", "package.module:callable", the path of a
            `Classifier` checkpoint (.ckpt), or a module from normalized images to logits. Wrappers
            such as `nn.DataParallel` or the result of `torch.compile` are taken off.
        weights: Path of a local file of torch or safetensors with the network's state dict.
        pretrained: Whether to download the library's weights.
        num_classes: Number of outputs of the head. None keeps that of the architecture. 0 is an
            encoder without a head, for methods and metrics that need no class.
        model_args: Further keyword arguments of the architecture.
        multi_label: Whether probabilities are computed by a sigmoid instead of a softmax.
        classes: Indices of the logits to keep, in this order. The others are dropped before the
            softmax or sigmoid. None keeps all.
        class_names: Name of each class. If `classes` is given, the names of the kept classes or of
            all. None takes those of the model's library or checkpoint, else "class 0" and so on.
        mean: Mean of each channel of images in [0, 1], for the normalization. None takes the
            model's own.
        std: Standard deviation of each channel, for the normalization. None takes the model's own.
        input_size: Height and width that the model was made for. None takes the model's own.
        feature_layers: Names of the modules whose outputs make the feature pyramid, from shallow to
            deep. None takes the stages that are found, see `features.stages`.
        in_checkpoint: Whether to write the weights into every explainer's checkpoint, so that one
            file is enough. False keeps the checkpoints small. The classifier must then be given
            again when a checkpoint is loaded, and a hash of its weights is compared.
        expected_accuracy: Accuracy in [0, 1] that the classifier is known to have, or F1 with
            `multi_label`. None takes that of the last validation from a `Classifier` checkpoint.
        weights_key: Entry of the weights file, or prefix of its names, if several fit.
        trust: Names of your packages whose functions a `Classifier` checkpoint may name as its
            architecture, see `trust.granting`.

    Attributes:
        channels_last: Memory layout of images on a CPU, see `normalization.to_channels_last`.

    Raises:
        ValueError: If the classifier or its output is none of these, or an argument does not fit.
        FileNotFoundError: If a file does not exist.
    """

    mean: Tensor
    std: Tensor

    @torch.inference_mode(False)  # where nothing could be differentiated through the weights
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
        expected_accuracy: float | None = None,
        weights_key: str | None = None,
        trust: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.in_checkpoint, file = in_checkpoint, str(model)
        state, given = dict[str, Tensor](), dict[str, Any]()
        if isinstance(model, str) and model.endswith(".ckpt"):
            with granting(trust):
                arguments, given, state = read_classifier(model)
            model, num_classes = arguments["model"], arguments["num_classes"]
            model_args = arguments.get("model_args")
            multi_label = arguments.get("multi_label", False)
            given |= {name: arguments.get(name) for name in ("class_names", "mean", "std")}
        self.architecture = model if isinstance(model, str) else None
        self.model_args, self.head_width = dict(model_args or {}), num_classes
        self.multi_label = multi_label
        if isinstance(model, str):
            files_of = (model, num_classes, pretrained, weights)
            self.model = build.build(*files_of, model_args=model_args, weights_key=weights_key)
        else:
            self.model = wrappers.unwrap(model)
        own = build.data_config(self.architecture or "", self.model)
        own |= {name: value for name, value in given.items() if value is not None}
        if state:
            weight_files.load_state(self.model, state, False, file)
        # Until weights are loaded. Callables of the user bring their own.
        bare = isinstance(model, str) and (":" not in model or model in WITHOUT_WEIGHTS)
        self.untrained = bare and not (pretrained or weights or state)
        self.model.requires_grad_(False)
        self.eval()
        self.autocast_dtype: torch.dtype | None = None  # see `precision.exact`
        size = input_size or own["input_size"]
        values: dict[str, Any] = {"mean": mean, "std": std}
        trial = contract.trial(
            self.model, normalization.stated(values, own), size, num_classes, multi_label
        )
        self.reading, self.input_size, self.channels = trial.reading, trial.size, trial.channels
        new_head = weights is not None and num_classes not in (None, own["pretrained_classes"])
        values = normalization.settled(self.model, values, own, self.channels, new_head)
        self.register_buffer("mean", normalization.plane(values["mean"]), persistent=False)
        self.register_buffer("std", normalization.plane(values["std"]), persistent=False)
        self.feature_layers = feature_layers
        self.channels_last = normalization.to_channels_last(self.model)
        # Of one output z, the logits are [0, z].
        self.head_classes = 2 if trial.units == 1 and not multi_label else trial.units
        self.classes = selection.kept_classes(classes, self.head_classes, multi_label)
        self.num_classes = len(self.classes) if self.classes else self.head_classes
        self.class_names = selection.class_names(
            class_names, own["class_names"], self.head_classes, self.classes
        )
        if expected_accuracy is not None and not 0.0 <= expected_accuracy <= 1.0:
            raise ValueError(f"expected_accuracy must lie in [0, 1], got {expected_accuracy}")
        stated = given.get("expected_accuracy")
        self.expected_accuracy = stated if expected_accuracy is None else expected_accuracy

    @property
    def config(self) -> dict[str, Any]:
        """Plain arguments that rebuild this explanandum from a checkpoint."""
        return {
            "model": self.architecture,
            "weights": None,
            "pretrained": False,
            "num_classes": self.head_width,
            "model_args": self.model_args,
            "multi_label": self.multi_label,
            "classes": self.classes,
            "class_names": self.class_names,
            "mean": self.mean.flatten()[: self.channels].tolist(),
            "std": self.std.flatten()[: self.channels].tolist(),
            "input_size": self.input_size,
            "feature_layers": self.feature_layers,
            "in_checkpoint": self.in_checkpoint,
            "expected_accuracy": self.expected_accuracy,
            "weights_key": None,
        }

    def train(self, mode: bool = True) -> "Explanandum":
        """Stays in eval mode, whatever the argument, so that BatchNorm and dropout never change."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Explanandum":
        """Moves or converts the network. Mean and std stay exact, at least in float32."""
        exact = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for key, before in exact.items():
            after = getattr(self, key)
            dtype = torch.promote_types(after.dtype, torch.float32)
            setattr(self, key, before.to(after.device, dtype))
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.untrained = False

    def normalize(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W), of images in [0, 1], in the data type of the images."""
        return normalization.normalize(images, self.mean, self.std).to(images.dtype)

    def _inputs(self, images: Tensor) -> Tensor:
        """Input of the network, in its channels and its data type, normalized in float32."""
        inputs = normalization.normalize(images, self.mean, self.std)
        inputs = normalization.gray(inputs) if self.channels == 1 else inputs
        inputs = normalization.laid_out(inputs, self.channels_last)
        return inputs.to(precision.own_dtype(self.model) or inputs.dtype)

    def fill(
        self,
        name: FillName,
        generator: torch.Generator | int | None = None,
        sigma: float = 10.0,
        bank: Tensor | None = None,
    ) -> Fill:
        """The fill of a given name, with the mean and std of this classifier.

        Args:
            name: Name of the fill, see `fills.fill`, or path of an inpainter, see
                `inpainters.opened`.
            generator: Random number generator of the random fills, on the CPU. An integer is
                the seed of a new generator in each call, so that all calls draw the same numbers.
            sigma: Width of "blur" in pixels.
            bank: Pictures (N, 3, H, W) for "images".
        """
        return inpainters.named(self, name, generator, sigma, bank)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W) in [0, 1]."""
        inputs = self._inputs(images)
        with contract.network_pass(self, images):
            output = self.model(inputs)
        return self._logits(output, images.shape[0])

    def _logits(self, output: Any, count: int) -> Tensor:
        """Logits (B, num_classes) in the output of the network, at least in float32."""
        if self.reading is None:
            width = self.head_width or self.head_classes
            self.reading = contract.checked(output, count, width, self.multi_label)
        logits = outputs.read(output, self.reading, count)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.head_classes > self.reading.units:
            logits = F.pad(logits, (1, 0))  # [0, z]: their softmax is the sigmoid of z
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

    @cached_property
    def layers(self) -> dict[str, layouts.Layer]:
        """Layout of the output of each layer, found by a trial pass, see `layouts.trial`."""
        return layouts.trial(self)

    @cached_property
    def sources(self) -> Sources:
        """Sources of the feature pyramid, found by trial passes, see `features.sources`."""
        return features.sources(self)

    def features_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Feature pyramid and logits (B, num_classes), from one forward pass.

        The levels of a CNN are its stages from stride 2 on, see `features.stages`. A plain ViT has
        a single resolution: five of its blocks, evenly spaced, are resized by nearest neighbor to
        strides 2, 4, 8, 16 and 32 (Ra-NEM, section 5).

        Raises:
            ValueError: If one of the `feature_layers` gives no maps.
            NotDefinedError: If the stages of the classifier are not known.
        """
        inputs, _ = self._inputs(images), self.sources
        with contract.network_pass(self, images):
            levels, output = features.read(self, inputs)
        if self.autocast_dtype is not None:
            levels = [level.float() for level in levels]
        return levels, self._logits(output, images.shape[0])
