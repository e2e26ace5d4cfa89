"""Training of the classifiers that are then explained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from explainers import optimizers
from explainers.explanandum import build, contract, normalization, outputs, wrappers
from explainers.explanandum.accuracy import accuracy_metrics
from explainers.explanandum.classes import labels_of
from explainers.explanandum.cutouts import cut_outs
from explainers.finite import StayFinite, check_weights
from explainers.functional import seeds
from explainers.monitor import Monitor
from explainers.optimizers import OptimizerOptions
from explainers.options import check_choices, complete
from explainers.reading import building, read_classifier
from explainers.resuming import ResumeExactly
from explainers.trust import granting


class Classifier(LightningModule):
    """Trains a plain network on images (B, 3, H, W) in [0, 1] with multi-hot targets (B, K) bool.

    A single-label classifier is trained by cross-entropy and evaluated by top-1 and top-5 accuracy.
    A multi-label classifier is trained by binary cross-entropy and evaluated by micro-averaged
    precision, recall and F1 and by mean average precision. The result is frozen by
    `Explanandum(model="<its checkpoint>.ckpt")`.

    With `head`, only those modules are trained, starting from a new initialization. All other
    modules stay frozen in eval mode. Stalder et al., NeurIPS 2022, section 4, "fine-tune" the
    network; their code also trains a new head alone. Without `head`, all modules are trained.

    Args:
        model: Name of the architecture as in `build.build`, or a module from normalized images to
            logits.
        num_classes: Number of classes.
        multi_label: Whether several classes may be present in one image.
        pretrained: Whether to start from the library's weights, which are downloaded.
        weights: Path of a local file with weights to start from.
        model_args: Further keyword arguments of the architecture.
        head: Names of the modules that are re-initialized and trained alone, such as [fc] for a
            ResNet or [pre_logits, head] for VGG.
        class_names: Names of the classes. None takes those of the data.
        mean: Mean of each channel for the normalization. None takes the model's own.
        std: Standard deviation of each channel for the normalization. None takes the model's own.
        optimizer: Options of the optimizer, see `optimizers.OptimizerOptions`. The default is AdamW
            with a learning rate of 1e-4.
        smoothing: Label smoothing. Binary targets become `smoothing` and 1 - `smoothing`.
        cut_outs: Fraction of the training images whose objects are cut out or removed, see
            `cutouts.cut_outs`. It requires data with masks. Explanations of such a classifier find
            objects.
        freeze_statistics: Whether BatchNorm keeps its running statistics, which cut-outs would
            distort.
        seed: Seed of the cut-outs.
        weights_key: Entry of the weights file, or prefix of its names, if several fit.

    Raises:
        ValueError: If mean or std cannot be those of images in [0, 1], if a name in `head` is not
            a module of the model, if `cut_outs` is not in [0, 1], or if it is used with a
            single-label classifier, for which an image always shows a class.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: str | nn.Module,
        num_classes: int,
        multi_label: bool = False,
        pretrained: bool = False,
        weights: str | None = None,
        model_args: dict[str, Any] | None = None,
        head: list[str] | None = None,
        class_names: list[str] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        optimizer: OptimizerOptions | None = None,
        smoothing: float = 0.0,
        cut_outs: float = 0.0,
        freeze_statistics: bool = False,
        seed: int = 0,
        weights_key: str | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= cut_outs <= 1.0 or (cut_outs and not multi_label):
            raise ValueError(
                "cut_outs must lie in [0, 1] and needs multi_label, "
                f"got {cut_outs} and multi_label {multi_label}"
            )
        self.save_hyperparameters(
            ignore=["model"] if isinstance(model, nn.Module) else [], logger=False
        )
        check_choices(type(self), self.hparams)
        defaults: OptimizerOptions = {**optimizers.ADAM, "lr": 1e-4}
        self.optimizer = complete(optimizer, defaults)
        self.hparams["optimizer"] = dict(self.optimizer)
        if isinstance(model, str):
            self.network = build.build(
                model, num_classes, pretrained, weights, True, model_args, weights_key
            )
            own = build.data_config(model, self.network)
        else:
            self.network = wrappers.unwrap(model)
            own = build.data_config("", self.network)
        self.channels = contract.input_channels(self.network)
        given = {"mean": mean, "std": std}
        for name, numbers in normalization.stated(given, own, self.channels).items():
            self.hparams[name] = numbers
            self.register_buffer(name, normalization.plane(numbers), persistent=False)
        self.num_classes, self.multi_label, self.smoothing = num_classes, multi_label, smoothing
        self.cut_outs, self.freeze_statistics, self.seed = cut_outs, freeze_statistics, seed
        self.head = list(head) if head else None
        if self.head:
            _restart_head(self.network, self.head)
        self.train()
        self.metrics = nn.ModuleDict(
            {f"{stage}_": accuracy_metrics(num_classes, multi_label) for stage in ("val", "test")}
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) in [0, 1]."""
        inputs = (images - self.mean) / self.std
        output = self.network(normalization.gray(inputs) if self.channels == 1 else inputs)
        return outputs.take(output, outputs.find(output, len(images), self.num_classes))

    def train(self, mode: bool = True) -> "Classifier":
        """Sets the trained modules to train mode. Frozen modules stay in eval mode."""
        super().train(mode)
        if mode and self.head:
            self.network.eval()
            for name in self.head:
                self.network.get_submodule(name).train()
        if self.freeze_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy, or mean binary cross-entropy for a multi-label classifier."""
        if self.multi_label:
            wanted = targets.float().clamp(self.smoothing, 1 - self.smoothing)
            return F.binary_cross_entropy_with_logits(logits, wanted)
        return F.cross_entropy(logits, targets.int().argmax(dim=1), label_smoothing=self.smoothing)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch. A resumed fit repeats its cut-outs, which depend on (seed, global step).

        Raises:
            ValueError: If cut-outs are used and the batch has no masks.
        """
        images, targets = batch["image"], labels_of(batch)
        if self.cut_outs:
            if "mask" not in batch:
                raise ValueError("cut_outs needs data with masks (VOC: image_sets Segmentation)")
            seed = seeds.combine(self.seed, self.global_step, self.global_rank)
            generator = torch.Generator().manual_seed(seed)
            images, targets = cut_outs(
                images, targets, batch["mask"], self.cut_outs, self.mean, generator
            )
        loss = self.loss(self(images), targets)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Logs the loss and the metrics on validation images."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Logs the loss and the metrics on test images."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Any], stage: str) -> None:
        targets, logits = labels_of(batch), self(batch["image"])
        collection = cast(MetricCollection, self.metrics[f"{stage}_"])
        collection.update(
            logits, targets.int() if self.multi_label else targets.int().argmax(dim=1)
        )
        size, loss = len(targets), self.loss(logits, targets)
        self.log(f"{stage}/loss", loss, batch_size=size, prog_bar=True, sync_dist=True)
        self.log_dict(
            {f"{stage}/{name}": metric for name, metric in collection.items()}, batch_size=size
        )

    def configure_callbacks(self) -> list[Callback]:
        """What every fit needs: it stays finite, resumes exactly, and is logged."""
        return [StayFinite(), ResumeExactly(), Monitor()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and learning-rate schedule of the options."""
        return optimizers.configure(self, self.optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Changes the stored arguments so that loading needs no downloads and no other files."""
        check_weights(self)
        data = getattr(self._trainer, "datamodule", None)
        names = self.hparams["class_names"] or getattr(data, "class_names", None)
        changed = {
            "pretrained": False,
            "weights": None,
            "weights_key": None,
            "class_names": list(names) if names else None,
        }
        checkpoint["hyper_parameters"] = dict(self.hparams) | changed
        checkpoint["trained"] = self._trained(data)

    def _trained(self, data: Any) -> dict[str, Any]:
        """Image size of the training, and accuracy or F1 of the last validation, if any."""
        found: dict[str, Any] = {}
        if size := getattr(data, "image_size", None):
            found["input_size"] = [size] * 2 if isinstance(size, int) else [int(s) for s in size]
        figures = getattr(self._trainer, "callback_metrics", {})
        if (figure := figures.get("val/f1" if self.multi_label else "val/top1")) is not None:
            found["expected_accuracy"] = float(figure)
        return found

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        trust: Sequence[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Loads a classifier from its checkpoint alone, which may be one of an earlier version.

        Args:
            checkpoint_path: Path of a checkpoint written by a fit.
            map_location: Device of the classifier.
            trust: Names of your packages whose functions the checkpoint may name as architecture,
                see `trust.granting`.
            **kwargs: Constructor arguments to change.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not the checkpoint of a classifier, or names what is not trusted.
        """
        with granting(trust):
            arguments, _, state = read_classifier(checkpoint_path, kwargs)
        with building(str(checkpoint_path)):
            classifier = cls(**{**arguments, **kwargs})
            classifier.network.load_state_dict(state)
        return classifier.to(map_location)


def _restart_head(network: nn.Module, head: list[str]) -> None:
    """Freezes all of the network except the named modules, whose layers are re-initialized."""
    names = dict(network.named_modules())
    if missing := [name for name in head if name not in names]:
        raise ValueError(
            f"no module {missing[0]!r} in {type(network).__name__}; "
            f"its children: {[name for name, _ in network.named_children()]}"
        )
    network.requires_grad_(False)
    for name in head:
        names[name].requires_grad_(True)
        for layer in names[name].modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
