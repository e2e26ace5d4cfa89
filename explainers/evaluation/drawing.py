"""Pictures as uint8 arrays: heat maps, overlays and labeled sheets. They do not use pyplot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Picture = NDArray[np.uint8]  # (H, W, 3)


def picture(image: Tensor) -> Picture:
    """An image (3, H, W) in [0, 1] as (H, W, 3) uint8."""
    values: Picture = (
        image.detach().float().clamp(0, 1).mul(255).round().byte().cpu().permute(1, 2, 0).numpy()
    )
    return values


def heat(values: Tensor) -> Picture:
    """A map (H, W) in [0, 1] in colors from black through red to bright yellow."""
    from matplotlib import colormaps

    colours: Picture = colormaps["inferno"](
        values.detach().float().clamp(0, 1).cpu().numpy(), bytes=True
    )[..., :3]
    return np.ascontiguousarray(colours)


def overlay(image: Tensor, values: Tensor, strength: float = 0.6) -> Picture:
    """A map (H, W) in [0, 1] as a heat map over the grayscale image (3, H, W)."""
    grey = picture(image.mean(dim=0, keepdim=True).expand(3, -1, -1)).astype(np.float64)
    return np.rint((1 - strength) * grey + strength * heat(values)).astype(np.uint8)


def sheet(
    rows: Sequence[Sequence[Picture]], titles: Sequence[Sequence[str]], cell: float = 1.6
) -> Picture:
    """Pictures in a grid, each with a title above it.

    Args:
        rows: Pictures of each row. Rows may differ in length.
        titles: Title of each picture, in the same form. "" gives no title.
        cell: Size of a picture in inches, at 100 pixels per inch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = max(map(len, rows))
    figure = Figure(
        figsize=(cell * width, (cell + 0.25) * len(rows)), dpi=100, layout="constrained"
    )
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), width, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for line, pictures, words in zip(axes, rows, titles, strict=True):
        for ax, shown, title in zip(line, pictures, words, strict=False):
            ax.imshow(shown)
            ax.set_title(title, fontsize=7)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(shown: Picture, path: Path) -> None:
    """Writes a PNG file and creates its folders if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(shown).save(path)


def log(trainer: Trainer, key: str, shown: Picture) -> None:
    """Sends a picture to Weights & Biases if the trainer logs there.

    The picture is sent as uint8, because masks in floating point would appear black.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            options: dict[str, Any] = {"key": key, "images": [shown]}
            logger.log_image(**options)
