"""EvidenceNEM: a small trained network on the evidence of all stages ranks pixels for any class."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from explainers.explanandum import Explanandum, layouts
from explainers.explanandum.folding import folded
from explainers.explanandum.gradients import stage_evidence
from explainers.functional.soft_masks import stratified_shares
from explainers.learned import LearnedExplainer
from explainers.networks.evidence import EvidenceNetwork, EvidenceOptions
from explainers.optimization import areas
from explainers.optimization.areas import ESTIMATOR, SENSES, EstimatorOptions
from explainers.optimizers import ADAM, OptimizerOptions

NETWORK: EvidenceOptions = {"width": 32, "tile": 16}


class EvidenceNEM(LearnedExplainer):
    """Ranks pixels so that the first of them show a class, and that without them it is not seen.

    The network sees the features, their products with the gradients of the class's log-odds, and
    the maps of all stages. It starts as `cam.PyramidCAM` and learns what to add, so that few steps
    on unlabeled images are enough. Any class can be explained. An image costs one forward pass,
    and a backward pass for each class.

    The loss of an image is 1 - q, where q is the tempered probability of the predicted class if the
    first pixels are inserted into a fill, plus q if they are deleted. The share of the pixels is
    random. It estimates the areas under the insertion and deletion curves, by soft masks without
    noise. Labels are not used. The map is the raw scores, which rank the pixels and have no scale.

    It has no published source: the loss is that of Ra-NEM (`ra_nem.RaNEM`) with another estimator.

    Args:
        explanandum: The frozen classifier to explain. Its stages must be known.
        estimator: Options of the loss, see `EstimatorOptions`.
        network: Options of the network, see `networks.evidence.EvidenceNetwork`.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`. The default is AdamW
            with a learning rate of 3e-3 and a cosine schedule.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an option is out of range.
        NotDefinedError: If the stages of the classifier are not known.
    """

    uses_targets = False
    needs_gradients = True
    optimizer_defaults: ClassVar[OptimizerOptions] = {
        **ADAM,
        "lr": 3e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
    }

    def __init__(
        self,
        explanandum: Explanandum,
        estimator: EstimatorOptions | None = None,
        network: EvidenceOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        self.estimator: EstimatorOptions = self.complete("estimator", ESTIMATOR)
        areas.check(self.estimator)
        with layouts.trying(explanandum):
            trial = explanandum.mean.expand(1, 3, *explanandum.input_size)
            (evidence,), _ = stage_evidence(explanandum, trial)
        self._faster: list[Explanandum] = []  # in a list, so that it is no part of this module
        channels = [values.shape[1] for values in evidence.values]
        self.network = EvidenceNetwork(channels, **self.complete("network", NETWORK))

    def on_fit_start(self) -> None:
        """Makes a faster copy of the classifier for the passes of the training."""
        self._faster = [folded(self.explanandum)]

    def on_fit_end(self) -> None:
        """Forgets the copy."""
        self._faster = []

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scores (B, H, W). Several classes give the maximum of their scores, each min-maxed."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Scores (B, k, H, W) of several classes for each image, from one forward pass."""
        found, _ = stage_evidence(self.explanandum, images, classes)
        return torch.stack([self.network(each, images.shape[-2:]) for each in found], dim=1)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """`insertion`: mean 1 - q of images with the first pixels; `deletion`: q without them."""
        images = batch["image"]
        (explanandum,) = self._faster or [self.explanandum]
        (evidence,), logits = stage_evidence(explanandum, images)
        classes = logits.argmax(dim=1)
        scores = self.network(evidence, images.shape[-2:])
        shares, fills = zip(
            *(
                (stratified_shares(len(images), generator), self._fill(images, sense, generator))
                for sense in SENSES
            ),
            strict=True,
        )
        inserted, deleted = areas.areas(
            explanandum, self.estimator, images, scores, classes, fills, shares
        )
        return {"insertion": 1 - inserted.mean(), "deletion": deleted.mean()}

    def _fill(self, images: Tensor, sense: str, generator: torch.Generator) -> Tensor:
        """A fill for each image, drawn with the probabilities of the options."""
        names = areas.draw_fills(self.estimator, sense, len(images), generator)
        filled = torch.empty_like(images)
        with torch.autocast(images.device.type, enabled=False):
            for row, name in enumerate(names):
                fill = self.explanandum.fill(name, generator)
                filled[row : row + 1] = fill(images[row : row + 1])
        return filled
