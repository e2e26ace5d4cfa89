"""The comparison sheet of a run: the first images beside the maps of all methods."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from explainers.base import Explainer
from explainers.evaluation import drawing
from explainers.evaluation.measure import shown_maps
from explainers.evaluation.targets import class_ids
from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.methods.constant import CentredGaussian, Constant, Random

WIDTH = 26  # letters of a line above a picture


class Panels:
    """Collects the first images of a run and draws them once, as one picture file.

    Above each image stand its name, its target and the predicted class with its probability, above
    each map its method and its scale. A run that goes on keeps the sheet that exists. Constants,
    noise and the centered bump are not shown.

    Args:
        path: File of the sheet.
        count: Number of images. 0 draws none.
        explainers: Methods by name.
        kept: Share of the pixels in a further picture of each map: its highest pixels, and the mean
            color elsewhere. The probability of the class on it stands above. None draws none.

    Raises:
        ValueError: If `kept` is not in (0, 1].
    """

    def __init__(
        self,
        path: Path,
        count: int,
        explainers: Mapping[str, Explainer],
        kept: float | None = None,
    ) -> None:
        if kept is not None and not 0 < kept <= 1:
            raise ValueError(f"panels_kept must lie in (0, 1], got {kept}")
        self.path, self.count, self.kept = path, count, kept
        self.shown = {
            name: explainer
            for name, explainer in explainers.items()
            if not isinstance(explainer, Constant | Random | CentredGaussian)
        }
        self.rows: list[list[drawing.Picture]] = []
        self.titles: list[list[str]] = []
        self.done = count == 0 or path.exists()

    def add(
        self,
        trainer: Trainer,
        images: Tensor,
        maps: Mapping[str, Tensor],
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds images, and draws once there are enough.

        Args:
            trainer: Trainer of the run.
            images: Images (B, 3, H, W).
            maps: Maps (B, H, W) of each method, as it gives them.
            inputs: `names` of the images, and `logits`, `targets` and `explanandum`, as the metrics
                take them. Without them, the images have no words.
        """
        if self.done:
            return
        for row in range(min(self.count - len(self.rows), len(images))):
            overlays, scales = [], []
            for name, each in self.shown.items():
                values = shown_maps(each, maps[name][row : row + 1])[0]
                overlays.append(drawing.overlay(images[row], values, signed=each.is_signed))
                scales.append(_scale(name, each, maps[name][row]))
                if self.kept is not None and inputs:
                    shown, words = _kept(self.kept, images[row], maps[name][row], inputs, row)
                    overlays.append(drawing.picture(shown))
                    scales.append(words)
            self.rows.append([drawing.picture(images[row]), *overlays])
            self.titles.append([_facts(inputs, row) if inputs else "image", *scales])
        if len(self.rows) == self.count:
            self.draw(trainer)

    def draw(self, trainer: Trainer) -> None:
        """Draws what there is, if anything and if not done before."""
        if self.done or not self.rows:
            return
        sheet = drawing.sheet(self.rows, self.titles)
        drawing.save(sheet, self.path)
        drawing.log(trainer, "test/panels", sheet)
        self.done = True


def _facts(inputs: Mapping[str, Any], row: int) -> str:
    """Name, target and prediction of an image, a line each."""
    subject: Explanandum = inputs["explanandum"]
    targets = class_ids(inputs["targets"][row : row + 1])[0]
    probabilities = subject.to_probabilities(inputs["logits"][row : row + 1])[0]
    best = int(probabilities.argmax())
    name = str(inputs["names"][row])
    lines = [
        name if len(name) <= WIDTH else f"...{name[3 - WIDTH :]}",
        f"target: {', '.join(_short(subject, index) for index in targets) or 'none'}",
        f"{_short(subject, best)} {probabilities[best].item():.1%}",
    ]
    if not bool(probabilities.isfinite().all()):
        lines[-1] = "output not finite"
    return "\n".join(textwrap.shorten(line, WIDTH, placeholder="...") for line in lines)


@torch.no_grad()
def _kept(
    share: float, image: Tensor, values: Tensor, inputs: Mapping[str, Any], row: int
) -> tuple[Tensor, str]:
    """Image (3, H, W) of the highest pixels of a map (H, W), and what the classifier makes of it.

    Of equal pixels, the later one counts as higher, as in the curves.
    """
    subject: Explanandum = inputs["explanandum"]
    count = max(1, int(share * values.numel()))
    mask = torch.zeros_like(image[0]).flatten()
    mask[values.flatten().argsort(stable=True)[-count:].to(mask.device)] = 1
    shown = masking.blend(image[None], mask.view(1, *image.shape[1:]), subject.mean.to(image))
    probabilities = subject.probabilities(shown)[0]
    lines = [f"{share:.0%} of the pixels"] + [
        f"{_short(subject, index)} {probabilities[index].item():.1%}"
        for index in class_ids(inputs["targets"][row : row + 1])[0][:2]
    ]
    words = "\n".join(textwrap.shorten(line, WIDTH, placeholder="...") for line in lines)
    return shown[0], words


def _short(subject: Explanandum, index: int) -> str:
    """The first synonym of a class's name."""
    return subject.class_names[index].split(",")[0]


def _scale(name: str, explainer: Explainer, values: Tensor) -> str:
    """Name of a method, and what dark and bright stand for in one of its maps."""
    known = values.isfinite()
    if not bool(known.all()):
        lost = 1 - known.double().mean().item()
        return f"{name}\nno map" if lost == 1 else f"{name}\n{lost:.0%} not finite"
    low, high = values.min().item(), values.max().item()
    if low == high:
        flat = "all zero" if high == 0 else f"constant, {high:.3g}"
        return f"{name}\n{flat}"
    if explainer.is_mask:
        return f"{name}\n0 to 1"
    ends = (-max(-low, high), max(-low, high)) if explainer.is_signed else (low, high)
    return f"{name}\n{ends[0]:.2g} to {ends[1]:.2g}"
