"""Overlap of the maps of the labels of one image."""

import itertools
from typing import Any

import torch
from torch import Tensor

from explainers.metrics.base import PerImageMetric, exact
from explainers.metrics.inputs import finite


def top_overlap(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Intersection over union, (B,) in [0, 1], of the highest pixels of maps (B, H, W).

    Pixels of equal value count by their place, the later one as the higher.

    Args:
        one: Maps (B, H, W).
        other: Further maps of the same images, (B, H, W).
        share: Fraction of the pixels that is compared, rounded down, at least one pixel.

    Returns:
        Overlap in float64; NaN where a map is not finite.

    Example:
        >>> one = torch.tensor([[[3.0, 2.0], [1.0, 0.0]]])
        >>> top_overlap(one, torch.tensor([[[0.0, 3.0], [2.0, 1.0]]]), share=0.5).tolist()
        [0.3333333333333333]
    """
    count = max(1, int(share * one[0].numel()))
    first, second = (_highest(maps, count) for maps in (one, other))
    both = (first & second).sum(dim=1).double()
    overlap = both / (2 * count - both)
    return overlap.masked_fill(~(finite(one) & finite(other)), torch.nan)


def _highest(maps: Tensor, count: int) -> Tensor:
    """The `count` highest pixels of maps (B, H, W), as (B, H W) bool on the CPU."""
    values = exact(maps).flatten(1)
    chosen = values.argsort(dim=1, stable=True)[:, -count:]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, chosen, value=True)


class LabelOverlap(PerImageMetric):
    """Overlap of the maps of the labels of an image, the mean over all pairs of its labels.

    Each label that the image shows is explained by its own map. Of each map, the highest pixels
    are kept, and `top_overlap` compares them. A method that gives one map for all labels has 1,
    maps of separate places have 0, and unrelated maps have about share / (2 - share). Images with
    a single label have no value.

    Source: Gupta et al., "New Definitions and Evaluations for Saliency Methods", NeurIPS 2022,
    figures 5 and 6, which show such maps; they do not measure them.

    Range: [0, 1].

    Cost: one explanation of each label of an image with several.

    Blind to: whether the maps are right: noise that depends on the class is good. Labels may share
    their evidence, such as a rider and a horse.

    Args:
        share: Fraction of the pixels that is compared; the figures show 0.3.

    Raises:
        ValueError: If `share` is not in (0, 1).
    """

    names = ("LabelOverlap",)
    needs = ("images", "labels", "explainer")
    higher_is_better = False

    def __init__(self, share: float = 0.3) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {share}")
        self.share = share

    def score(self, images: Tensor, labels: Tensor, explainer: Any) -> dict[str, Tensor]:
        """Overlaps (B,) of the maps of images (B, 3, H, W) for their labels (B, K) bool."""
        values = torch.full((len(images),), torch.nan, dtype=torch.float64)
        for row, shown in enumerate(labels):
            classes = shown.nonzero().flatten()
            if len(classes) > 1:
                maps = explainer.class_maps(images[row : row + 1], classes[None].to(images.device))
                pairs = itertools.combinations(maps[0].split(1), 2)
                found = [top_overlap(one, other, self.share) for one, other in pairs]
                values[row] = torch.cat(found).mean()
        return {"LabelOverlap": values}
