"""Masks of COCO, which are written as polygons or as run lengths."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def instance_mask(segmentation: Any, height: int, width: int) -> Mask:
    """Return the mask (height, width) of an object.

    Polygons are drawn with the centers of pixels that they contain, as pycocotools does but for
    some pixels on their edges. Run lengths are exact.

    Args:
        segmentation: List of polygons [x1, y1, x2, y2, ...], or a dict with `counts`, as a list or
            in the compressed form, and `size`.
        height: Height of the image.
        width: Width of the image.

    Raises:
        ValueError: If it is neither, or is not of this size.
    """
    if isinstance(segmentation, dict):
        return run_lengths(segmentation, height, width)
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            continue  # fewer than three corners have no area
        mask |= _drawn(np.asarray(polygon, np.float64).reshape(-1, 2), mask)
    return mask


def _drawn(corners: NDArray[np.float64], like: Mask) -> Mask:
    """Fill a polygon of corners (n, 2) by the even-odd rule.

    Pixel 0 reaches from 0 to 1 and is filled if the polygon contains its center at 0.5.
    """
    filled = np.zeros_like(like)
    ends = np.roll(corners, -1, axis=0)
    low, high = np.minimum(corners, ends)[:, 1], np.maximum(corners, ends)[:, 1]
    for row in range(max(0, int(low.min()) - 1), min(len(like), int(high.max()) + 2)):
        center = row + 0.5
        cut = (low <= center) & (center < high)
        (x0, y0), (x1, y1) = corners[cut].T, ends[cut].T
        crossings = np.sort(x0 + (center - y0) / (y1 - y0) * (x1 - x0))
        borders = np.ceil(crossings - 0.5).clip(0).astype(int)
        for begin, end in zip(borders[::2], borders[1::2], strict=True):
            filled[row, begin:end] = True
    return filled


def run_lengths(segmentation: dict[str, Any], height: int, width: int) -> Mask:
    """Return the mask (height, width) of run lengths, which go down the columns, from background.

    Raises:
        ValueError: If they do not fill an image of this size.

    Example:
        >>> run_lengths({"size": [2, 2], "counts": [1, 2, 1]}, 2, 2).tolist()
        [[False, True], [True, False]]
    """
    counts = segmentation.get("counts")
    if isinstance(counts, str | bytes):
        counts = decompress(counts)
    runs = np.asarray(counts if isinstance(counts, list) else [], np.int64)
    size = list(segmentation.get("size", []))
    if size != [height, width] or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"run lengths of {int(runs.sum())} pixels and size {size}, expected [{height}, {width}]"
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def decompress(text: str | bytes) -> list[int]:
    """Return the run lengths of the compressed form.

    A number is written in groups of 5 bits, the lowest first, in characters from "0" on; the sixth
    bit says that more follow, and the highest bit of the last group is the sign. From the fourth
    number on, the difference from the number two before is written.

    Raises:
        ValueError: If the text ends within a number or holds another character.

    Example:
        >>> decompress("12114M")
        [1, 2, 1, 3, 5, 0]
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        group = code - 48
        if not 0 <= group < 64:
            raise ValueError(f"the character {chr(code)!r} is not of compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("compressed run lengths that end within a number")
    return runs
