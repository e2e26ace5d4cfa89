"""One picture of an explanation: the photograph, its top classes, a map per method and class."""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from explainers.evaluation.drawing import Picture as PixelArray
from explainers.evaluation.drawing import picture
from explainers.explaining.scale import Array, Kind, difference, fault, limits

UNIFORM, DIVERGING = "inferno", "RdBu_r"
SIDE, LEFT, GAP = 2.2, 0.45, 0.25  # inches: a picture's width, space for words left of it, between
HEAD, SCALE, BAR, LINE = 0.3, 0.45, 0.19, 0.15  # inches: title, color bar, bar of a class, text
GREY = "0.35"
DPI = 130
OPAQUE = 0.65  # share of the colors in a map over the gray image
TOP = 5  # number of top classes that are told


@dataclass
class Explanation:
    """What is known of one image.

    Args:
        image: The image (3, H, W) in [0, 1], as the classifier sees it.
        names: Names of all classes.
        probabilities: Probabilities (K,) of all classes.
        classes: Indices of the explained classes.
        maps: Maps (k, H, W) of these classes, by the name of the method.
        kinds: Kind of each method's maps, see `scale.kind`.
        seconds: Time that each method took.
        scores: Faithfulness of each method and class, empty if it was not computed.
        notes: Lines of text about the image and the classifier.
    """

    image: Tensor
    names: Sequence[str]
    probabilities: Tensor
    classes: list[int]
    maps: dict[str, Tensor] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def top(self) -> list[int]:
        """Indices of the most probable classes, the most probable first."""
        ranked: list[int] = self.probabilities.argsort(descending=True)[:TOP].tolist()
        return ranked


class Picture(Figure):
    """A matplotlib figure that notebooks show as PNG, also without pyplot."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        save(self, file)
        return file.getvalue()

    @property
    def pixels(self) -> PixelArray:
        """The picture as uint8 (H, W, 3)."""
        with Image.open(BytesIO(self._repr_png_())) as shown:
            return np.asarray(shown.convert("RGB"))


def figure(explanation: Explanation) -> Picture:
    """The picture of an explanation.

    The photograph and its top classes stand on the left. Each method has a column and each class a
    row. Two classes have a third row, the difference of their maps.
    """
    height, width = explanation.image.shape[-2:]
    cell = SIDE * min(max(height / width, 0.4), 2.5)
    contrast = len(explanation.classes) == 2
    rows, columns = len(explanation.classes) + contrast, len(explanation.maps)
    notes = [line for note in explanation.notes for line in _wrapped(note, rows, columns)]
    bars, words = BAR * len(explanation.top) + 0.1, LINE * len(notes)
    left = HEAD + cell + bars + (words if rows > 1 else 0)
    below = max(bars, words) - SCALE if rows == 1 else 0
    right = HEAD + rows * (cell + SCALE) + max(below, 0)
    sheet = _Sheet(0.2 + SIDE + LEFT + columns * (SIDE + GAP), max(left, right) + 0.1)

    photo = sheet.axes(0.1, HEAD, SIDE, cell)
    photo.imshow(picture(explanation.image))
    _draw_top(sheet.axes(0.1, HEAD + cell + 0.05, SIDE, bars - 0.1), explanation)
    grey = gray(explanation.image)
    for column, (name, maps) in enumerate(explanation.maps.items()):
        x = 0.1 + SIDE + LEFT + column * (SIDE + GAP)
        seconds = explanation.seconds[name]
        took = f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
        sheet.text(x + SIDE / 2, HEAD - 0.06, f"{name}  ({took} s)", 9, ha="center")
        shown = [values.double().cpu().numpy() for values in maps]
        kinds: list[Kind] = [explanation.kinds[name]] * len(shown)
        if contrast:
            shown, kinds = [*shown, difference(maps, explanation.kinds[name])], [*kinds, "signed"]
        scores = explanation.scores.get(name, [])
        for row, (values, how) in enumerate(zip(shown, kinds, strict=True)):
            y = HEAD + row * (cell + SCALE)
            _draw_map(sheet.axes(x, y, SIDE, cell), grey, values, how)
            words_below = f"Faithfulness {scores[row]:.3f}" if row < len(scores) else ""
            _draw_scale(sheet, (x, y + cell + 0.05), values, how, words_below)
    for row, label in enumerate(_labels(explanation)):
        y = HEAD + row * (cell + SCALE) + cell / 2
        sheet.text(SIDE + LEFT - 0.07, y, label, 8, rotation=90, ha="center", va="center")
    x, y = (0.1, left - words) if rows > 1 else (0.1 + SIDE + LEFT, HEAD + cell + SCALE)
    for number, line in enumerate(notes):
        sheet.text(x, y + LINE * (number + 0.8), line, 6.5, color=GREY)
    return sheet.figure


class _Sheet:
    """A figure that is filled by places in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.size = (width, height)
        self.figure = Picture(figsize=self.size, dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        total, tall = self.size
        place = (x / total, 1 - (y + height) / tall, width / total, height / tall)
        axes = self.figure.add_axes(place)
        axes.set_axis_off()
        return axes

    def text(self, x: float, y: float, words: str, size: float, **options: Any) -> None:
        place = (x / self.size[0], 1 - y / self.size[1])
        # Names of classes and files may hold "$", which is no mathematics here.
        self.figure.text(*place, words, fontsize=size, parse_math=False, **options)


def _draw_top(axes: Axes, explanation: Explanation) -> None:
    """The top classes as bars; those that are explained are bold."""
    for row, index in enumerate(explanation.top):
        probability = explanation.probabilities[index].item()
        weight = "bold" if index in explanation.classes else "normal"
        axes.barh(row, probability, height=0.86, color="#bcd4ea", align="center")
        label = textwrap.shorten(explanation.names[index], 33, placeholder="...")
        style: dict[str, Any] = {"va": "center", "fontsize": 7, "parse_math": False}
        axes.text(0.01, row, label, weight=weight, **style)
        axes.text(0.995, row, f"{probability:.1%}", ha="right", **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(explanation.top) - 0.5, -0.5)


def _draw_map(axes: Axes, grey: NDArray[np.float32], values: Array, kind: Kind) -> None:
    """A map over the gray image. Where a signed map is 0, the image alone is seen."""
    if words := fault(values):
        axes.imshow(grey, cmap="gray", vmin=-0.5, vmax=1.5)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "bbox": box}
        axes.text(0.5, 0.5, words, transform=axes.transAxes, **middle)
        return
    axes.imshow(colored(grey, values, kind))


