"""Whether a map depends on the class that it explains."""

from typing import Any

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric
from explainers.metrics.similarity import rank_similarity


class RandomLogit(PerImageMetric):
    """Rank correlation, in [-1, 1], between the map of a class and that of another one.

    A value close to 0 is good, and methods are ranked by their distance from it: a map that is the
    same, or reversed, whatever class is asked for says where something is, but not what decides for
    the class. The other class is as far behind the explained one, cyclically, for every image;
    several explained classes are all replaced.

    If the other map is constant, the value is 0. If the map itself is constant, or the classifier
    has a single class, the value is missing.

    Source: Sixt, Granz and Landgraf, "When Explanations Lie", ICML 2020.

    Differences from the paper:
        - Rank correlation instead of structural similarity, since maps without a scale are
          compared.
        - One other class, not the mean over several draws.

    Cost: one explanation.

    Range: [-1, 1].

    Blind to: whether the map is right: noise that depends on the class is best. Where one class is
    all there is to see, a map of the object is penalized.

    Args:
        seed: Seed of the distance between the two classes.
    """

    needs = ("images", "targets", "maps", "explanandum", "explainer")
    names = ("RandomLogit",)
    higher_is_better = False
    ideal = 0.0

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def score(
        self,
        images: Tensor,
        targets: Tensor,
        maps: Tensor,
        explanandum: Explanandum,
        explainer: Any,
    ) -> dict[str, Tensor]:
        """Correlations (B,) of maps (B, H, W) of targets (B, K) with those of other targets."""
        count = targets.shape[1]
        if count < 2:
            return {"RandomLogit": torch.full((len(maps),), torch.nan)}
        generator = torch.Generator().manual_seed(self.seed)
        distance = int(torch.randint(1, count, (), generator=generator))
        others = explainer.attribute(images, targets.roll(distance, dims=1))
        return {"RandomLogit": rank_similarity(maps, others)}
