"""Pictures of sample explanations, during training and tests."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from explainers.base import Explainer
from explainers.evaluation import drawing
from explainers.evaluation.measure import unit_maps
from explainers.functional import masking

CHUNK = 20  # number of class maps computed at once, to limit the memory


class LogMaps(Callback):
    """Draws the explanations of the first images, always the same ones, in validation and tests.

    There are two sheets with one row for each image. The first one shows the image, the map, the
    overlay, and the masked image. The second one shows the classes with the strongest maps
    (NN-Explainer, appendix C). The sheets are PNG files in the run folder. If the trainer logs to
    Weights & Biases, they are also sent there. With several processes, the images are the first
    ones of the first process.

    Args:
        images: Number of images.
        topk: Number of classes on the second sheet. 0 draws no second sheet. The sheet needs maps
            of many classes, so it is drawn only for explainers that share work among classes (with
            their own `class_maps`, without gradients).
        every_n_epochs: Number of validation epochs between two sheets.
        output_dir: Folder of the sheets. None takes the folder `maps` in that of the logger, or
            runs/maps without a logger.
        candidates: Maximum number of classes that compete for the second sheet. If there are more
            classes, the most probable ones compete.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        images: int = 8,
        topk: int = 5,
        every_n_epochs: int = 1,
        output_dir: str | None = None,
        candidates: int = 100,
    ) -> None:
        super().__init__()
        if min(images, every_n_epochs, candidates) < 1 or topk < 0:
            raise ValueError(
                "expected images, every_n_epochs, candidates >= 1 and topk >= 0, "
                f"got {images}, {every_n_epochs}, {candidates} and {topk}"
            )
        self.images, self.topk, self.every_n_epochs = images, topk, every_n_epochs
        self.output_dir, self.candidates = output_dir, candidates
        self._clear()

    def _clear(self) -> None:
        self._rows: list[list[drawing.Picture]] = []
        self._class_rows: list[list[drawing.Picture]] = []
        self._class_titles: list[list[str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determines the folder. This is done here because all processes must take part."""
        folder = trainer.log_dir if trainer.loggers else None
        self._folder = Path(self.output_dir or (Path(folder) / "maps" if folder else "runs/maps"))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explains images until there are enough."""
        if not trainer.sanity_checking and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._collect(trainer, pl_module, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explains images until there are enough."""
        self._collect(trainer, pl_module, batch, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sheets of the epoch."""
        self._write(trainer, "val", f"val-epoch-{trainer.current_epoch:03d}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sheets of the test."""
        self._write(trainer, "test", "test")

    @torch.no_grad()
    def _collect(
        self, trainer: Trainer, module: LightningModule, batch: dict[str, Any], dataloader_idx: int
    ) -> None:
        if not isinstance(module, Explainer) or not trainer.is_global_zero or dataloader_idx:
            return
        images = batch["image"][: self.images - len(self._rows)]
        if not len(images):
            return
        labels = batch["target"][: len(images)] if "target" in batch else None
        targets = module.explanandum.predict(images) if labels is None else labels
        maps = unit_maps(module, module.attribute(images, targets).detach())
        self._rows += [
            explained(module, image, values) for image, values in zip(images, maps, strict=True)
        ]
        own = type(module).class_maps is not Explainer.class_maps
        shares = own and not module.needs_gradients
        for row, image in enumerate(images if self.topk and shares else ()):
            shown, titles = strongest(
                module, image, None if labels is None else labels[row], self.topk, self.candidates
            )
            self._class_rows.append([drawing.picture(image), *shown])
            self._class_titles.append(["image", *titles])

    def _write(self, trainer: Trainer, stage: str, name: str) -> None:
        if self._rows:
            titles = [["image", "map", "overlay", "kept"]] + [[""] * 4] * (len(self._rows) - 1)
            self._keep(trainer, f"{stage}/maps", name, drawing.sheet(self._rows, titles))
        if self._class_rows:
            self._keep(
                trainer,
                f"{stage}/classes",
                f"{name}-classes",
                drawing.sheet(self._class_rows, self._class_titles),
            )
        self._clear()

    def _keep(self, trainer: Trainer, key: str, name: str, shown: drawing.Picture) -> None:
        drawing.save(shown, self._folder / f"{name}.png")
        drawing.log(trainer, key, shown)


def explained(explainer: Explainer, image: Tensor, values: Tensor) -> list[drawing.Picture]:
    """Pictures: the image (3, H, W), its map (H, W) in [0, 1], the overlay and the masked image."""
    kept = masking.blend(image[None], values[None], explainer.explanandum.mean)[0]
    return [
        drawing.picture(image),
        drawing.heat(values),
        drawing.overlay(image, values),
        drawing.picture(kept),
    ]


def strongest(
    explainer: Explainer, image: Tensor, label: Tensor | None, topk: int, candidates: int = 100
) -> tuple[list[drawing.Picture], list[str]]:
    """The class maps with the largest mean, strongest first.

    Source: Stalder et al., NeurIPS 2022, appendix C. AMA is the average mask activation and CLS the
    probability of the class for the unmasked image, both times 100. Classes that the image shows
    are marked by two asterisks.

    Args:
        explainer: Method to draw. Its maps are min-max scaled if they are not masks.
        image: Image (3, H, W) in [0, 1].
        label: Classes that the image shows, (K,) bool, if they are known.
        topk: Number of maps.
        candidates: Maximum number of classes whose maps are computed. If there are more classes,
            the most probable ones are taken.

    Returns:
        The heat maps and their titles.
    """
    probabilities = explainer.explanandum.probabilities(image[None])[0]
    classes = probabilities.topk(min(candidates, len(probabilities))).indices.sort().values
    chunks = [
        unit_maps(explainer, explainer.class_maps(image[None], c[None])[0])
        for c in torch.split(classes, CHUNK)
    ]
    maps = torch.cat(chunks).detach()
    activation = maps.mean(dim=(1, 2))
    order = activation.argsort(descending=True, stable=True)[:topk].tolist()
    titles = []
    for i in order:
        c = int(classes[i])
        star = " **" if label is not None and bool(label[c]) else ""
        numbers = f"AMA {100 * float(activation[i]):.1f}  CLS {100 * float(probabilities[c]):.1f}"
        titles.append(f"{explainer.explanandum.class_names[c][:20]}{star}\n{numbers}")
    return [drawing.heat(maps[i]) for i in order], titles
