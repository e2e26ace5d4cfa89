"""Sliding patch: the drop in probability when a patch hides each position of the image."""

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content, planes
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice
from explainers.perturbation.viewer import Viewer

Window = tuple[slice, slice, slice]


class SlidingPatch(Explainer):
    """p(image) - p(image with a patch hidden), at the center of the patch, for patches on a grid.

    p is the probability of the class. Each value belongs to one position of the patch. captum's
    Occlusion instead averages, at each pixel, over all patches that cover it.

    Source: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, as
    used in Agarwal & Nguyen, "Explaining image classifiers by removing input features using
    generative models", ACCV 2020, section 3.3. There, a patch of 29 pixels at stride 3 gives
    66 x 66 values for an image of 224 x 224 pixels.

    Cost for each image, whatever the number of classes: 1 + r c forward passes, where
    r = (H - patch) // stride + 1 and c = (W - patch) // stride + 1, with patch and stride scaled to
    the image. By default these are 4357 for 224 x 224 pixels and 7226 for 96 x 96. If the stride
    does not divide H - patch, fewer than `stride` rows at the bottom are never hidden; the same
    holds for columns at the right.

    Args:
        explanandum: The classifier to explain; only its probabilities are used.
        patch: Side of the patch, in pixels of an image whose shorter side is 224 pixels. It is
            scaled with the shorter side of the given images, like SLOC's squares, and rounded to
            whole pixels, at least 1.
        stride: Distance between neighboring positions in pixels, scaled in the same way.
        fill: Content of the patch, see `fills.fill`; "mean" as published. "images" is not allowed.
        align: Alignment of the values with the image; both ways interpolate bilinearly. "centre":
            each value lies at the center of its patch, and the map is constant beyond the outermost
            centers. "stretched": the grid of values fills the image, as in the paper and its
            released code. This moves values outwards by up to half a patch at the border.
        batch_size: Number of images in a forward pass; it does not change the maps.
        seed: Seed of the fill "noise".

    Raises:
        ValueError: If a number is out of range or an option is unknown.
    """

    is_signed = True
    speed_only = ("batch_size",)
    quick: ClassVar = {"patch": 84, "stride": 14}

    def __init__(
        self,
        explanandum: Explanandum,
        patch: int = 29,
        stride: int = 3,
        fill: FillChoice = "mean",
        align: Literal["centre", "stretched"] = "centre",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if not 1 <= patch <= 224 or min(stride, batch_size) < 1:
            raise ValueError(
                "patch must lie in [1, 224], stride and batch_size must be positive, "
                f"got {patch}, {stride} and {batch_size}"
            )
        self.patch, self.stride, self.fill = patch, stride, fill
        self.align, self.batch_size = align, batch_size

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Signed maps (B, H, W), the drop in probability when a pixel's surroundings are hidden."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one set of forward passes."""
        height, width = images.shape[-2:]
        drops = self.drops(images, classes)
        if self.align == "stretched":
            return planes.upsample(drops, (height, width))
        patch, stride = self.sizes(height, width)
        down, across = (
            _at_centres(extent, count, patch, stride).to(drops)
            for extent, count in zip((height, width), drops.shape[-2:], strict=True)
        )
        return down @ drops @ across.mT

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        """Side of the patch and stride, in pixels, for images of the given size."""
        scale = min(height, width) / 224
        return max(1, round(self.patch * scale)), max(1, round(self.stride * scale))

    @torch.no_grad()
    def drops(self, images: Tensor, classes: Tensor) -> Tensor:
        """Drops in probability (B, k, r, c), one for each position of the patch."""
        height, width = images.shape[-2:]
        patch, stride = self.sizes(height, width)
        rows, columns = (range(0, extent - patch + 1, stride) for extent in (height, width))
        places = [(y, x) for y in rows for x in columns]
        hidden = content.behind(self.explanandum.fill(self.fill, self.generator()), images)
        result = images.new_empty(*classes.shape, len(places))
        total = len(images) * (1 + len(places))
        viewer = Viewer(self.explanandum, images, self.batch_size, title="SP", total=total)
        with viewer.bar:
            for row, (image, wanted, found) in enumerate(zip(images, classes, result, strict=True)):
                fill = content.rows(hidden, slice(row, row + 1))
                whole = viewer.probabilities(viewer.copies(image, 1))[0, wanted]
                for start in range(0, len(places), self.batch_size):
                    batch = places[start : start + self.batch_size]
                    windows = [np.s_[:, y : y + patch, x : x + patch] for y, x in batch]
                    patches = self._patches(fill, image, windows)
                    shown = viewer.copies(image, len(batch))
                    for occluded, window, pixels in zip(shown, windows, patches, strict=True):
                        occluded[window] = pixels
                    without = viewer.probabilities(shown)[:, wanted]
                    found[:, start : start + len(batch)] = (whole - without).mT
        return result.view(*classes.shape, len(rows), len(columns))

    def _patches(self, fill: Content, image: Tensor, windows: list[Window]) -> list[Tensor]:
        """Content of each patch of an image (3, H, W), from its fill (1, 3, H, W)."""
        if isinstance(fill, Tensor):
            return [fill[0][window] for window in windows]
        masks = image.new_ones(len(windows), 1, *image.shape[1:])
        for mask, window in zip(masks, windows, strict=True):
            mask[window] = 0
        filled = fill(image.expand(len(windows), -1, -1, -1), masks[:, 0])
        return [pixels[window] for pixels, window in zip(filled, windows, strict=True)]


def _at_centres(length: int, count: int, patch: int, stride: int) -> Tensor:
    """Matrix (length, count) that interpolates linearly between the centers of patches.

    Example:
        >>> _at_centres(5, 2, patch=2, stride=2)
        tensor([[1.0000, 0.0000],
                [0.7500, 0.2500],
                [0.2500, 0.7500],
                [0.0000, 1.0000],
                [0.0000, 1.0000]])
    """
    position = (torch.arange(length) - (patch - 1) / 2) / stride
    position = position.clamp(0, count - 1)
    return (1 - (position[:, None] - torch.arange(count)).abs()).clamp(min=0)
