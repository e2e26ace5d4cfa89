"""EvidenceNEM: a small trained network on the evidence of all stages ranks pixels for any class."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum, layouts
from explainers.explanandum.folding import folded
from explainers.explanandum.gradients import Evidence, pyramid_map, stage_evidence
from explainers.functional import planes
from explainers.functional.dither import bayer
from explainers.functional.soft_masks import soft_masks
from explainers.learned import LearnedExplainer
from explainers.networks.evidence import EvidenceNetwork, EvidenceOptions
from explainers.optimization import areas
from explainers.optimization.areas import ESTIMATOR, EstimatorOptions
from explainers.optimizers import ADAM, OptimizerOptions

NETWORK: EvidenceOptions = {"width": 64, "tile": 16}
SHOWN = 0.4  # share of the pixels that the second look shows


class EvidenceNEM(LearnedExplainer):
    """Ranks pixels so that the first of them show a class, and that without them it is not seen.

    The network sees the features, their products with the gradients of the class's log-odds, and
    the maps of all stages. It starts as `cam.PyramidCAM` and learns what to add, so that few steps
    on unlabeled images are enough. Any class can be explained.

    The second look sees the image with the first 40 % of the pixels of `lattice.Lattice` alone, the
    others blurred. There, the gradients are multiplied by what the features of the whole image have
    beyond those of the part, which tells what the missing pixels would add. One look costs a
    forward pass for an image and a backward pass for each class, the second one as much for each
    class.

    The loss of an image is 1 - q, where q is the tempered probability of the predicted class if the
    first pixels are inserted into a fill, plus q if they are deleted. The share of the pixels is
    random. It estimates the areas under the insertion and deletion curves, by soft masks without
    noise. Labels are not used. The map is the raw scores, which rank the pixels and have no scale.

    Source: none published. The loss is that of Ra-NEM (`ra_nem.RaNEM`) with another estimator.

    Cost: with two looks, two forward passes for an image of one class, and one more for each
    further class; two backward passes for each class. With one look, half of both.

    Args:
        explanandum: The frozen classifier to explain. Its stages must be known.
        looks: Number of looks at an image, 1 or 2.
        samples: Number of insertion and of deletion masks for each image and step.
        cell: Side in pixels of the square cells over which finished maps are averaged, 1 for none.
            Curves gain from the fine texture of the maps; eyes prefer 8.
        estimator: Options of the loss, see `EstimatorOptions`.
        network: Options of the network, see `networks.evidence.EvidenceNetwork`.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`. The default is AdamW
            with a learning rate of 2e-3 and a cosine schedule.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument or option is out of range.
        NotDefinedError: If the stages of the classifier are not known.
    """

    uses_targets = False
    needs_gradients = True
    optimizer_defaults: ClassVar[OptimizerOptions] = {
        **ADAM,
        "lr": 2e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
    }

    def __init__(
        self,
        explanandum: Explanandum,
        looks: Literal[1, 2] = 2,
        samples: int = 2,
        cell: int = 1,
        estimator: EstimatorOptions | None = None,
        network: EvidenceOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        if looks not in (1, 2) or min(samples, cell) < 1:
            raise ValueError(
                "expected 1 or 2 looks, samples >= 1 and a cell >= 1, "
                f"got {looks}, {samples} and {cell}"
            )
        self.looks, self.samples, self.cell = looks, samples, cell
        self.estimator: EstimatorOptions = self.complete("estimator", ESTIMATOR)
        areas.check(self.estimator)
        with layouts.trying(explanandum):
            trial = explanandum.mean.expand(1, 3, *explanandum.input_size)
            (evidence,), _ = stage_evidence(explanandum, trial)
        self.faster: list[Explanandum] = []  # in a list, so that it is no part of this module
        channels = [values.shape[1] for values in evidence.values]
        self.network = EvidenceNetwork(channels, looks, **self.complete("network", NETWORK))

    def on_fit_start(self) -> None:
        """Makes a faster copy of the classifier for the passes of the training."""
        self.faster = [folded(self.explanandum)]

    def on_fit_end(self) -> None:
        """Forgets the copy."""
        self.faster = []

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scores (B, H, W). Several classes give the maximum of their scores, each min-maxed."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Scores (B, k, H, W) of several classes for each image, whose first look is shared."""
        found, _ = self.look(self.explanandum, images, classes)
        size = images.shape[-2:]
        maps = torch.stack([self.network(each, size) for each in found], dim=1)
        if self.cell == 1:
            return maps
        return planes.upsample(F.avg_pool2d(maps, self.cell, ceil_mode=True), size)

    def look(
        self, explanandum: Explanandum, images: Tensor, classes: Tensor | None = None
    ) -> tuple[list[list[Evidence]], Tensor]:
        """Evidence of each look for each column of classes (B, k), and the logits (B, K).

        Args:
            explanandum: The classifier, or a copy of it.
            images: Images (B, 3, H, W) in [0, 1].
            classes: Classes (B, k) int64. None takes the class with the largest logit.
        """
        first, logits = stage_evidence(explanandum, images, classes)
        if self.looks == 1:
            return [[each] for each in first], logits
        chosen = logits.argmax(dim=1, keepdim=True) if classes is None else classes
        found = []
        for evidence, column in zip(first, chosen.unbind(1), strict=True):
            part = _part(explanandum, images, evidence)
            (second,), _ = stage_evidence(explanandum, part, column[:, None], evidence.values)
            found.append([evidence, second])
        return found, logits

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """`insertion`: mean 1 - q of images with the first pixels; `deletion`: q without them."""
        images = batch["image"]
        (explanandum,) = self.faster or [self.explanandum]
        (seen,), logits = self.look(explanandum, images)
        scores = self.network(seen, images.shape[-2:])
        images, scores, classes = (
            each.repeat(self.samples, *[1] * (each.ndim - 1))
            for each in (images, scores, logits.argmax(dim=1))
        )
        inserted, deleted = self.estimate(images, scores, classes, generator)
        return {"insertion": 1 - inserted.mean(), "deletion": deleted.mean()}

    def estimate(
        self, images: Tensor, scores: Tensor, classes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Tempered probabilities (B,) if pixels are inserted and deleted, see `areas.areas`."""
        (explanandum,) = self.faster or [self.explanandum]
        return areas.drawn_areas(explanandum, self.estimator, images, scores, classes, generator)


@torch.no_grad()
def _part(explanandum: Explanandum, images: Tensor, evidence: Evidence) -> Tensor:
    """Images (B, 3, H, W) of which only the first pixels are shown, and the others blurred.

    The mask is soft, so that rounding cannot decide which pixels are shown.
    """
    height, width = images.shape[-2:]
    scores = pyramid_map(evidence, images.shape[-2:])
    scores = torch.add(scores, bayer(height, width).to(scores))
    shown = soft_masks(scores, scores.new_full(images.shape[:1], SHOWN))[:, None].to(images.dtype)
    with torch.autocast(images.device.type, enabled=False):
        blurred = explanandum.fill("kernel_blur")(images)
    return blurred + (images - blurred) * shown
