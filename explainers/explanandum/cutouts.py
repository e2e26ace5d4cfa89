"""Teaching a classifier that objects, not their surroundings, decide."""

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
    """Keep only, or remove, some objects of some images, and correct their targets.

    Photographs alone do not teach a classifier what a class is without its usual surroundings, nor
    that there may be no class at all: it stays sure of a horse on an empty meadow, and of something
    in front of a grey wall. Masks of such a classifier need not be on the objects.

    An image is altered with probability `share`, by all of its present classes or, as often, one of
    them: half of the time these alone are kept, else they alone are removed. The cut is up to 3 %
    of the image wider than the object, and as soft, so that its edge does not give it away.

    Args:
        images: (B, 3, H, W) in [0, 1].
        targets: (B, K) bool.
        masks: Where each class is, (B, K, H, W) bool.
        share: Probability that an image is altered, in [0, 1].
        fill: What removed pixels show, broadcastable to the images.
        generator: On the CPU.

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
    """Widen masks (B, H, W) by `reach` pixels and let their edges fall off over as many."""
    side = 2 * reach + 1
    wide = F.max_pool2d(masks[:, None], side, 1, reach)
    return F.avg_pool2d(wide, side, 1, reach, count_include_pad=False)[:, 0]
