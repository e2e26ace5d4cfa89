"""What removed pixels show: pixels that are known, or a fill that first needs the masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explainers.functional.fills import Fill, Inpainted

# Pixels, or a fill that is called with images and masks.
Content = Tensor | Fill


@dataclass(frozen=True, eq=False)
class RowFills:
    """A fill for each image of a batch, some of which are inpainters.

    Args:
        known: Pixels (B, 3, H, W). Those of images that have an inpainter do not count.
        inpainters: Inpainters, each after the rows (n,) of the images that have it.
    """

    known: Tensor
    inpainters: Sequence[tuple[Tensor, Inpainted]]

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Pixels (B, 3, H, W) for the images of the batch, in its order."""
        if masks is None:
            raise ValueError("inpainters need the masks of what is kept")
        found = self.known.clone()
        for own, inpainter in self.inpainters:
            found[own] = inpainter(images[own], masks[own])
        return found


def behind(fill: Fill, images: Tensor) -> Content:
    """Content for images (B, 3, H, W): an inpainter itself, or the pixels of any other fill."""
    return fill if isinstance(fill, Inpainted) else fill(images).expand_as(images)


def pixels(content: Content, images: Tensor, masks: Tensor) -> Tensor:
    """Pixels, broadcastable to images (B, 3, H, W), for keep masks (B, H, W)."""
    return content if isinstance(content, Tensor) else content(images, masks)


def pixels_without_image(content: Content, images: Tensor) -> Tensor:
    """Pixels for images (B, 3, H, W) of which nothing is kept: mean color of an inpainter."""
    return pixels(content, images, torch.zeros_like(images[:, 0]))


def rows(content: Content, index: Tensor | slice) -> Content:
    """Content of some images of a batch, given by their rows."""
    return content[index] if isinstance(content, Tensor) else content


def first(content: Content) -> Content:
    """Content (3, H, W) of the first image of a batch."""
    return content[0] if isinstance(content, Tensor) else content


def repeated(content: Content, count: int) -> Content:
    """Content of a batch in which each image is repeated in succession."""
    return content.repeat_interleave(count, dim=0) if isinstance(content, Tensor) else content
