"""The objects of a COCO annotation file, in little memory."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.listing import shown

# Categories of objects by their id in the files, which leaves out 11 of the numbers up to 90.
CATEGORIES = dict(
    zip(
        sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}),
        [
            "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
            "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat",
            "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack",
            "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball",
            "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket",
            "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
            "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake",
            "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop",
            "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
            "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
            "toothbrush",
        ],
        strict=True,
    )
)  # fmt: skip


class Thing(NamedTuple):
    """An object, or a crowd of them: category id, box [left, top, width, height], and outline.

    The outline is a list of polygons (float32) or run lengths, see `coco_masks`.
    """

    category: int
    crowd: bool
    box: tuple[float, float, float, float] | None
    outline: Any


class Picture(NamedTuple):
    """Name, height and width of an image, and its objects."""

    name: str
    height: int
    width: int
    things: list[Thing]


def read_annotations(path: Path, outlines: bool) -> list[Picture]:
    """Return the images of a file of instances in their order, also those without objects.

    Args:
        path: A file such as instances_val2017.json.
        outlines: Whether to keep the outlines, which take most of the memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or names an unknown category.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{shown(path)}: no such file; add the annotations, or correct root, year or the split"
        )
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{shown(path)}: not readable as JSON ({error}); replace it") from None
    try:
        things: defaultdict[int, list[Thing]] = defaultdict(list)
        for own in content["annotations"]:
            things[own["image_id"]].append(_thing(own, outlines))
        pictures = [
            Picture(
                str(own["file_name"]),
                int(own["height"]),
                int(own["width"]),
                things.get(own["id"], []),
            )
            for own in content["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{shown(path)}: expected `images` and `annotations` of instances ({error!r}); not an"
            " instances file of COCO"
        ) from None
    used = {thing.category for own in things.values() for thing in own}
    if unknown := sorted(used - set(CATEGORIES)):
        raise ValueError(
            f"{shown(path)}: category {unknown[0]} is none of COCO's 80; take the instances file"
        )
    return pictures


def _thing(own: dict[str, Any], outlines: bool) -> Thing:
    outline = own.get("segmentation") if outlines else None
    if isinstance(outline, list):
        outline = [np.asarray(polygon, np.float32) for polygon in outline]
    box = own.get("bbox")
    sides = tuple(float(side) for side in box) if box and len(box) == 4 else None
    return Thing(int(own["category_id"]), bool(own.get("iscrowd", 0)), sides, outline)  # type: ignore[arg-type]
