"""Inpainting on the CPU by other libraries: OpenCV and PatchMatch, of the extra `inpaint`."""

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]
RADIUS = 3.0  # pixels around a missing one that OpenCV looks at


def opencv(images: Tensor, masks: Tensor, mean: Tensor, name: str) -> Tensor:
    """Images (B, 3, H, W) whose missing pixels are filled by OpenCV, from the border inwards.

    The images are filled with 8 bits for each color, in threads, one for each image. Kept pixels
    stay exactly as they are.

    Source: "telea": Telea, "An Image Inpainting Technique Based on the Fast Marching Method", 2004.
    "navier_stokes": Bertalmio et al., "Navier-Stokes, Fluid Dynamics, and Image and Video
    Inpainting", CVPR 2001. Both with a radius of 3 pixels.

    Args:
        images: Images in [0, 1]. Their missing pixels are not read.
        masks: Keep masks (B, H, W). Pixels of at least 0.5 are kept, the others are missing.
        mean: Color (1, 3, 1, 1) of images that keep no pixel.
        name: "telea" or "navier_stokes".

    Raises:
        ValueError: If OpenCV is not installed.
    """
    cv2 = _library("cv2", "opencv-python-headless", name)
    rule = cv2.INPAINT_TELEA if name == "telea" else cv2.INPAINT_NS

    def complete(picture: Picture, missing: NDArray[np.bool_]) -> Picture:
        found: Picture = cv2.inpaint(picture, missing.astype(np.uint8), RADIUS, rule)
        return found

    return _each(images, masks, mean, complete)


def patchmatch(images: Tensor, masks: Tensor, mean: Tensor) -> Tensor:
    """Images (B, 3, H, W) whose missing pixels are copied from similar places of the image.

    The images are filled with 8 bits for each color, one after another. Kept pixels stay exactly as
    they are. The random search has a fixed seed, so that the same hole is filled alike.

    Source: Barnes et al., "PatchMatch", SIGGRAPH 2009, by the library patchmatch-cython.

    Args:
        images: Images in [0, 1]. Their missing pixels are not read.
        masks: Keep masks (B, H, W). Pixels of at least 0.5 are kept, the others are missing.
        mean: Color (1, 3, 1, 1) of images that keep no pixel. Images too small for a patch of the
            library, below 8 pixels, also show it in their holes.

    Raises:
        ValueError: If the library is not installed.
    """
    library = _library("patchmatch_cython.inpaint", "patchmatch-cython", "patchmatch")
    color = _bytes(mean)[0, 0, 0]

    def complete(picture: Picture, missing: NDArray[np.bool_]) -> Picture:
        if min(missing.shape) < 8 or not _whole_patch(~missing):
            return np.broadcast_to(color, picture.shape).copy()
        try:
            found: Picture = library.inpaint_pyramid(picture, missing, seed=0)
        except ValueError:  # in a coarser copy of the image, the holes leave no patch
            found = library.inpaint_single(picture, missing, iterations=7, seed=0)
        return found

    return _each(images, masks, mean, complete, threads=1)


def _whole_patch(kept: NDArray[np.bool_], side: int = 5) -> bool:
    """Whether some square of the image is kept entirely, which the others can be copied from."""
    windows = np.lib.stride_tricks.sliding_window_view(kept, (side, side))
    return bool(windows.all(axis=(2, 3)).any())


def _each(
    images: Tensor,
    masks: Tensor,
    mean: Tensor,
    complete: Callable[[Picture, NDArray[np.bool_]], Picture],
    threads: int | None = None,
) -> Tensor:
    """Images whose missing pixels are those of `complete`, a function of one picture (H, W, 3)."""
    kept = (masks >= 0.5)[:, None]
    shown = images.where(kept, mean.to(images))
    holes = (~kept[:, 0]).cpu().numpy()
    rows = [row for row, hole in enumerate(holes) if hole.any() and not hole.all()]
    if not rows:
        return shown
    pictures = _bytes(shown[rows])
    with ThreadPoolExecutor(min(len(rows), threads or torch.get_num_threads())) as pool:
        filled = list(pool.map(complete, pictures, holes[rows]))
    found = torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).to(images) / 255
    shown[rows] = shown[rows].where(kept[rows], found)
    return shown


def _bytes(images: Tensor) -> Picture:
    levels = (images.detach().float().clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())


def _library(module: str, package: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"the fill {name!r} needs {package}: pip install 'learned-explainers[inpaint]'"
        ) from error
