"""The accuracy of the classifier on the images that are explained."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Subset

from explainers.base import Explainer
from explainers.evaluation.provenance import batch_size
from explainers.metrics.accuracy import ClassifierAccuracy, sentence, wilson

CERTAIN = 0.1  # widest interval of an accuracy that can be called as expected


class CheckClassifier(Callback):
    """Says how accurate the classifier is on the labeled images that a run explains.

    A classifier that is given a wrong mean, image size or class order still has explanations, which
    are explanations of something else. The accuracy (or F1, for a multi-label classifier) on the
    first images is therefore printed before the run explains any, and that on all images at its
    end. A warning follows if the 95 % interval does not lie above chance, or lies below the
    explanandum's `expected_accuracy`. Each image costs one more forward pass. Unlabeled images are
    not checked. `validate` compares the accuracy that it measures with the expected one.

    Args:
        images: Number of images that are checked before the run.
    """

    def __init__(self, images: int = 200) -> None:
        super().__init__()
        self.images = images
        self.judged: dict[str, Any] | None = None
        self._metric = ClassifierAccuracy()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the first images."""
        self._start(trainer, pl_module, trainer.test_dataloaders, trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the first images."""
        self._start(trainer, pl_module, trainer.predict_dataloaders, trainer.num_predict_batches)

    def _start(
        self, trainer: Trainer, module: LightningModule, loader: Any, batches: list[int | float]
    ) -> None:
        if not isinstance(module, Explainer):
            return
        self._metric = ClassifierAccuracy(module.explanandum.multi_label)
        self._all = False
        dataset: Any = getattr(loader, "dataset", None)
        if trainer.is_global_zero and hasattr(dataset, "__len__"):
            total = _count(loader, batches)
            count = min(self.images, total)
            for batch in _first(loader, count):
                if "target" not in batch:
                    return
                moved = {key: batch[key].to(module.device) for key in ("image", "target")}
                self._add(module, {**batch, **moved})
            self._all = count == total and trainer.world_size == 1
            self._say(module, "all" if self._all else f"the first {count} of {total}")
        if not self._all:
            self._metric.reset()

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the images of the batch."""
        if isinstance(pl_module, Explainer) and not self._all and "target" in batch:
            self._add(pl_module, batch)

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the images of the batch."""
        self.on_test_batch_start(trainer, pl_module, batch, batch_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judges all images."""
        if isinstance(pl_module, Explainer) and not self._all:
            self._metric.sync()
            self._say(pl_module, "all")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judges all images."""
        self.on_test_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares what `validate` measures with the explanandum's `expected_accuracy`.

        An accuracy is as expected if the expected one lies in the 95 % interval of the measured,
        unless few images make that interval wide. F1 has no such interval.
        """
        expected = getattr(getattr(pl_module, "network", None), "expected_accuracy", None)
        name = "f1" if getattr(pl_module, "multi_label", False) else "top1"
        measured = trainer.callback_metrics.get(f"val/{name}")
        if expected is None or measured is None:
            return
        value, verdict, below = float(measured), "", False
        if name == "top1":
            images = _count(trainer.val_dataloaders, trainer.num_val_batches)
            low, high = wilson(round(value * images), images)
            verdict = f", [{100 * low:.1f}, {100 * high:.1f}] on {images} images: " + (
                "below it; check the weights, mean, std, resizing and order of the classes"
                if high < expected
                else "above it; these may be images of its training, or easier ones"
                if low > expected
                else "as expected"
                if high - low < CERTAIN
                else "not told apart from it, by so few images"
            )
            below = high < expected
        (rank_zero_warn if below else rank_zero_info)(
            f"{name}: {100 * value:.1f} % measured, {100 * expected:.1f} % expected "
            f"({100 * (value - expected):+.1f} points){verdict}"
        )

    @torch.no_grad()
    def _add(self, module: Explainer, batch: dict[str, Any]) -> None:
        logits = module.explanandum(batch["image"])
        self._metric.update(batch["index"], labels=batch["target"], logits=logits)

    def _say(self, module: Explainer, which: str) -> None:
        self.judged = self._metric.judge(module.explanandum.expected_accuracy)
        if not self.judged["images"]:
            return
        which = f"all {self.judged['images']}" if which == "all" else which
        text = f"the classifier has {sentence(self.judged)} on {which} labeled images"
        if not self.judged["problem"]:
            rank_zero_info(text)
        else:
            rank_zero_warn(
                f"{text}: {self.judged['problem']}. Check its weights, mean, std and image size, "
                "and the order of the classes"
            )


def _count(loader: Any, batches: list[int | float]) -> int:
    """Number of images in the batches of a loader that a run uses."""
    return min(len(loader.dataset), int(min(batches[0], len(loader)) * batch_size(loader)))


def _first(loader: DataLoader[Any], count: int) -> Iterator[dict[str, Any]]:
    """The first images of a loader, by a loader of their own."""
    return iter(
        DataLoader(
            Subset(loader.dataset, range(count)),
            batch_size=batch_size(loader),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
            generator=torch.Generator(),
        )
    )
