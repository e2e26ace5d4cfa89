"""The comparison sheet of a run: the first images beside the maps of all methods."""

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import Trainer
from torch import Tensor

from explainers.base import Explainer
from explainers.evaluation import drawing
from explainers.methods.constant import CentredGaussian, Constant, Random


class Panels:
    """Collects the first images of a run and draws them once, as one picture file.

    A run that goes on keeps the sheet that exists. Constants, noise and the centered bump are not
    shown.

    Args:
        path: File of the sheet.
        count: Number of images. 0 draws none.
        explainers: Methods by name.
    """

    def __init__(self, path: Path, count: int, explainers: Mapping[str, Explainer]) -> None:
        self.path, self.count = path, count
        self.shown = [
            name
            for name, explainer in explainers.items()
            if not isinstance(explainer, Constant | Random | CentredGaussian)
        ]
        self.rows: list[list[drawing.Picture]] = []
        self.done = count == 0 or path.exists()

    def add(self, trainer: Trainer, images: Tensor, maps: Mapping[str, Tensor]) -> None:
        """Adds images (B, 3, H, W) and their maps (B, H, W), and draws once there are enough."""
        if self.done:
            return
        for row in range(min(self.count - len(self.rows), len(images))):
            overlays = [drawing.overlay(images[row], maps[name][row]) for name in self.shown]
            self.rows.append([drawing.picture(images[row]), *overlays])
        if len(self.rows) == self.count:
            self.draw(trainer)

    def draw(self, trainer: Trainer) -> None:
        """Draws what there is, if anything and if not done before."""
        if self.done or not self.rows:
            return
        titles = [["image", *self.shown]] + [[""] * (len(self.shown) + 1)] * (len(self.rows) - 1)
        sheet = drawing.sheet(self.rows, titles)
        drawing.save(sheet, self.path)
        drawing.log(trainer, "test/panels", sheet)
        self.done = True
