"""Reading and resizing of image files, and the augmentation for training."""

import copy
import errno
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.listing import shown

INTERPOLATIONS = {
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
}
ENLARGED = 8 / 7  # of the sides of images before they are cropped at random
MOST_PIXELS = 10**8  # of a resized image before it is cropped: 1.2 GB


def read_image(path: str) -> Tensor:
    """Return an image as RGB (3, h, w): uint8, or float32 in [0, 1] for gray of more than 8 bits.

    The EXIF rotation is applied. Transparency is dropped: transparent pixels have the color that
    the file stores for them. Of animations and files of several pages, the first is read. 16-bit
    gray is divided by 65535; 16-bit color is read with 8 bits. Float files must already contain
    values in [0, 1].

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a readable image, contains NaN or values outside [0, 1], or
            is 16-bit gray with values of 12 bits or less.
    """
    picture = _open(path, "image")
    path = shown(path)
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _deep(np.asarray(picture), path)
    if "transparency" in picture.info:  # converting such palettes to RGB directly gives a warning
        picture = picture.convert("RGBA")
    pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def lacks_resources(error: BaseException) -> bool:
    """Return whether the machine is at fault, not the file: too little memory or open files."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    allocation = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return allocation or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _open(path: str, kind: str) -> Image.Image:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("not a file")  # opening a named pipe would wait forever
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except FileNotFoundError:
        message = f"{shown(path)}: no such {kind}; correct the list or add the file"
        raise FileNotFoundError(message) from None
    except Exception as error:  # a damaged file can raise anything
        if lacks_resources(error):
            raise
        detail = getattr(error, "strerror", None) or str(error).replace(f" {path!r}", "")
        message = f"{shown(path)}: not a readable {kind} ({detail}); replace or remove the file"
        raise ValueError(message) from None


def _deep(pixels: np.ndarray[Any, Any], path: str) -> Tensor:
    grey = pixels
    if np.issubdtype(pixels.dtype, np.integer):
        if 0 < pixels.max() < 4096:
            raise ValueError(
                f"{path}: expected 16-bit gray in 0 to 65535, got values up to {pixels.max()} only,"
                " which would be black; rescale the file"
            )
        grey = pixels / 65535.0
    image = torch.from_numpy(grey.astype(np.float32)).expand(3, -1, -1).contiguous()
    check_range(image, path)
    return image


def check_range(image: Tensor, name: str) -> None:
    """Check that a float image has finite values in [0, 1]; uint8 images always pass.

    Raises:
        ValueError: If a value is NaN, infinite or outside [0, 1]. The message names the image.
    """
    name = shown(name)
    if not image.is_floating_point():
        return
    if not bool(image.isfinite().all()):
        raise ValueError(
            f"{name}: the image holds NaN or infinite values; replace or remove the file"
        )
    low, high = image.min().item(), image.max().item()
    if low < 0.0 or high > 1.0:
        raise ValueError(
            f"{name}: expected values in [0, 1], got [{low:g}, {high:g}]; rescale the file"
        )


def read_labels(path: str) -> Tensor:
    """Return the class indices of a palette or gray PNG, (h, w) uint8.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a readable image with one channel.
    """
    labels = _open(path, "mask")
    path = shown(path)
    if labels.mode not in ("P", "L"):
        raise ValueError(
            f"{path}: expected a palette or grey PNG of class indices, got mode {labels.mode}"
        )
    return torch.from_numpy(np.array(labels))


class Fit:
    """Resizes images and their masks to a given size. Masks are resized by the nearest pixel.

    Args:
        size: Height and width [H, W] of the result.
        how: "squash" ignores the aspect ratio. "crop" keeps it: the image is scaled such that a
            center crop of `size` covers the fraction `crop_pct` of its tighter side.
        crop_pct: Fraction of the tighter side that "crop" keeps.
        interpolation: Interpolation of images, a key of `INTERPOLATIONS`.
    """

    def __init__(self, size: Sequence[int], how: str, crop_pct: float, interpolation: str) -> None:
        self.size, self.how, self.crop_pct = list(size), how, crop_pct
        self.mode = INTERPOLATIONS[interpolation]

    def enlarged(self) -> "Fit":
        """Return the operation for images of which a random crop has the size of this one."""
        larger = copy.copy(self)
        larger.size = [round(side * ENLARGED) for side in self.size]
        larger.crop_pct = min(1.0, self.crop_pct * ENLARGED)
        return larger

    def __call__(self, pixels: Tensor) -> Tensor:
        """Resize a tensor (..., h, w) to (..., H, W); a `tv_tensors.Mask` is resized as a mask."""
        if self.how == "squash" and list(pixels.shape[-2:]) == self.size:
            return pixels
        plain: Tensor = pixels.as_subclass(Tensor)
        if isinstance(pixels, tv_tensors.Mask):
            # The mask resize of torchvision is off by up to half a source pixel.
            planes = plain.reshape(1, -1, *plain.shape[-2:])
            fitted = self._fit(planes, v2.InterpolationMode.NEAREST_EXACT)
            mask: Tensor = tv_tensors.Mask(fitted.reshape(*plain.shape[:-2], *self.size))
            return mask
        fitted = self._fit(plain, self.mode)
        if fitted.is_floating_point():
            fitted = fitted.clamp(0.0, 1.0)  # bicubic interpolation overshoots
        image: Tensor = tv_tensors.Image(fitted)
        return image

    def _fit(self, pixels: Tensor, mode: v2.InterpolationMode) -> Tensor:
        scaled = self.size
        if self.how == "crop":
            sides = list(zip(self.size, pixels.shape[-2:], strict=True))
            scale = max(math.floor(goal / self.crop_pct) / have for goal, have in sides)
            scaled = [max(goal, round(have * scale)) for goal, have in sides]
            if math.prod(scaled) > MOST_PIXELS:
                height, width = pixels.shape[-2:]
                raise ValueError(
                    f"an image of {height} x {width} pixels is too narrow for resize: crop; cut it,"
                    " or set resize: squash"
                )
        resized = F.resize(pixels, scaled, mode, antialias=True)
        fitted: Tensor = F.center_crop(resized, self.size)  # changes nothing for "squash"
        return fitted


def augmentation(kind: bool | str, size: Sequence[int]) -> v2.Transform:
    """Return the augmentation of training images and their masks. What it uncovers is black.

    Args:
        kind: True flips, rotates by up to 10 degrees and jitters the colors, with the strengths of
            NN-Explainer. "crop" flips, and takes a random crop of images of `Fit.enlarged`.
            "affine" rotates by up to 10 degrees, shifts by up to 5 % of each side and scales by
            0.95 to 1.05, as the released code of Ra-NEM. "pad" flips, and shifts by up to an eighth
            of each side, as He et al., CVPR 2016, section 4.2, on CIFAR.
        size: Height and width [H, W] of the result.
    """
    if kind == "crop":
        return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(list(size))])
    if kind == "pad":
        height, width = size
        border = [width // 8, height // 8]
        return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(list(size), padding=border)])
    if kind == "affine":
        mode = v2.InterpolationMode.BILINEAR
        return v2.RandomAffine(10, (0.05, 0.05), (0.95, 1.05), interpolation=mode)
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
        ]
    )
