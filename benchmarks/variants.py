"""Explainers for comparisons alone: what lies between Ra-NEM and EvidenceNEM, and smoothed maps.

python train.py fit -c configs/recipes/photos.yaml --model benchmarks.variants.EvidenceWithOmega
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.checkpoint import load_beside
from explainers.explanandum import Explanandum
from explainers.explanandum.gradients import standardise
from explainers.functional.omega import draw_k, gumbel, omega
from explainers.methods.evidence_nem import EvidenceNEM
from explainers.methods.ra_nem import RaNEM
from explainers.optimization import areas
from explainers.optimization.areas import ESTIMATOR, SENSES

GAIN = 10.0  # of the scores beside the Gumbel noise, as in short trainings of Ra-NEM


class EvidenceWithOmega(EvidenceNEM):
    """The network of EvidenceNEM with the masks of Ra-NEM: hard, noisy, without temperature."""

    def estimate(
        self, images: Tensor, scores: Tensor, classes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Probabilities (B,) if the pixels of Gumbel-top-k masks are inserted, and deleted."""
        (explanandum,) = self.faster or [self.explanandum]
        size = images.shape[-2:]
        shown = []
        for sense in SENSES:
            k = draw_k(1, len(images), size.numel(), "stratified", generator)
            noise = gumbel((len(images), 1, *size), generator, images.device)
            masks = omega(GAIN * scores, k.view(-1, 1), noise)
            kept = masks if sense == "insertion" else 1 - masks
            fill = areas.own_fills(explanandum, self.estimator, sense, images, generator)
            shown.append(fill + (images - fill) * kept)
        probabilities = explanandum.probabilities(torch.cat(shown))
        first, second = probabilities.gather(1, classes.repeat(2)[:, None])[:, 0].chunk(2)
        return first, second


class RaNEMWithAreas(RaNEM):
    """The network of Ra-NEM, which sees features alone, with the soft masks of EvidenceNEM."""

    optimizer_defaults = EvidenceNEM.optimizer_defaults

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of EvidenceNEM."""
        images = batch["image"]
        with torch.no_grad():
            features, logits = self.explanandum.features_and_logits(images)
        scores = standardise(self.scores(features, images.shape[-2:]))
        inserted, deleted = areas.drawn_areas(
            self.explanandum, ESTIMATOR, images, scores, logits.argmax(dim=1), generator
        )
        return {"insertion": 1 - inserted.mean(), "deletion": deleted.mean()}


class Saved(Explainer):
    """The maps of a checkpoint, averaged over cells, which takes their texture away.

    Args:
        explanandum: The classifier to explain.
        checkpoint: Checkpoint of an explainer of this classifier.
        cell: Side of the square cells in pixels. 1 leaves the maps as they are.
        seed: Not used; every method accepts it.
    """

    needs_gradients = True

    def __init__(
        self, explanandum: Explanandum, checkpoint: str, cell: int = 1, seed: int = 0
    ) -> None:
        super().__init__(explanandum, seed)
        self.saved, self.cell = load_beside(explanandum, checkpoint), cell

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) of the checkpoint's explainer."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image."""
        maps = self.saved.class_maps(images, classes)
        if self.cell == 1:
            return maps
        means = F.avg_pool2d(maps, self.cell, ceil_mode=True)
        return F.interpolate(means, scale_factor=self.cell)[..., : maps.shape[-2], : maps.shape[-1]]
