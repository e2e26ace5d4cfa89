"""Files with the explanations of a folder of images."""

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
    """Saves each predicted map at once: the map, its classes, a heat map and an overlay.

    The files are named after the images. For `cats/1.jpg` they are

        - `cats/1.jpg.npy`: map (H, W) in float32, as the method returns it;
        - `cats/1.jpg.classes.txt`: names of the predicted classes that it explains, one per line;
        - `cats/1.jpg.heat.png` and `cats/1.jpg.overlay.png`: pictures of the map, which is
          min-max scaled unless it is a mask.

    Images whose files exist are removed from their batch, so that an interrupted run continues
    where it stopped. If a whole batch is done, its first image stays, because a prediction cannot
    be skipped.

    Args:
        output_dir: Folder of the files.
    """

    def __init__(self, output_dir: str = "runs/explanations") -> None:
        super().__init__()
        self.output_dir = output_dir

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a folder with the maps of another method, classifier or data set.

        Raises:
            ValueError: If the folder holds such maps.
        """
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
                "Delete that folder, or choose another output_dir: --save.output_dir FOLDER"
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
        """Removes images whose maps are already saved from the batch."""
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
        """Saves the files of the batch, the map last. If a map exists, so do the other files."""
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
        """Path of an image's file, which lies inside the folder whatever the name of the image."""
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
