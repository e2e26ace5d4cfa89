"""Faithfulness on a few validation images, to choose a checkpoint and to judge the training."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.gradients import pyramid_maps
from explainers.metrics.faithfulness import RISECurves
from explainers.metrics.statistics import signed_rank

LEVEL = 0.05  # of the test whether a training was worth it


class ValidationFaithfulness(Callback):
    """Logs `val/Faithfulness`: insertion minus deletion area of the predicted class, in [-1, 1].

    It is measured by `metrics.faithfulness.RISECurves` on the first images of each validation,
    which are always the same. With several processes, each one measures that many images.

    At the end of the fit, the last values are compared with those of `cam.PyramidCAM`, which needs
    no training, on the same images: a sentence says whether the trained explainer is worth using,
    by a paired Wilcoxon test at the level .05. The first process compares its own images. Nothing
    is said of classifiers whose stages are not known.

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
        self.began = time.perf_counter()
        self.verdict = ""
        self._values: list[Tensor] = []  # of the last validation, batch by batch
        self._untrained: list[Tensor] = []  # of PyramidCAM on the same images
        self.metric = (
            RISECurves(steps=steps) if draws is None else RISECurves(pixels=1, draws=draws)
        )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts again with the first images."""
        self.left, self._values = self.images, []

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
        self._values.append(found.double().cpu())
        if len(self._untrained) < len(self._values):
            try:
                rival = pyramid_maps(explanandum, images, classes[:, None])[:, 0]
            except NotDefinedError:
                rival = torch.full_like(maps, torch.nan)
            values = self.metric.score(images, rival, targets, explanandum)["Faithfulness"]
            self._untrained.append(values.double().cpu())
        mean = found.mean().to(pl_module.device, torch.float32)
        pl_module.log("val/Faithfulness", mean, batch_size=len(images), sync_dist=True)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the clock."""
        self.began = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says whether the training was worth its time."""
        if not self._values:
            return
        own, rival = torch.cat(self._values), torch.cat(self._untrained)
        if not (own.isfinite().all() and rival.isfinite().all()):
            return
        difference, p = float((own - rival).mean()), signed_rank((own - rival).numpy())
        better = difference > 0 and p < LEVEL
        minutes = (time.perf_counter() - self.began) / 60
        self.verdict = (
            f"{minutes:.1f} min; Faithfulness on {len(own)} validation images {own.mean():.3f}, of "
            f"pyramid_cam, which needs no training, {rival.mean():.3f} ({difference:+.3f}, "
            f"p {p:.2g}): "
            + ("worth using" if better else "use pyramid_cam instead, or train longer")
        )
        rank_zero_info(self.verdict)