def colored(grey: NDArray[np.float32], values: Array, kind: Kind) -> NDArray[Any]:
    """A map (H, W) over the gray image (H, W), as RGB (H, W, 3) in [0, 1]."""
    shade = np.repeat(grey[..., None], 3, axis=2)
    if fault(values):
        return shade
    norm = Normalize(*limits(values, kind), clip=True)
    if kind == "signed":  # white times the gray image where the map is 0
        shown = colormaps[DIVERGING](norm(values))[..., :3] * (0.4 + 0.6 * shade)
    else:
        shown = OPAQUE * colormaps[UNIFORM](norm(values))[..., :3] + (1 - OPAQUE) * shade
    clipped: NDArray[Any] = shown.clip(0, 1)
    return clipped


def gray(image: Tensor) -> NDArray[np.float32]:
    """Gray values (H, W) in [0, 1] of an image (3, H, W)."""
    values: NDArray[np.float32] = image.detach().float().mean(dim=0).clamp(0, 1).cpu().numpy()
    return values


def _draw_scale(
    sheet: _Sheet, place: tuple[float, float], values: Array, kind: Kind, words: str
) -> None:
    """The color bar of a map with the values at its ends, and words below it."""
    x, y = place
    style: dict[str, Any] = {"color": GREY, "va": "center"}
    sheet.text(x + SIDE / 2, y + 0.25, words, 7, ha="center", va="center")
    if fault(values):
        return
    low, high = limits(values, kind)
    ends = ("0", "1") if kind == "mask" else (f"{low:.2g}", f"{high:.2g}")
    axes = sheet.axes(x + 0.5, y, SIDE - 1, 0.08)
    ramp = np.linspace(0, 1, 256)[None]
    axes.imshow(ramp, aspect="auto", cmap=DIVERGING if kind == "signed" else UNIFORM)
    sheet.text(x + 0.45, y + 0.045, ends[0], 6.5, ha="right", **style)
    sheet.text(x + SIDE - 0.45, y + 0.045, ends[1], 6.5, ha="left", **style)


def _labels(explanation: Explanation) -> list[str]:
    """What stands beside each row."""
    names = [short(explanation.names[index]) for index in explanation.classes]
    labels = [
        f"{textwrap.shorten(name, 30, placeholder='...')}\n{probability:.1%}"
        for name, probability in zip(
            names, explanation.probabilities[explanation.classes].tolist(), strict=True
        )
    ]
    if len(names) == 2:
        one, two = (textwrap.shorten(name, 22, placeholder="...") for name in names)
        labels.append(f"{one}\nminus {two}")
    return labels


def short(name: str) -> str:
    """The first synonym of a class's name.

    Example:
        >>> short("tabby, tabby cat")
        'tabby'
    """
    return name.split(",")[0].strip() or name


def _wrapped(note: str, rows: int, columns: int) -> Sequence[str]:
    width = 46 if rows > 1 else max(46, 52 * columns)
    return textwrap.wrap(note, width)


def meanings(found: Explanation) -> list[str]:
    """What the colors of the maps mean, a line for each kind that occurs."""
    words: dict[Kind, str] = {
        "mask": "masks lie in [0, 1]",
        "signed": "signed maps: red speaks for the class, blue against it",
        "score": "scores: bright pixels matter most, numbers have no common scale",
    }
    lines = [words[each] for each in words if each in found.kinds.values()]
    if len(found.classes) == 2:
        scaled = (
            ", each scaled to [0, 1] unless it has a scale"
            if "score" in found.kinds.values()
            else ""
        )
        lines.append(f"difference of the two maps{scaled}: red speaks for the first class")
    return lines


def save(shown: Figure, file: Path | BytesIO) -> None:
    """Writes the figure as a PNG file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of another script
        shown.savefig(file, format="png", dpi=DPI)
