"""Photographs given by the user: found, read, and cut to the size of a classifier."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
NARROW = 64  # longest ratio of the sides of an image


class ImageError(ValueError):
    """An image that cannot be explained. The message does not name it."""


def listed(given: Sequence[str], out: Path) -> tuple[list[Path], dict[str, str]]:
    """Image and video files of the paths that are given, each once; what is wrong with others.

    Args:
        given: Files, and folders that are searched with all their folders.
        out: Folder of the pictures, which is not searched.
    """
    found: dict[Path, None] = {}
    wrong = {}
    for each in given:
        path = Path(each)
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _is_image(file, path, out)]
            if not inside:
                wrong[each] = f"no image in this folder, expected one of {', '.join(ENDINGS)}"
            found |= dict.fromkeys(file.resolve() for file in inside)
        elif path.exists():
            found[path.resolve()] = None
        else:
            wrong[each] = "no such file or folder"
    return list(found), wrong


def _is_image(file: Path, folder: Path, out: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    own = file.resolve().is_relative_to(out.resolve())
    known = file.suffix.lower() in (*ENDINGS, *VIDEOS)
    return known and file.is_file() and not hidden and not own


def photograph(path: str | Path, size: Sequence[int]) -> Tensor:
    """The center of an image file as RGB (3, H, W) in [0, 1], as `explain` cuts and resizes it.

    Args:
        path: Path of the file.
        size: Height and width, such as the `input_size` of a classifier.

    Raises:
        ValueError: If the file is no readable image.

    Example:
        >>> photograph("photo.jpg", [224, 224]).shape  # doctest: +SKIP
        torch.Size([3, 224, 224])
    """
    return center(read(Path(path)), size)[0]


def read(path: Path) -> Tensor:
    """An image file as RGB (3, h, w) float32 in [0, 1].

    The rotation in its EXIF data is applied, transparency is dropped, gray of 16 bits is divided by
    65535, and the first of several pictures is read.

    Raises:
        ImageError: If the file is no readable image, is empty or far too narrow, or holds values
            outside of [0, 1].
    """
    try:
        if not path.is_file():
            raise OSError("not a file")  # opening a named pipe would wait forever
        with Image.open(path) as file:
            shown = ImageOps.exif_transpose(file)
            deep = shown.mode == "F" or shown.mode.startswith("I")
            if "transparency" in shown.info:  # Pillow warns of palettes that are converted at once
                shown = shown.convert("RGBA")
            pixels = np.asarray(shown if deep else shown.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything
        detail = getattr(error, "strerror", None) or str(error).replace(f" {str(path)!r}", "")
        raise ImageError(f"not a readable image ({detail})") from None
    if not deep:
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255)
    else:
        depth = 65535.0 if np.issubdtype(pixels.dtype, np.integer) else 1.0
        image = torch.from_numpy((pixels / depth).astype(np.float32)).expand(3, -1, -1)
    low, high = image.min().item(), image.max().item()
    if not (low >= 0.0 and high <= 1.0):
        raise ImageError(f"expected values in [0, 1], got [{low:g}, {high:g}]: rescale the file")
    if deep and depth > 1 and 0 < high < 4096 / 65535:
        raise ImageError(
            f"expected 16-bit gray up to 65535, got values up to {high * 65535:.0f} only, which "
            "would be black: rescale the file"
        )
    if max(image.shape[1:]) > NARROW * min(image.shape[1:]):
        raise ImageError(
            f"{image.shape[2]} x {image.shape[1]} pixels are too narrow: cut the image"
        )
    return image


def center(image: Tensor, size: Sequence[int]) -> tuple[Tensor, str]:
    """The largest center of an image with the aspect ratio of `size`, resized to it.

    Args:
        image: Image (3, h, w) in [0, 1].
        size: Height and width.

    Returns:
        The image (3, H, W) in [0, 1], and in words what was cut.

    Example:
        >>> center(torch.rand(3, 40, 60), [20, 20])[1]
        'center 40 x 40 of 60 x 40 pixels, resized to 20 x 20'
    """
    height, width = image.shape[1:]
    scale = min(height / size[0], width / size[1])
    cut = [
        max(1, min(have, round(side * scale)))
        for side, have in zip(size, (height, width), strict=True)
    ]
    resized = F.resize(F.center_crop(image, cut), list(size), antialias=True).clamp(0, 1)
    part = f"center {cut[1]} x {cut[0]} of " if cut != [height, width] else ""
    return resized, f"{part}{width} x {height} pixels, resized to {size[1]} x {size[0]}"
