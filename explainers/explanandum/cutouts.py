"""Augmentation that teaches a classifier to decide by objects, not by their surroundings."""

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.functional import masking


def cut_outs(
    images: Tensor,
    targets: Tensor,
    masks: Tensor,
    share: float,
    fill: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Keeps only, or removes, some objects of some images, and corrects their targets.

    Photographs alone do not teach a classifier what a class looks like without its usual
    surroundings, nor that an image may show no class at all. The classifier remains sure of a horse
    on an empty meadow, and of some object in front of a gray wall. Masks that explain such a
    classifier need not lie on the objects.

    An image is altered with probability `share`. The selected classes are all classes that are
    present or, with probability 1/2, only one of them. With probability 1/2 only the selected
    classes are kept, otherwise only they are removed. The cut is wider than the object by up to 3 %
    of the shorter side of the image, and its edge is softened over a similar width. The edge thus
    does not reveal the object.

    Args:
        images: Images (B, 3, H, W) in [0, 1].
        targets: Multi-hot targets (B, K) bool.
        masks: Object masks of all classes, (B, K, H, W) bool.
        share: Probability that an image is altered, in [0, 1].
        fill: Content that replaces removed pixels, broadcastable to the images.
        generator: Random number generator on the CPU.

    Returns:
        Images (B, 3, H, W) and targets (B, K). An image without a class stays as it is.
    """
    classes = targets & masks.flatten(2).any(dim=2)
    draws = torch.rand(len(images), 3, generator=generator).to(images.device)
    altered, alone, keep = (draws < draws.new_tensor([share, 0.5, 0.5])).unbind(1)
    altered = altered & classes.any(dim=1)
    ranks = torch.rand(targets.shape, generator=generator).to(images) * classes
    one = F.one_hot(ranks.argmax(dim=1), targets.shape[1]).bool()
    chosen = torch.where(alone[:, None], one, classes)
    reach = int(torch.randint(1 + round(0.03 * min(images.shape[-2:])), (), generator=generator))
    cut = soften(masking.merge(masks.to(images), chosen), reach)
    kept = torch.where(keep[:, None, None], cut, 1 - cut)
    kept = torch.where(altered[:, None, None], kept, torch.ones_like(kept))
    left = torch.where(keep[:, None], chosen, targets & ~chosen)
    return masking.blend(images, kept, fill), torch.where(altered[:, None], left, targets)


def soften(masks: Tensor, reach: int) -> Tensor:
    """Masks (B, H, W), widened by `reach` pixels and then averaged over squares.

    The squares extend `reach` pixels to each side.
    """
    side = 2 * reach + 1
    wide = F.max_pool2d(masks[:, None], side, 1, reach)
    return F.avg_pool2d(wide, side, 1, reach, count_include_pad=False)[:, 0]
