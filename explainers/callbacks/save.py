"""Explanations of a folder of images as files."""

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from explainers.base import Explainer
from explainers.checkpoint import fingerprint
from explainers.evaluation import drawing
from explainers.evaluation.measure import unit_maps
from explainers.evaluation.provenance import data_name, describe
from explainers.evaluation.scorefile import differences, write_atomically
from explainers.evaluation.targets import take


class SaveMaps(Callback):
    """Writes each predicted map as it comes: the map, its classes, a heat map and an overlay.

    The files mirror the images' names: `cats/1.jpg` becomes `cats/1.jpg.npy` (float32, (H, W), as
    the method gives it), `cats/1.jpg.classes.txt` (the predicted classes that it explains, a name a
    line), `cats/1.jpg.heat.png` and `cats/1.jpg.overlay.png` (min-maxed if the maps are not masks).
    Images whose files exist are taken out of their batch, so an interrupted run
    goes on where it stopped; of a batch that is done altogether the first image stays in, since a
    prediction cannot be skipped.

    Args:
        output_dir: Folder of the files.
    """

    def __init__(self, output_dir: str = "runs/explanations") -> None:
        super().__init__()
        self.output_dir = output_dir

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a folder of another method's, classifier's or data's maps."""
        explainer = _explainer(pl_module)
        data = getattr(trainer, "datamodule", None)
        settings = {
            "method": {**describe(explainer), "weights": fingerprint(explainer)},
            "data": {"name": data_name(trainer), "root": str(getattr(data, "root", ""))},
            "image_size": getattr(data, "image_size", None),
        }
        settings = json.loads(json.dumps(settings))
        path = Path(self.output_dir) / "settings.json"
        if path.exists() and (found := differences(json.loads(path.read_text()), settings)):
            raise ValueError(
                f"{self.output_dir} holds the maps of another run: {'; '.join(found[:3])}. "
                "Delete that folder, or give SaveMaps another output_dir in a copy of the config"
            )
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(settings, indent=2))
        rank_zero_info(f"maps go to {self.output_dir}; images that have one are skipped")

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take out the images that are done."""
        rows = [
            row for row, name in enumerate(batch["name"]) if not self._path(name, ".npy").exists()
        ]
        if len(rows) < len(batch["name"]):
            batch.update(take(batch, rows or [0]))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of the batch, the map last: where it is, the others are."""
        maps, explainer = outputs["maps"].detach().float(), _explainer(pl_module)
        class_names = explainer.explanandum.class_names
        for name, image, values, shown, target in zip(
            batch["name"],
            batch["image"],
            maps,
            unit_maps(explainer, maps),
            outputs["targets"],
            strict=True,
        ):
            if not self._path(name, ".npy").exists():
                drawing.save(drawing.heat(shown), self._path(name, ".heat.png"))
                drawing.save(drawing.overlay(image, shown), self._path(name, ".overlay.png"))
                found = [class_names[index] for index in target.nonzero().flatten().tolist()]
                self._path(name, ".classes.txt").write_text("\n".join(found) + "\n", "utf-8")
                _save_array(values.cpu().numpy(), self._path(name, ".npy"))

    def _path(self, name: str, ending: str) -> Path:
        """File of an image, inside the folder whatever its name says."""
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
        return Path(self.output_dir, *parts[:-1], parts[-1] + ending)


def _explainer(module: LightningModule) -> Explainer:
    if not isinstance(module, Explainer):
        raise ValueError(f"SaveMaps writes the maps of an Explainer, got {type(module).__name__}")
    return module


def _save_array(values: NDArray[np.float32], path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, values)
    os.replace(temporary, path)
