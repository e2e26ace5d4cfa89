"""Faithfulness on a few validation images during training, to choose a checkpoint."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.metrics.faithfulness import RISECurves


class ValidationFaithfulness(Callback):
    """Logs `val/Faithfulness`: insertion minus deletion area of the predicted class, in [-1, 1].

    It is measured by `metrics.faithfulness.RISECurves` on the first images of each validation,
    which are always the same. With several processes, each one measures that many images.

    Args:
        images: Number of images.
        steps: Number of equal steps of the curves, which take 2 `steps` + 1 forward passes per
            image.
        draws: Number of points of each curve that are drawn from all pixels, a Monte Carlo estimate
            (Ra-NEM, eq. 6). It takes 2 `draws` + 1 forward passes per image, and `steps` is then
            unused.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, images: int = 16, steps: int = 25, draws: int | None = None) -> None:
        super().__init__()
        if min(images, steps) < 1:
            raise ValueError(f"expected images and steps >= 1, got {images} and {steps}")
        self.images, self.left = images, images
        self.metric = (
            RISECurves(steps=steps) if draws is None else RISECurves(pixels=1, draws=draws)
        )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts again with the first images."""
        self.left = self.images

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Scores images until there are enough."""
        images = batch["image"][: self.left]
        if not isinstance(pl_module, Explainer) or trainer.sanity_checking or not len(images):
            return
        self.left -= len(images)
        explanandum = pl_module.explanandum
        classes = explanandum(images).argmax(dim=1)
        targets = F.one_hot(classes, explanandum.num_classes).bool()
        maps = pl_module.attribute(images, targets)
        found = self.metric.score(images, maps, targets, explanandum)["Faithfulness"]
        mean = found.mean().to(pl_module.device, torch.float32)
        pl_module.log("val/Faithfulness", mean, batch_size=len(images), sync_dist=True)
