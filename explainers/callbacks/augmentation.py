"""A trained explainer as an augmentation of a classifier's training."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from explainers.checkpoint import load
from explainers.functional import masking, seeds


class KeepExplained(Callback):
    """Shows a classifier in training the explained part of some images, the rest in a mean color.

    The explainer masks the labels of an image, so the labels stay. It is the use of class masks
    that Stalder et al. (NeurIPS 2022) give as an outlook: a classifier that has seen such images
    depends less on the surroundings. A resumed fit repeats its choices.

    Args:
        checkpoint: Checkpoint of an explainer whose maps are masks, such as `DeepLabExplainer`. It
            may explain an earlier training of this classifier, or another one of these classes.
        share: Fraction of the training images that are masked.
        seed: Seed of the choice.

    Raises:
        ValueError: If `share` is not in [0, 1], if the maps of the explainer are no masks, or if a
            batch has no labels, or other classes than the explainer.
    """

    def __init__(self, checkpoint: str, share: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share must lie in [0, 1], got {share}")
        self.explainer, self.share, self.seed = load(checkpoint), share, seed
        if not self.explainer.is_mask:
            name = type(self.explainer).__name__
            raise ValueError(
                f"{checkpoint} is a {name}, whose maps are no masks; deeplab and rtis have masks"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Masks some images of the batch."""
        if "target" not in batch:
            raise ValueError("KeepExplained masks the labels of an image; these data have none")
        images = batch["image"]
        seed = seeds.combine(self.seed, trainer.global_step, trainer.global_rank)
        draws = torch.rand(len(images), generator=torch.Generator().manual_seed(seed))
        chosen = (draws < self.share).to(images.device) & batch["target"].any(dim=1)
        if chosen.any():
            explainer = self.explainer.to(images.device)
            with torch.no_grad():
                masks = explainer.attribute(images[chosen], batch["target"][chosen])
            kept = masking.blend(images[chosen], masks, explainer.explanandum.mean)
            batch["image"] = images.clone().index_copy_(0, chosen.nonzero()[:, 0], kept)
