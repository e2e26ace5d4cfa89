"""Fills: the content that replaces removed pixels."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from explainers.functional import library_inpainting
from explainers.functional.imputation import impute
from explainers.functional.inpainting import harmonic
from explainers.functional.smoothing import blur, kernel_blur

# Fills that depend on their image alone.
OwnFill = Literal["mean", "black", "kernel_blur", "blur", "noise"]
# Inpainters: fills that also depend on the pixels that are kept.
MaskFill = Literal["road", "harmonic", "telea", "navier_stokes", "patchmatch"]
# A name, or the path of an inpainter, see `explanandum.inpainters`. "images" depends on the batch.
FillChoice = OwnFill | MaskFill | str
FillName = OwnFill | Literal["images"] | MaskFill | str
OWN_FILLS, MASK_FILLS = get_args(OwnFill), get_args(MaskFill)
ROAD_NOISE = 0.01  # standard deviation, as in the released code


class Fill(Protocol):
    """A function from images (B, 3, H, W) in [0, 1] to the content that replaces removed pixels."""

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Fills, broadcastable to images (B, 3, H, W).

        Args:
            images: Images (B, 3, H, W) in [0, 1].
            masks: Keep masks (B, H, W), which are 1 at the pixels that stay.
        """


_COUNTS: ContextVar[tuple[list[int], ...]] = ContextVar("_COUNTS", default=())


@dataclass(frozen=True, eq=False)
class Inpainted:
    """A fill that depends on the pixels that are kept.

    Args:
        inpaint: Function of images (N, 3, H, W) and of keep masks (N, H, W) of 0 and 1. It returns
            completed images (N, 3, H, W) and must not depend on the missing pixels, whatever they
            show. It may change kept pixels too.
        name: Name that tells this fill from others, for results that are reused.
        color: Color (1, 3, 1, 1) of images that keep no pixel, for gradients, see `masking.blend`.
    """

    inpaint: Callable[[Tensor, Tensor], Tensor]
    name: str = ""
    color: Tensor | None = None

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Completed images (N, 3, H, W), a constant in the computation of gradients.

        Pixels whose mask is at least 0.5 are kept, the others are missing.

        Raises:
            ValueError: If `masks` is None.
        """
        if masks is None:
            raise ValueError(
                f"the fill {self.name or 'of an inpainter'!r} needs the masks of what is kept; "
                f"fills that do not: {', '.join(OWN_FILLS)}"
            )
        for count in _COUNTS.get():
            count[0] += len(images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            pictures, kept = images.detach(), masks.detach() >= 0.5
            return self.inpaint(pictures, kept.to(pictures)).to(pictures)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Counts the images that are inpainted during the `with` block, in a list of one number."""
    count = [0]
    token = _COUNTS.set((*_COUNTS.get(), count))
    try:
        yield count
    finally:
        _COUNTS.reset(token)


