"""PyramidCAM plus a fixed dither pattern, which nothing was learned for: a control."""

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum, features
from explainers.explanandum.gradients import pyramid_maps
from explainers.functional.dither import bayer


class Lattice(Explainer):
    """The map of `cam.PyramidCAM` plus the 4 x 4 Bayer pattern: a control without a claim.

    Insertion curves reward maps that scatter the pixels they show first, because a thinned-out
    object is recognized earlier than a solid part of it. A method that is trained on such curves
    may learn no more than that. Its gain over this row is what it knows of the image.

    Source: none, a control. Cost: that of `cam.PyramidCAM`, one forward pass for each image, and
    one backward pass for each class.

    Args:
        explanandum: The classifier to explain. Its stages must be known.
        seed: Not used; every method accepts it.

    Raises:
        NotDefinedError: If the stages of the classifier are not known.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        features.stages(explanandum)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), of mean 0 and variance 1 before the pattern is added."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        maps = pyramid_maps(self.explanandum, images, classes)
        pattern: Tensor = bayer(images.shape[-2], images.shape[-1]).to(maps)
        return torch.add(maps, pattern)
