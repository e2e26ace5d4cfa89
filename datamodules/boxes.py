"""Boxes of objects as a tensor of a fixed size, and their annotations in the form of PASCAL VOC."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch
from torch import Tensor

from datamodules.listing import shown
from datamodules.voc import MOST_BOXES

Box = tuple[float, float, float, float, float]  # class, left, top, right, bottom


def finite(text: str) -> float:
    """Return the number that a text states.

    Raises:
        ValueError: If it states none, or NaN, or an infinite one.
    """
    if not math.isfinite(number := float(text)):
        raise ValueError(f"not a finite number: {text!r}")
    return number


def pad_boxes(boxes: Sequence[Box], name: object) -> Tensor:
    """Return boxes as a tensor (64, 5), with -1 in unused rows.

    Args:
        boxes: Class, left, top, right and bottom of each box, where right and bottom are the first
            column and row outside the box.
        name: Image or file that an error message names.

    Raises:
        ValueError: If there are more than 64 boxes.
    """
    if len(boxes) > MOST_BOXES:
        raise ValueError(f"{shown(name)}: {len(boxes)} boxes, expected at most {MOST_BOXES}")
    unused = [(-1.0,) * 5] * (MOST_BOXES - len(boxes))
    return torch.tensor([*boxes, *unused], dtype=torch.float32)


class Annotation(NamedTuple):
    """Boxes of an image, and the width and height that the annotation states, 0 if it does not."""

    width: float
    height: float
    boxes: list[Box]

    def scaled(self, size: Sequence[int]) -> list[Box]:
        """Return the boxes in pixels of an image of size [h, w], which may be another file."""
        x = size[1] / self.width if self.width > 0 else 1.0
        y = size[0] / self.height if self.height > 0 else 1.0
        return [
            (label, left * x, top * y, right * x, bottom * y)
            for label, left, top, right, bottom in self.boxes
        ]


def read_annotation(path: Path, indices: Mapping[str, int]) -> Annotation:
    """Return the boxes of an annotation file of ImageNet, which counts pixels from 0.

    Args:
        path: XML file in the form of PASCAL VOC.
        indices: Class index of each object name.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not XML, a number is missing, or an object has an unknown name.
    """
    try:
        tree = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"{shown(path)}: no such annotation; add the file") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"{shown(path)}: not readable as XML ({error}); replace it") from None
    boxes: list[Box] = []
    try:
        width, height = (finite(tree.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        for thing in tree.iter("object"):
            left, top, right, bottom = (
                finite(thing.findtext(f"bndbox/{side}", "missing"))
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
            name = thing.findtext("name", "").strip()
            if name not in indices:
                raise ValueError(f"unknown class {name!r}")
            boxes.append((indices[name], left, top, right + 1, bottom + 1))
    except ValueError as error:
        raise ValueError(
            f"{shown(path)}: not an annotation of these classes ({error}); replace it"
        ) from None
    return Annotation(width, height, boxes)
