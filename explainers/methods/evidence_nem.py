"""EvidenceNEM: a small trained network on the evidence of all stages ranks pixels for any class."""

from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor

from explainers.explanandum import Explanandum, layouts
from explainers.explanandum.gradients import stage_evidence
from explainers.functional.fills import OwnFill
from explainers.functional.losses import log_odds
from explainers.functional.soft_masks import soft_masks, stratified_shares, tempered
from explainers.learned import LearnedExplainer
from explainers.networks.evidence import EvidenceNetwork, EvidenceOptions
from explainers.optimizers import ADAM, OptimizerOptions


class EstimatorOptions(TypedDict, total=False):
    """How the areas under the curves are estimated.

    Args:
        sharpness: Inverse width of the soft masks, see `soft_masks.soft_masks`.
        temperature: Divisor of the log-odds, see `soft_masks.tempered`.
        insertion: Probability of each fill where pixels are inserted.
        deletion: Probability of each fill where pixels are deleted.
    """

    sharpness: float
    temperature: float
    insertion: dict[OwnFill, float]
    deletion: dict[OwnFill, float]


ESTIMATOR: EstimatorOptions = {
    "sharpness": 8.0,
    "temperature": 3.0,
    "insertion": {"kernel_blur": 0.4, "mean": 0.4, "noise": 0.2},
    "deletion": {"kernel_blur": 0.2, "mean": 0.6, "noise": 0.2},
}
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
        for name in ("insertion", "deletion"):
            chances = list(self.estimator[name].values())
            if not chances or min(chances) < 0 or abs(sum(chances) - 1) > 1e-6:
                raise ValueError(f"the probabilities of {name} must be >= 0 with sum 1")
        if min(self.estimator["sharpness"], self.estimator["temperature"]) <= 0:
            raise ValueError("sharpness and temperature must be positive")
        with layouts.trying(explanandum):
            trial = explanandum.mean.expand(1, 3, *explanandum.input_size)
            (evidence,), _ = stage_evidence(explanandum, trial)
        channels = [values.shape[1] for values in evidence.values]
        self.network = EvidenceNetwork(channels, **self.complete("network", NETWORK))

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
        (evidence,), logits = stage_evidence(self.explanandum, images)
        classes = logits.argmax(dim=1)
        scores = self.network(evidence, images.shape[-2:])
        shown = []
        for name in ("insertion", "deletion"):
            shares = stratified_shares(len(images), generator)
            masks = soft_masks(scores, shares, self.estimator["sharpness"])[:, None]
            fill = self._fill(images, name, generator)
            kept = masks if name == "insertion" else 1 - masks
            shown.append(fill + (images - fill) * kept)
        odds = log_odds(
            self.explanandum(torch.cat(shown)), classes.repeat(2), self.explanandum.multi_label
        )
        inserted, deleted = tempered(odds, self.estimator["temperature"]).chunk(2)
        return {"insertion": 1 - inserted.mean(), "deletion": deleted.mean()}

    def _fill(self, images: Tensor, sense: str, generator: torch.Generator) -> Tensor:
        """A fill for each image, drawn with the probabilities of the options."""
        chances = self.estimator[sense]  # type: ignore[literal-required]
        names, weights = list(chances), torch.tensor(list(chances.values()))
        choice = torch.multinomial(weights, len(images), replacement=True, generator=generator)
        filled = torch.empty_like(images)
        with torch.autocast(images.device.type, enabled=False):
            for row, number in enumerate(choice.tolist()):
                fill = self.explanandum.fill(names[number], generator)
                filled[row : row + 1] = fill(images[row : row + 1])
        return filled
