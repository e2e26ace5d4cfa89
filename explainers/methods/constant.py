"""Reference maps that do not use the classifier: constants, noise, a Gaussian, object masks."""

from typing import Any

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import masking


class Constant(Explainer):
    """The same value at every pixel, such as 0 (nothing), 0.5 or 1 (the whole image).

    Source: none, a control. Cost: no passes.

    Args:
        explanandum: The frozen classifier, which is not evaluated.
        value: Value of every pixel, in [0, 1].
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If the value is out of range.
    """

    is_mask = True
    class_specific = False

    def __init__(self, explanandum: Explanandum, value: float = 0.5, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"value must be in [0, 1], got {value}")
        self.value = value

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) filled with the value."""
        return torch.full_like(images[:, 0], self.value)


class Random(Explainer):
    """Uniform noise in [0, 1), the same for all images of a given size.

    Source: none, a control. Cost: no passes.
    """

    is_mask = True
    class_specific = False

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Noise (B, H, W)."""
        noise = torch.rand(images.shape[-2:], generator=self.generator())
        return noise.to(images).expand_as(images[:, 0]).clone()


class CentredGaussian(Explainer):
    """Gaussian at the center of the image, where photographs tend to show their objects.

    Its maximum is 1, at the center.

    Source: none, a control. Cost: no passes.

    Args:
        explanandum: The frozen classifier, which is not evaluated.
        sigma: Standard deviation as a fraction of each side of the image.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If sigma is not positive.
    """

    is_mask = True
    class_specific = False

    def __init__(self, explanandum: Explanandum, sigma: float = 0.25, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        if sigma <= 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        self.sigma = sigma

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in (0, 1], all equal."""
        rows, columns = (self._profile(size) for size in images.shape[-2:])
        return (rows[:, None] * columns).to(images).expand_as(images[:, 0]).clone()

    def _profile(self, size: int) -> Tensor:
        centred = (torch.arange(size) - (size - 1) / 2) / size
        return torch.exp(-((centred / self.sigma) ** 2) / 2)


class GroundTruth(Explainer):
    """Object masks of the data: perfect for localization, but not necessarily as an explanation.

    The masks cannot be computed from the images. They must be passed with each batch, as the
    callback Score does. Only the images passed last can be explained, in any order.

    Source: none, a control. Cost: no passes.
    """

    is_mask = True
    needs_masks = True

    def observe(self, batch: dict[str, Any]) -> None:
        """Store the masks of a batch, if it has any, until the next batch."""
        if "mask" in batch:
            self.feed(batch["image"], batch["mask"])

    def feed(self, images: Tensor, masks: Tensor) -> None:
        """Store the class masks (B, K, H, W) bool of images (B, 3, H, W) until the next call."""
        self.known = images.float(), masks

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Unions (B, H, W) of the masks of the targets."""
        return masking.merge(self._masks(images), targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, k, H, W) of several classes for each image, `classes` (B, k) int64."""
        masks = self._masks(images)
        if masks.shape[1] == 1:  # that of every class
            return masks.expand(-1, classes.shape[1], -1, -1)
        return masks.gather(1, classes[:, :, None, None].expand(-1, -1, *masks.shape[-2:]))

    def _masks(self, images: Tensor) -> Tensor:
        known, masks = getattr(self, "known", (images[:0], images[:0]))
        rows = masking.places(images, known)
        if -1 in rows:
            raise ValueError(
                "GroundTruth explains only the images it was fed with: call feed(images, masks)"
            )
        return masks[rows].to(images.dtype)
