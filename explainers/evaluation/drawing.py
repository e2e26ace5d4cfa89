"""Pictures as uint8 arrays: heat maps, overlays and labeled sheets. They do not use pyplot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Picture = NDArray[np.uint8]  # (H, W, 3)
Labels = NDArray[np.uint8]  # (H, W)


def picture(image: Tensor) -> Picture:
    """An image (3, H, W) in [0, 1] as (H, W, 3) uint8."""
    values: Picture = (
        image.detach().float().clamp(0, 1).mul(255).round().byte().cpu().permute(1, 2, 0).numpy()
    )
    return values


def heat(values: Tensor, signed: bool = False) -> Picture:
    """A map (H, W) in colors.

    Args:
        values: Values in [0, 1], or in [-1, 1] if `signed`.
        signed: Whether the colors go from blue through white, at 0, to red, instead of from black
            through red to bright yellow.
    """
    from matplotlib import colormaps

    values = values.detach().float().clamp(-1 if signed else 0, 1).cpu()
    shares = (values + 1) / 2 if signed else values
    colours: Picture = colormaps["RdBu_r" if signed else "inferno"](shares.numpy(), bytes=True)
    return np.ascontiguousarray(colours[..., :3])


def overlay(image: Tensor, values: Tensor, strength: float = 0.6, signed: bool = False) -> Picture:
    """A map (H, W), as `heat` takes it, in colors over the grayscale image (3, H, W)."""
    grey = picture(image.mean(dim=0, keepdim=True).expand(3, -1, -1)).astype(np.float64)
    return np.rint((1 - strength) * grey + strength * heat(values, signed)).astype(np.uint8)


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
    lines = max(title.count("\n") + 1 for line in titles for title in line)
    height = cell + (0.25 if lines < 3 else 0.13 * lines + 0.05)
    figure = Figure(figsize=(cell * width, height * len(rows)), dpi=100, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), width, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for line, pictures, words in zip(axes, rows, titles, strict=True):
        for ax, shown, title in zip(line, pictures, words, strict=False):
            ax.imshow(shown)
            ax.set_title(title, fontsize=7, parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(shown: Picture, path: Path) -> None:
    """Writes a PNG file and creates its folders if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(shown).save(path)


def log(trainer: Trainer, key: str, shown: Picture) -> None:
    """Sends a picture to Weights & Biases and TensorBoard if the trainer logs there.

    The picture is sent as uint8, because masks in floating point would appear black.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            options: dict[str, Any] = {"key": key, "images": [shown], "step": trainer.global_step}
            logger.log_image(**options)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, shown, trainer.global_step, dataformats="HWC")


def log_labels(
    trainer: Trainer,
    key: str,
    images: Sequence[Picture],
    labels: Sequence[Labels],
    names: Mapping[int, str],
) -> None:
    """Sends pictures with the class of each pixel, which Weights & Biases lays over them.

    Args:
        trainer: Trainer, which may log there.
        key: Name of the pictures.
        images: Pictures.
        labels: Numbers of the classes of their pixels, as uint8; floats would all become 0.
        names: Names of the classes by their numbers.
    """
    masks = [{"classes": {"mask_data": each, "class_labels": dict(names)}} for each in labels]
    options: dict[str, Any] = {"images": [*images], "masks": masks, "step": trainer.global_step}
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, **options)
