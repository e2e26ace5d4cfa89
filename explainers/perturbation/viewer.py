"""Batches of perturbed images, made in one buffer and shown to the classifier."""

from typing import Any, overload

import torch
from torch import Tensor
from tqdm import tqdm

from explainers.explanandum import Explanandum
from explainers.functional.content import Content


class Viewer:
    """Shows perturbed images to the classifier and counts them on a progress bar.

    All batches reuse one buffer, because allocating memory is slow. Use a viewer inside
    `with viewer.bar:`. The bar appears only in terminals, and only if the work takes longer than a
    second.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1], which determine the size, type and device of the
            buffer.
        batch_size: Maximum number of images in a forward pass.
        channels_last: Whether the batches use the channels-last memory layout. None takes
            `Explanandum.channels_last`.
        title: Title of the progress bar.
        total: Number of images that will be shown.
    """

    def __init__(
        self,
        explanandum: Explanandum,
        images: Tensor,
        batch_size: int,
        channels_last: bool | None = None,
        title: str = "",
        total: int | None = None,
    ) -> None:
        self.explanandum, self.batch_size = explanandum, batch_size
        self.channels_last = explanandum.channels_last if channels_last is None else channels_last
        self.size = (images.shape[-2], images.shape[-1])
        self.buffer = images.new_empty(batch_size, *self.planes(images[:1]).shape[1:])
        self.bar: tqdm[Any] = tqdm(None, title, total, leave=False, delay=1, disable=None)

    @property
    def repeat(self) -> int:
        """Number of times that a mask repeats each column, to match the pixels in memory."""
        return 3 if self.channels_last else 1

    @overload
    def planes(self, images: Tensor) -> Tensor: ...

    @overload
    def planes(self, images: Content) -> Content: ...

    def planes(self, images: Content) -> Content:
        """Pixels of images (B, 3, H, W) in the order of memory: (B, H W 3) or (B, 3, H W).

        An inpainter, which has no pixels yet, stays as it is.
        """
        if not isinstance(images, Tensor):
            return images
        if self.channels_last:
            return images.permute(0, 2, 3, 1).flatten(1)
        return images.flatten(2)

    def masked(self, image: Tensor, fill: Content, masks: Tensor) -> Tensor:
        """Probabilities (n, K) of an image under masks.

        Args:
            image: Pixels of the image, one row of `planes`.
            fill: Pixels that are shown where a mask is 0, one row of `planes`, or an inpainter.
            masks: At most `batch_size` keep masks (n, H, W repeat) in [0, 1].
        """
        if not isinstance(fill, Tensor):
            pictures = self._pictures(image[None]).expand(len(masks), -1, -1, -1)
            fill = self.planes(fill(pictures, masks[:, :, :: self.repeat]))
        keep, shown = masks.flatten(1), self.buffer[: len(masks)]
        keep = keep if self.channels_last else keep[:, None]
        torch.addcmul(fill, image - fill, keep, out=shown)  # as masking.blend
        return self.probabilities(shown)

    def copies(self, image: Tensor, count: int) -> Tensor:
        """At most `batch_size` copies (count, 3, H, W) of an image (3, H, W), to be modified."""
        return self._pictures(self.buffer[:count]).copy_(image)

    def probabilities(self, shown: Tensor) -> Tensor:
        """Probabilities (n, K) of images in the buffer, in the form of `planes` or `copies`."""
        self.bar.update(len(shown))
        return self.explanandum.probabilities(self._pictures(shown))

    def _pictures(self, planes: Tensor) -> Tensor:
        if planes.ndim == 4:
            return planes
        if self.channels_last:
            return planes.view(-1, *self.size, 3).permute(0, 3, 1, 2)
        return planes.view(-1, 3, *self.size)
