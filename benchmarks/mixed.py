"""Explainers between Ra-NEM and EvidenceNEM: they tell which of two changes brings the gain.

python train.py fit -c configs/recipes/photos.yaml --model benchmarks.mixed.EvidenceWithOmega
"""

from typing import Any

import torch
from torch import Tensor

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