def fill(
    name: str,
    images: Tensor,
    mean: Tensor,
    std: Tensor | None = None,
    generator: torch.Generator | None = None,
    sigma: float = 10.0,
    bank: Tensor | None = None,
    masks: Tensor | None = None,
) -> Tensor:
    """Content that replaces removed pixels of images (B, 3, H, W), broadcastable to them.

    Args:
        name: Name of the fill. "mean": the mean color of the classifier, which is the papers' zero
            in normalized space. "black": black. "kernel_blur": the images after `kernel_blur`.
            "blur": the images after a Gaussian blur of width `sigma`, cut off at 4 sigma, that
            fades to the mean at the border. "noise": independent normal pixels with the image
            statistics `mean` and `std`, one draw for all images. "images": one picture of `bank`
            for all images, or, without a bank, another image of the batch for each image. "road":
            the weighted mean of the neighboring pixels, see `imputation.impute`, plus independent
            normal noise of standard deviation 0.01, one draw for all images. "harmonic": the mean
            of the direct neighbors, see `inpainting.harmonic`. "telea", "navier_stokes" and
            "patchmatch": see `library_inpainting`.
        images: Images in [0, 1].
        mean: Mean color of the classifier's images, (1, 3, 1, 1).
        std: Standard deviation of the classifier's images, (1, 3, 1, 1). Only "noise" needs it.
        generator: Random number generator of "noise", "images" and "road", on the CPU.
        sigma: Width of "blur" in pixels.
        bank: Pictures (N, 3, H, W) for "images".
        masks: Keep masks (B, H, W), which are 1 at the pixels that stay. Pixels of at least 0.5 are
            kept. "road" and the fills after it need them.

    Raises:
        ValueError: If the name is unknown, or an argument that the fill needs is missing.
    """
    mean = mean.to(images)
    if name == "mean":
        return mean
    if name == "black":
        return torch.zeros_like(mean)
    if name == "kernel_blur":
        return kernel_blur(images, mean)
    if name == "blur":
        if sigma <= 0:
            raise ValueError(f"blur needs a positive sigma, got {sigma}")
        return blur(images, 2 * math.ceil(4 * sigma) + 1, sigma, mean)
    if name == "noise":
        if std is None:
            raise ValueError("the fill 'noise' needs std")
        noise = torch.randn(images.shape[1:], generator=generator)
        return mean + std.to(images) * noise.to(images)
    if name == "images":
        return _other_images(images, bank, generator)
    if name in MASK_FILLS:
        if masks is None:
            raise ValueError(f"the fill {name!r} needs the masks of what is kept")
        return _inpaint(name, images, masks, mean, generator)
    names = (*OWN_FILLS, "images", *MASK_FILLS)
    raise ValueError(f"unknown fill {name!r}; expected one of {', '.join(names)}")


def _inpaint(
    name: str, images: Tensor, masks: Tensor, mean: Tensor, generator: torch.Generator | None
) -> Tensor:
    if name == "road":
        noise = ROAD_NOISE * torch.randn(images.shape[1:], generator=generator)
        return impute(images, masks, mean) + noise.to(images) * (masks < 0.5)[:, None]
    if name == "harmonic":
        return harmonic(images, masks, mean=mean)
    if name == "patchmatch":
        return library_inpainting.patchmatch(images, masks, mean)
    return library_inpainting.opencv(images, masks, mean, name)


def _other_images(images: Tensor, bank: Tensor | None, generator: torch.Generator | None) -> Tensor:
    if bank is not None:
        if bank.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"bank pictures are {tuple(bank.shape[1:])}, the images {tuple(images.shape[1:])}"
            )
        pick = int(torch.randint(len(bank), (), generator=generator))
        return bank[pick : pick + 1].to(images)
    if len(images) < 2:
        raise ValueError("the fill 'images' needs a bank, or a batch of at least two images")
    return images.roll(int(torch.randint(1, len(images), (), generator=generator)), dims=0)


PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@cache
def read_bank(
    folder: str,
    height: int,
    width: int,
    count: int | None = None,
    seed: int = 0,
    resample: Literal["bicubic", "bilinear"] = "bicubic",
) -> Tensor:
    """Pictures (N, 3, height, width) in [0, 1] of a folder and its subfolders. They are cached.

    Args:
        folder: Folder of the pictures.
        height: Height in pixels to which each picture is resized.
        width: Width in pixels to which each picture is resized.
        count: Number of pictures, which are drawn at random. None takes all pictures in the order
            of their names.
        seed: Seed of the random draw.
        resample: Interpolation method of the resizing.

    Raises:
        ValueError: If there are no pictures, or fewer than `count`.
    """
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURES)
    if not paths or len(paths) < (count or 0):
        raise ValueError(
            f"{folder!r} holds {len(paths)} pictures ({', '.join(PICTURES)}), "
            f"expected at least {count or 1}"
        )
    if count is not None:
        drawn = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))
        paths = [paths[place] for place in drawn[:count].tolist()]
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            resized = picture.convert("RGB").resize(
                (width, height), Image.Resampling[resample.upper()]
            )
        pictures.append(torch.from_numpy(np.array(resized)).permute(2, 0, 1))
    return torch.stack(pictures).float() / 255
