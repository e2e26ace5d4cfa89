"""Distilled: a network learns the maps of any other method, and then gives them in one pass."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from explainers.base import Explainer
from explainers.checkpoint import load_beside
from explainers.explanandum import Explanandum, layouts
from explainers.explanandum.gradients import Evidence, pyramid_maps, stage_evidence, standardise
from explainers.functional import losses
from explainers.learned import LearnedExplainer
from explainers.naming import class_path
from explainers.networks import unet
from explainers.networks.evidence import EvidenceNetwork
from explainers.networks.unet import UNetOptions
from explainers.optimization import representation
from explainers.optimizers import ADAM, OptimizerOptions

NETWORK: UNetOptions = {**unet.PUBLISHED, "dropout": 0.0}
DEFAULT = {"class": "pyramid_cam"}  # description of the teacher that is no object


class Distilled(LearnedExplainer):
    """Scores of pixels, learned by regression from the maps of a teacher, which is another method.

    The loss is the mean squared error between the scores and the teacher's map of the predicted
    class, which is standardized to mean 0 and variance 1 first. Scores of 0 have the loss 1, so
    the loss is the fraction of the teacher's variance that is not explained. Labels are not used.

    The teacher may be noisy. Its seed is drawn anew in every step, so that its noise averages out
    over the training: the best scores are the mean of its maps over all seeds. A few masks of RISE
    in each step can thus teach more than many masks in fewer steps. With `scale`, maps are not
    standardized, and unbiased estimates of a quantity teach its expectation, as in the source.

    By default the network is `unet.UNetDecoder` on the features of the classifier: one forward pass
    for each image, which explains the predicted class only, with one warning if another is
    requested. With `evidence`, it is `evidence.EvidenceNetwork` with one look, which also sees the
    gradients of a class, starts as `cam.PyramidCAM` and explains any class: one forward pass for
    each image, and a backward pass for each class.

    Every step asks the teacher about the images as they are seen, because crops and flips change
    its maps. An expensive teacher is asked once for each image by `evaluate.py predict` on the
    training and validation images; `stored.StoredMaps` of that folder is then the teacher, and
    the images must not be augmented. The training seconds in a checkpoint contain the teacher's,
    but not those of stored maps.

    A checkpoint holds the trained network and a description of the teacher, not the teacher.

    Source: Covert et al., "Stochastic Amortization: A Unified Approach to Accelerate Feature and
    Data Attribution", NeurIPS 2024: regression on noisy estimates. They regress on the estimates
    as they are. The networks and the standardized maps are of this implementation.

    Cost: one forward pass of the classifier for each image, and one of the network; with
    `evidence` also a backward pass for each class. A training step also costs what the teacher
    costs.

    Args:
        explanandum: The frozen classifier to explain.
        teacher: Method whose maps are learned. None takes `cam.PyramidCAM`, unless there is a
            `checkpoint`.
        checkpoint: Checkpoint of an explainer of this classifier, as the teacher.
        evidence: Whether the network sees the gradients of the class, see above.
        scale: Typical size of the teacher's values. The maps are divided by it in the loss, and the
            scores multiplied by it when images are explained, which keeps zero, sign and unit. None
            standardizes each map instead, and the scores have no unit.
        network: Options of the network without `evidence`, see `networks.unet.UNetDecoder`; the
            defaults are those of Ra-NEM without dropout.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`. The default is AdamW
            with a learning rate of 2e-3 and a cosine schedule.
        seed: Seed of the teacher's seeds.

    Raises:
        ValueError: If both `teacher` and `checkpoint` are given, `scale` is not positive, or
            `network` is given with `evidence`.
        NotDefinedError: If the stages of the classifier are not known.
    """

    uses_targets = False
    quick = unet.QUICK
    optimizer_defaults: ClassVar[OptimizerOptions] = {
        **ADAM,
        "lr": 2e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
    }

    def __init__(
        self,
        explanandum: Explanandum,
        teacher: Callable[[Explanandum], Explainer] | None = None,
        checkpoint: str | None = None,
        evidence: bool = False,
        scale: float | None = None,
        network: UNetOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        if teacher is not None and checkpoint is not None:
            raise ValueError("give teacher or checkpoint, not both")
        if scale is not None and scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        if evidence and network:
            raise ValueError("network has the options of the U-Net, which evidence does not use")
        self.scale, self.evidence = scale, evidence
        self.class_specific = self.needs_gradients = evidence
        self.network: nn.Module
        if evidence:
            with layouts.trying(explanandum):
                blank = explanandum.mean.expand(1, 3, *explanandum.input_size)
                (seen,), _ = stage_evidence(explanandum, blank)
            self.network = EvidenceNetwork([values.shape[1] for values in seen.values], tile=0)
        else:
            decoder = unet.decoder(explanandum, self.complete("network", NETWORK))
            nn.init.zeros_(decoder.head.weight)  # the loss begins at the variance of the maps
            self.network = decoder
        self.teachers: list[Explainer] = []  # in a list, so that it is no part of this module
        if checkpoint is not None:
            self.teachers = [load_beside(explanandum, checkpoint)]
        elif teacher is not None:
            self.teachers = [teacher(explanandum).eval()]
            self.hparams["teacher"] = description(self.teachers[0])  # data instead of a program
        self.learned: dict[str, Any] | None = None  # description of a checkpoint's teacher
        self.warned = False

    @property
    def teaching(self) -> dict[str, Any]:
        """Class and arguments of the teacher."""
        return description(self.teachers[0]) if self.teachers else DEFAULT

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, H, W) of images (B, 3, H, W) in [0, 1], as one graph; see `RaNEM.forward`.

        An explainer with `evidence` needs gradients: see `exporting.export`.
        """
        return self.scores(self.explanandum.features(images), images.shape[-2:])

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scores (B, H, W). Several classes give the maximum of their scores, each min-maxed."""
        if self.evidence:
            return self.merged_map(images, targets)
        features, logits = self.explanandum.features_and_logits(images)
        if not self.warned:
            self.warned = representation.asks_for_another_class("Distilled", logits, targets)
        return self.scores(features, images.shape[-2:])

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Scores (B, k, H, W) of several classes for each image, from the same features."""
        if not self.evidence:
            return super().class_maps(images, classes)
        found, _ = stage_evidence(self.explanandum, images, classes)
        return torch.stack([self.scores(each, images.shape[-2:]) for each in found], dim=1)

    def scores(self, seen: Evidence | list[Tensor], size: torch.Size) -> Tensor:
        """Scores (B, *size) from the evidence of a class, or from the levels of features."""
        return self.predicted(seen, size) * (self.scale or 1.0)

    def predicted(self, seen: Evidence | list[Tensor], size: torch.Size) -> Tensor:
        """Scores (B, *size) in units of `scale`."""
        if isinstance(seen, Evidence):
            found: Tensor = self.network([seen], size)
            return found
        return losses.widen(self.network(seen, size)).squeeze(1)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """`error`: mean squared difference from the teacher's maps of the predicted classes."""
        size = batch["image"].shape[-2:]
        # Lightning may validate in inference mode, where nothing can be differentiated.
        with torch.inference_mode(False), torch.no_grad():
            images = batch["image"].clone()
            seen: Evidence | list[Tensor]
            if self.evidence:
                (seen,), logits = stage_evidence(self.explanandum, images)
            else:
                seen, logits = self.explanandum.features_and_logits(images)
            classes = logits.argmax(dim=1, keepdim=True)
            maps = self.taught({**batch, "image": images}, classes, generator)
        wanted = standardise(maps) if self.scale is None else maps / self.scale
        return {"error": (self.predicted(seen, size) - wanted).square().mean()}

    def taught(self, batch: dict[str, Any], classes: Tensor, generator: torch.Generator) -> Tensor:
        """Maps (B, H, W) of the teacher, with noise from `generator`.

        Args:
            batch: The batch, whose images are explained.
            classes: Classes (B, 1) int64 to explain.
            generator: Source of the teacher's seed.

        Raises:
            ValueError: If a map is not finite.
        """
        images = batch["image"]
        seed = int(torch.randint(2**31, (), generator=generator))
        if not self.teachers:
            return pyramid_maps(self.explanandum, images, classes)[:, 0]
        teacher = self.teachers[0].to(images.device)
        for part in self.parts():
            part.seed = seed
        teacher.observe(batch)
        maps = teacher.class_maps(images, classes)[:, 0]
        if not maps.isfinite().all():
            raise ValueError(
                f"the teacher {type(teacher).__name__} gives maps with values that are not finite"
            )
        return maps

    def parts(self) -> list[Explainer]:
        """The teacher, and the methods whose maps it refines or filters."""
        inside = [part for teacher in self.teachers for part in teacher.modules()]
        return [part for part in inside if isinstance(part, Explainer)]

    def on_fit_start(self) -> None:
        """Refuses a teacher that another part of the fit did not have, or that cannot teach.

        Raises:
            ValueError: If the checkpoint had another method as its teacher, or images are augmented
                whose maps are stored.
        """
        known = (self.learned or self.teaching).get("class")
        if known != self.teaching["class"]:
            raise ValueError(
                f"the checkpoint learned from {known}, and the teacher is now "
                f"{self.teaching['class']}: give the same teacher"
            )
        self.learned = None
        data = getattr(self.trainer, "datamodule", None)
        if any(part.is_stored for part in self.parts()) and getattr(data, "augment", False):
            raise ValueError(
                "stored maps are those of whole images, and augmentation changes the images: "
                "--data.init_args.augment false"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds this explainer, and a description of the teacher instead of it."""
        super().on_save_checkpoint(checkpoint)
        for name in ("teacher", "checkpoint"):
            checkpoint["hyper_parameters"].pop(name, None)
        checkpoint["teacher"] = self.learned or self.teaching

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers which teacher the explainer learned from."""
        super().on_load_checkpoint(checkpoint)
        known = checkpoint.get("teacher")
        self.learned = known if isinstance(known, dict) else None


def description(teacher: Explainer) -> dict[str, Any]:
    """Class and arguments of a method as plain data; functions and classes by their names."""
    arguments = {name: _plain(value) for name, value in teacher.hparams.items()}
    return {"class": class_path(type(teacher)), **arguments}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    return getattr(value, "__qualname__", type(value).__qualname__)
