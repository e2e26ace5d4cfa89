"""Pictures of sample explanations, during training and tests."""

from collections.abc import Sequence
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
    overlay, what the map keeps and what it removes, with the probability of the target before and
    after. The second one shows the classes with the strongest maps (NN-Explainer, appendix C). The
    sheets are PNG files in the run folder. If the trainer logs to Weights & Biases or TensorBoard,
    they are also sent there. Weights & Biases also gets the images of the second sheet, with the
    class of each pixel laid over them, if the maps are masks: the strongest one above 0.5. With
    several processes, the images are the first ones of the first process.

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
        self._numbers: dict[int, int] = {}  # of the classes in the overlays, the same in all epochs
        self._names = {0: "none"}
        self._clear()

    def _clear(self) -> None:
        self._rows: list[list[drawing.Picture]] = []
        self._titles: list[list[str]] = []
        self._class_rows: list[list[drawing.Picture]] = []
        self._class_titles: list[list[str]] = []
        self._labels: list[drawing.Labels] = []

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
        pictures, words = explained(module, images, maps, targets, batch.get("name"))
        self._rows += pictures
        self._titles += words
        own = type(module).class_maps is not Explainer.class_maps
        shares = own and not module.needs_gradients
        for row, image in enumerate(images if self.topk and shares else ()):
            shown, numbers = strongest(module, image, self.topk, self.candidates)
            label = None if labels is None else labels[row]
            self._class_rows.append([drawing.picture(image), *map(drawing.heat, shown)])
            titles = class_titles(module, image, label, shown, numbers)
            self._class_titles.append(["image", *titles])
            if module.is_mask:
                self._labels.append(self._overlay(module, shown, numbers))

    def _overlay(self, module: Explainer, maps: Tensor, classes: list[int]) -> drawing.Labels:
        for c in classes:
            if c not in self._numbers and len(self._names) < 256:  # as many as uint8 tells apart
                self._numbers[c] = len(self._names)
                self._names[len(self._names)] = module.explanandum.class_names[c]
        numbers = torch.tensor([self._numbers.get(c, 0) for c in classes], dtype=torch.uint8)
        best = maps.cpu().max(dim=0)
        labels: drawing.Labels = numbers[best.indices].where(best.values > 0.5, 0).numpy()
        return labels

    def _write(self, trainer: Trainer, stage: str, name: str) -> None:
        if self._rows:
            self._keep(trainer, f"{stage}/maps", name, drawing.sheet(self._rows, self._titles))
        if self._class_rows:
            self._keep(
                trainer,
                f"{stage}/classes",
                f"{name}-classes",
                drawing.sheet(self._class_rows, self._class_titles),
            )
        if self._labels:
            images = [row[0] for row in self._class_rows]
            drawing.log_labels(trainer, f"{stage}/masks", images, self._labels, self._names)
        self._clear()

    def _keep(self, trainer: Trainer, key: str, name: str, shown: drawing.Picture) -> None:
        drawing.save(shown, self._folder / f"{name}.png")
        drawing.log(trainer, key, shown)


def explained(
    explainer: Explainer,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    names: Sequence[str] | None = None,
) -> tuple[list[list[drawing.Picture]], list[list[str]]]:
    """Pictures of each image: itself, its map, the overlay, what the map keeps and what it removes.

    Args:
        explainer: Method to draw.
        images: Images (B, 3, H, W) in [0, 1].
        maps: Their maps (B, H, W) in [0, 1].
        targets: Explained classes (B, K) bool.
        names: Names of the images.

    Returns:
        The pictures and their titles. They name the target, of several classes the most probable
        one and the number of others, with its probability for the image, for what is kept and for
        what is removed. The prediction is named too where it is no target.
    """
    explanandum = explainer.explanandum
    kept = masking.blend(images, maps, explanandum.mean)
    removed = masking.blend(images, 1 - maps, explanandum.mean)
    before, after, without = explanandum.probabilities(torch.cat([images, kept, removed])).chunk(3)
    rows, titles = [], []
    for i, classes in enumerate(targets):
        pictures = [images[i], kept[i], removed[i]]
        image, inside, outside = map(drawing.picture, pictures)
        heat, laid = drawing.heat(maps[i]), drawing.overlay(images[i], maps[i])
        rows.append([image, heat, laid, inside, outside])
        words = ["image" if names is None else Path(names[i]).name[-28:]]
        told = ["map", "overlay", "kept", "removed"]
        top = int(before[i].argmax())
        if classes.any():
            c = int(before[i].where(classes, -1).argmax())
            more = f" (+{int(classes.sum()) - 1})" if classes.sum() > 1 else ""
            name = explanandum.class_names[c][:20]
            words.append(f"target {name} {float(before[i, c]):.2f}{more}")
            told[2:] = [f"kept {float(after[i, c]):.2f}", f"removed {float(without[i, c]):.2f}"]
        if not classes[top]:
            name = explanandum.class_names[top][:17]
            words.append(f"predicted {name} {float(before[i, top]):.2f}")
        if not maps[i].isfinite().all():
            told[0] = "map, partly missing"
        elif not maps[i].any():
            told[0] = "map, 0 everywhere"
        titles.append(["\n".join(words), *told])
    return rows, titles


def strongest(
    explainer: Explainer, image: Tensor, topk: int, candidates: int = 100
) -> tuple[Tensor, list[int]]:
    """The class maps with the largest mean, strongest first.

    Args:
        explainer: Method to draw. Its maps are min-max scaled if they are not masks.
        image: Image (3, H, W) in [0, 1].
        topk: Number of maps.
        candidates: Maximum number of classes whose maps are computed. If there are more classes,
            the most probable ones are taken.

    Returns:
        The maps (k, H, W) in [0, 1] and their classes.
    """
    probabilities = explainer.explanandum.probabilities(image[None])[0]
    classes = probabilities.topk(min(candidates, len(probabilities))).indices.sort().values
    chunks = [
        unit_maps(explainer, explainer.class_maps(image[None], c[None])[0])
        for c in torch.split(classes, CHUNK)
    ]
    maps = torch.cat(chunks).detach()
    order = maps.mean(dim=(1, 2)).argsort(descending=True, stable=True)[:topk]
    return maps[order], classes[order].tolist()


def class_titles(
    explainer: Explainer, image: Tensor, label: Tensor | None, maps: Tensor, classes: list[int]
) -> list[str]:
    """Titles of the maps (k, H, W) of some classes of an image (3, H, W).

    Source: Stalder et al., NeurIPS 2022, appendix C. AMA is the average mask activation and CLS the
    probability of the class for the unmasked image, both times 100. Classes that the image shows,
    (K,) bool in `label`, are marked by two asterisks.
    """
    probabilities = explainer.explanandum.probabilities(image[None])[0]
    titles = []
    for c, values in zip(classes, maps, strict=True):
        star = " **" if label is not None and bool(label[c]) else ""
        numbers = f"AMA {100 * float(values.mean()):.1f}  CLS {100 * float(probabilities[c]):.1f}"
        titles.append(f"{explainer.explanandum.class_names[c][:20]}{star}\n{numbers}")
    return titles
