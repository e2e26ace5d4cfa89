"""Maps in files of any program: arrays, and gray pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ARRAYS, PICTURES = (".npy", ".npz"), (".png", ".webp", ".tif", ".tiff", ".bmp")


def read_map(path: Path) -> NDArray[np.float32]:
    """The array in a file, or the gray values of a picture in [0, 1]."""
    if path.suffix in PICTURES:
        with Image.open(path) as picture:
            deep = picture.mode.startswith("I")
            colors = np.asarray(picture.convert("RGB"))
            if not deep and (colors != colors[..., :1]).any():
                raise ValueError(
                    f"{path} is a picture in colors, expected gray: save the map itself"
                )
            values = np.asarray(picture if deep else picture.convert("L"), dtype=np.float32)
        return checked(values / (65535 if deep else 255), str(path))
    try:
        content = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an array of numbers: {error}") from None
    if path.suffix == ".npz":
        if len(content.files) != 1:
            raise ValueError(f"{path} must hold one array, has {content.files}")
        content = content[content.files[0]]
    return checked(content, str(path))


def checked(values: NDArray[Any], place: str) -> NDArray[np.float32]:
    """An array (H, W), or (1, H, W), or (k, H, W) of a prediction, as float32."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiub":
        raise ValueError(
            f"{place} must be a map (H, W) of numbers, is {values.shape} {values.dtype}"
        )
    return np.ascontiguousarray(values, dtype=np.float32)
