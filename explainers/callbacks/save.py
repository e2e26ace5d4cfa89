"""Files with the explanations of a folder of images."""

import difflib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from explainers.base import Explainer
from explainers.callbacks.mapfiles import MapFiles, class_label, file_name
from explainers.evaluation import drawing
from explainers.evaluation.attempts import halved, told
from explainers.evaluation.dataimages import DataImages
from explainers.evaluation.measure import shown_maps
from explainers.evaluation.provenance import describe_run
from explainers.evaluation.runfolder import RunFolder
from explainers.evaluation.targets import class_ids, take
from explainers.naming import class_path, method_name
from explainers.options import check_choices

CLASSES = ("predicted", "all")
BYTES = 2**26  # of the maps that a method computes at once, if there are many classes
FATAL = (MemoryError, torch.AcceleratorError)  # after these, nothing else works either

Result = TypeVar("Result")


class SaveMaps(Callback):
    """Explains the images of a prediction and saves each map at once, with pictures of it.

    The files are named after the images. For `cats/1.jpg` they are

        - `cats/1.jpg.npy`: map (H, W) in float32, as the method returns it;
        - `cats/1.jpg.classes.txt`: names of the classes that it explains, one per line;
        - `cats/1.jpg.heat.png` and `cats/1.jpg.overlay.png`: pictures of the map, which is
          min-max scaled unless it is a mask; of signed maps, blue below 0 and red above.

    With `classes`, the array has the maps (k, H, W) of k classes, in the order of the lines, and
    each class has its own pictures, such as `cats/1.jpg.tench.heat.png`.

    The map is the last file of an image. Images that have one are skipped, so that an interrupted
    run continues where it stopped. The trainer gets no maps, so memory does not grow.

    Args:
        output_dir: Folder of the files. None takes the trainer's `default_root_dir`.
        classes: Classes that have a map of their own: the "predicted" ones, "all", or those of a
            list of names. None saves a single map of the predicted classes.
        one_by_one: Whether to explain images one at a time, so that each is saved at once. None
            does so on the CPU, which gains little from larger batches.
        errors: Whether an image for which the method raises an error is left out, "skip", or the
            run ends, "raise". `errors.csv` lists such images, and those that could not be read. A
            later run tries them again.

    Raises:
        ValueError: If `classes` is empty or another word, or `errors` has none of its values.
    """

    explains = True  # the explainer's own `predict_step` then returns nothing

    def __init__(
        self,
        output_dir: str | None = None,
        classes: Literal["predicted", "all"] | list[str] | None = None,
        one_by_one: bool | None = None,
        errors: Literal["skip", "raise"] = "skip",
    ) -> None:
        check_choices(type(self), {"errors": errors})
        if not classes if isinstance(classes, list) else classes not in (None, *CLASSES):
            raise ValueError(
                f"classes must be 'predicted', 'all', a list of names or None, got {classes!r}"
            )
        super().__init__()
        self.output_dir, self.classes = output_dir, classes
        self.one_by_one, self.errors = one_by_one, errors
        self._run: RunFolder | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the folder.

        Raises:
            ValueError: If it holds the maps of another run, or `classes` names an unknown class.
        """
        if not isinstance(pl_module, Explainer):
            raise ValueError(
                f"SaveMaps writes the maps of an Explainer, got {type(pl_module).__name__}"
            )
        self._explainer = pl_module
        self._method = method_name(class_path(type(pl_module)))
        self._names = pl_module.explanandum.class_names
        self._ids = _find(self.classes, self._names)
        on_cpu = pl_module.device.type == "cpu"
        self._alone = on_cpu if self.one_by_one is None else self.one_by_one
        folder = Path(self.output_dir or trainer.default_root_dir)
        self._data = DataImages(trainer, "predict")
        self._files = MapFiles(folder, trainer.global_rank)
        settings = {
            **describe_run({self._method: pl_module}, []),
            "data": self._data.settings_of_each,
            "save.classes": self.classes,
            "precision": trainer.precision,
        }
        self._run = RunFolder(
            folder,
            settings,
            self._files.hold_maps(),
            name="predict.json",
            rank=trainer.global_rank,
        )
        self._data.check(self._files.identities(), file_name, folder)
        trainer.strategy.barrier("SaveMaps: checked")
        if trainer.is_global_zero:
            self._files.clear()
        trainer.strategy.barrier("SaveMaps: cleared")
        self._seen: set[str] = set()
        self._failed = self._not_finite = 0
        self._first = ""
        rank_zero_info(f"maps go to {folder}; images that have one there are skipped")

    @torch.no_grad()
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explains the images of the batch that have no map yet, and saves their files.

        Raises:
            ValueError: If two images have the same name.
        """
        for name in batch["name"]:
            if name in self._seen:
                raise ValueError(f"two images are called {name!r}: names must be unique")
            self._seen.add(name)
        batch = {**batch, "image": batch["image"].float()}
        with trainer.precision_plugin.predict_step_context():
            self._explain(batch, self._alone)
        self._list_unread()

    def _explain(self, batch: dict[str, Any], alone: bool) -> None:
        """Explains and saves the images that have no map. If they fail, each is tried alone."""
        while rows := [i for i, name in enumerate(batch["name"]) if not self._files.has(name)]:
            if alone and len(rows) > 1:
                break
            try:
                return self._save(take(batch, rows))
            except _MethodError as caught:
                error = caught.reason
            if self.errors == "raise" or isinstance(error, FATAL):
                raise error
            if halved(self._explainer, error):
                del error  # it holds the tensors of the pass that failed
                continue
            if len(rows) == 1:
                self._failed += 1
                return self._add_error(batch["name"][rows[0]], self._method, told(error))
            break
        for row in rows:
            self._explain(take(batch, [row]), alone)

    def _save(self, batch: dict[str, Any]) -> None:
        """Saves the maps of each image as soon as it has all."""
        explainer, images = self._explainer, batch["image"]
        targets = _of_method(self._targets, batch)
        ids = class_ids(targets) if self._ids is None else [self._ids] * len(images)
        if self.classes is None:
            maps = _of_method(explainer.attribute, images, targets)
            for row, values in enumerate(maps):
                self._write(batch, row, ids[row], iter([values[None]]))
            return
        most = max(1, BYTES // (4 * images[0, 0].numel()))  # maps at once
        for count in dict.fromkeys(map(len, ids)):
            same = [row for row, own in enumerate(ids) if len(own) == count]
            some = max(1, most // count)
            for rows in (same[start : start + some] for start in range(0, len(same), some)):
                classes = torch.tensor([ids[row] for row in rows], device=images.device)
                # Only the classes of a single image take several parts.
                parts = (
                    _of_method(explainer.class_maps, images[rows], part)
                    for part in torch.split(classes, most, dim=1)
                )
                first = next(parts)
                for row, maps in zip(rows, first, strict=True):
                    rest = (part[0] for part in parts)
                    self._write(batch, row, ids[row], itertools.chain([maps], rest))

    def _targets(self, batch: dict[str, Any]) -> Tensor:
        explanandum = self._explainer.explanandum
        self._explainer.observe(batch)
        logits = explanandum(batch["image"])
        if not bool(logits.isfinite().all()):
            raise ValueError("the classifier's outputs are not finite")
        return explanandum.to_targets(logits)

    def _write(
        self, batch: dict[str, Any], row: int, ids: list[int], parts: Iterator[Tensor]
    ) -> None:
        """Writes the files of an image, whose maps come in parts (n, H, W)."""
        name, image, files = batch["name"][row], batch["image"][row], self._files
        one = self.classes is None
        labels = iter([None] if one else [class_label(self._names[index]) for index in ids])
        shape = () if one else (len(ids),)
        finite = True
        with files.array(files.path(name, ".npy"), (*shape, *image.shape[-2:])) as add:
            for maps in parts:
                signed = self._explainer.is_signed
                for shown, label in zip(shown_maps(self._explainer, maps), labels, strict=False):
                    files.picture(files.path(name, ".heat.png", label), drawing.heat(shown, signed))
                    overlay = drawing.overlay(image, shown, signed=signed)
                    files.picture(files.path(name, ".overlay.png", label), overlay)
                add(maps)
                finite = finite and bool(maps.isfinite().all())
            shown_names = [self._names[index] for index in ids]
            files.classes(files.path(name, ".classes.txt"), shown_names)
            index = batch.get("index")
            files.enter(name, "" if index is None else self._data.identity(int(index[row])))
        self._not_finite += not finite

    def _list_unread(self) -> None:
        for name, reason in self._data.newly_unread().items():
            self._add_error(name, "", reason)

    def _add_error(self, image: str, method: str, error: str) -> None:
        line = " ".join(error.split())
        self._first = self._first or line
        self._files.error(image, method, line)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how many images have no map, or one that is not finite.

        Raises:
            ValueError: If no image has a map.
        """
        self._list_unread()
        unread = len(self._data.unread)
        counts = torch.tensor(
            [len(self._seen) + unread, self._failed + unread, self._not_finite],
            device=pl_module.device,
        )
        images, lost, not_finite = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        self.teardown(trainer, pl_module, "predict")
        where = f"{self._files.folder / 'errors.csv'} says why"
        if lost == images > 0:
            first = f", the first by {self._first}" if self._first else ""
            raise ValueError(f"no map: all {images} images failed{first}; {where}")
        found = []
        if lost:
            found.append(f"{lost} of {images} images have no map, {where}; a later run tries again")
        if not_finite:
            found.append(f"the maps of {not_finite} images are not finite, and saved as they are")
        if found:
            rank_zero_warn("; ".join(found))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Lets other runs write the folder."""
        self.teardown(trainer, pl_module, "predict")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets other runs write the folder."""
        if self._run is not None:
            self._run.release()
            self._run = None


class _MethodError(Exception):
    """What a method raised, as opposed to errors of the files."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


def _of_method(function: Callable[..., Result], *args: Any) -> Result:
    try:
        return function(*args)
    except Exception as error:
        raise _MethodError(error) from error


def _find(asked: str | list[str] | None, names: Sequence[str]) -> list[int] | None:
    """Indices of the classes that are the same for every image, or None if they differ."""
    if not isinstance(asked, list):
        return list(range(len(names))) if asked == "all" else None
    for name in asked:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise ValueError(
                f"save.classes: the classifier has no class {name!r}; did you mean {near[0]!r}?"
            )
    return [names.index(name) for name in dict.fromkeys(asked)]
