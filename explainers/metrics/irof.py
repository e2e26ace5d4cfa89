"""Iterative removal of features: superpixels are removed in the order of their mean relevance."""

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional.fills import FillName
from explainers.functional.regions import region_means, superpixels
from explainers.metrics.base import PerImageMetric
from explainers.options import check_choices
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve


class IROF(PerImageMetric):
    """Area over the curve of the relative probability as superpixels are removed one by one.

    The superpixel with the highest mean relevance is removed first. The probability of the
    explained class is divided by that of the whole image. The area is 1 minus the mean height, by
    the trapezoidal rule: close to 1 if the first superpixels decide.

    Source: Rieger and Hansen, "IROF: a low resource evaluation metric for explanation methods",
    ICLR 2020 workshop, as in quantus.

    Differences from the released code:
        - The area is divided by the number of superpixels, so that it does not grow with them.
        - The fill is the classifier's mean color; quantus takes the mean of the image.

    Range: (-inf, 1]; negative if the probability rises above that of the whole image.

    Cost: one forward pass for each superpixel, about a hundred, and one more.

    Blind to: the order of pixels within a superpixel, and to whether a map covers a superpixel or
    a few of its pixels strongly. Most of the images are mostly removed, unlike those of the
    training.

    Args:
        segments: Approximate number of superpixels.
        fill: Name of the fill, see `fills.fill`.
        batch_size: Number of perturbed images in each forward pass.

    Raises:
        ValueError: If `segments` or `batch_size` is below 1.
    """

    names = ("IROF",)
    needs = ("images", "maps", "targets", "explanandum")
    per_class = True
    speed_only = ("batch_size",)

    def __init__(self, segments: int = 100, fill: FillName = "mean", batch_size: int = 16) -> None:
        check_choices(type(self), locals())
        super().__init__()
        if min(segments, batch_size) < 1:
            raise ValueError(
                f"expected segments and batch_size >= 1, got {segments} and {batch_size}"
            )
        self.segments, self.fill, self.batch_size = segments, fill, batch_size

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Areas (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        areas = [
            self._area(images[i : i + 1], maps[i : i + 1], targets[i : i + 1], explanandum)
            for i in range(len(images))
        ]
        return {"IROF": torch.cat(areas)}

    def _area(
        self, image: Tensor, relevance: Tensor, target: Tensor, explanandum: Explanandum
    ) -> Tensor:
        """Area (1,) of one image."""
        regions = superpixels(image[0], self.segments).cpu()
        places = region_means(relevance[0], regions).argsort(descending=True, stable=True)
        rank = torch.empty_like(places)
        rank[places] = torch.arange(len(places))  # of each region; 0 is removed first
        sizes = regions.flatten().bincount()[places]
        curve = Curve(fill=self.fill, counts=(0, *sizes.cumsum(dim=0).tolist()))
        order = -rank[regions][None].to(relevance)
        (found,) = curves.run(explanandum, image, order, target, [curve], self.batch_size)
        return 1 - curves.auc(found.probability / found.probability[:, :1])
