"""Sliding patch: hide each place of the image in turn and see what the class loses."""

from typing import Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import planes
from explainers.functional.fills import OwnFill
from explainers.perturbation.viewer import Viewer


class SlidingPatch(Explainer):
    """p(image) - p(image with a patch hidden), at the patch's centre, for patches on a grid.

    Source: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, as
    used in Agarwal & Nguyen, "Explaining image classifiers by removing input features using
    generative models", ACCV 2020, section 3.3: a 29 px patch at stride 3 gives 66 x 66 values at
    224 px. Each value belongs to one position; captum's Occlusion instead averages in each pixel
    over all patches that cover it.

    Forward passes an image, whatever the number of classes: 1 + r c, where r is
    (H - patch) // stride + 1 and c is (W - patch) // stride + 1, patch and stride as scaled; 4357
    at 224 px, 7226 at 96 px. Where the stride does not divide H - patch, fewer than `stride` rows
    at the bottom are never hidden, and likewise at the right.

    Args:
        explanandum: The classifier to explain; only its probabilities are used.
        patch: Side of the patch, in pixels of an image whose shorter side is 224, and scaled with
            that side like SLOC's squares, to whole pixels and at least 1.
        stride: Pixels from one position to the next, scaled alike.
        fill: What the patch shows, as in `fills.fill`, but "images"; published is "mean".
        align: How values become pixels, bilinearly both ways. "centre": each value lies at its
            patch's centre, and beyond the outer centres the map continues unchanged. "stretched",
            as in the paper and its released code: the grid of values fills the image, which moves
            them outwards by up to half a patch at the border.
        batch_size: Images in a forward pass; it does not change the maps.
        seed: Seed of the fill "noise".

    Raises:
        ValueError: If a number is out of range or an option unknown.
    """

    speed_only = ("batch_size",)

    def __init__(
        self,
        explanandum: Explanandum,
        patch: int = 29,
        stride: int = 3,
        fill: OwnFill = "mean",
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
        """Maps (B, H, W), signed: the probability that the class loses there."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, from one set of forward passes."""
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
        """Side of the patch and stride in pixels of an image of this size."""
        scale = min(height, width) / 224
        return max(1, round(self.patch * scale)), max(1, round(self.stride * scale))

    @torch.no_grad()
    def drops(self, images: Tensor, classes: Tensor) -> Tensor:
        """What hiding each position costs, (B, k, r, c), without any interpolation."""
        height, width = images.shape[-2:]
        patch, stride = self.sizes(height, width)
        rows, columns = (range(0, extent - patch + 1, stride) for extent in (height, width))
        places = [(y, x) for y in rows for x in columns]
        fills = self.explanandum.fill(self.fill, self.generator())(images).expand_as(images)
        result = images.new_empty(*classes.shape, len(places))
        total = len(images) * (1 + len(places))
        viewer = Viewer(self.explanandum, images, self.batch_size, title="SP", total=total)
        with viewer.bar:
            for image, fill, wanted, found in zip(images, fills, classes, result, strict=True):
                whole = viewer.probabilities(viewer.copies(image, 1))[0, wanted]
                for start in range(0, len(places), self.batch_size):
                    batch = places[start : start + self.batch_size]
                    shown = viewer.copies(image, len(batch))
                    for occluded, (y, x) in zip(shown, batch, strict=True):
                        window = slice(y, y + patch), slice(x, x + patch)
                        occluded[:, *window] = fill[:, *window]
                    hidden = viewer.probabilities(shown)[:, wanted]
                    found[:, start : start + len(batch)] = (whole - hidden).mT
        return result.view(*classes.shape, len(rows), len(columns))


def _at_centres(length: int, count: int, patch: int, stride: int) -> Tensor:
    """Matrix (length, count) that interpolates linearly between the centres of patches.

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
