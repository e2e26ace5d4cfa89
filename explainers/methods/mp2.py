"""MP2: remove the most influential mask pixels one after the other until the class is gone."""

import math
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.functional.fills import OwnFill
from explainers.functional.losses import log_odds
from explainers.functional.planes import resize
from explainers.optimization.pairs import Tick, gradient, solve_pairs, until_done


class MP2(Explainer):
    """The order in which a binary mask removes the image until p falls to chance.

    The mask of size x size pixels begins with nothing removed. Each step removes the `pixels` most
    influential of the pixels still there, by the gradient of p with respect to the mask, until
    p <= chance or, where even the whole fill stays above chance, until all are removed.

    Source: Agarwal & Nguyen, "Explaining image classifiers by removing input features using
    generative models", ACCV 2020, section 3.5. No code was published.

    Ours: the map tells the order of removal. Of S steps that remove everything, what step
    t = 0, 1 ... removed is 1 - t / 2S, which is above 1/2, and what was never removed is 0, as is
    the whole map if p <= chance to begin with. So the map is the published binary mask wherever it
    is cut at 1/2, but for the interpolation, and ranks what that mask leaves equal.

    The gradient that decides is that of the log-odds: it orders pixels as that of p does, being
    that of p divided by p (1 - p), and is exact where p rounds to 1.

    Cost a pair: min(T + 1, S) forward and as many backward passes, T being the steps that removed
    something, S = ceil(size^2 / pixels): at most 392 with the published numbers. Finished pairs
    drop out.

    Args:
        explanandum: The classifier to explain, through its gradients.
        size: Pixels a side of the mask, whatever the shape of the image; published are 28, 56, 112.
        pixels: How many are removed a step; published is 2.
        gradient: "descent": most negative first, pixels whose removal lowers p, as in JSMA, which
            the paper follows; "norm": largest |gradient| first, as it writes. A mask pixel's
            gradient is one number, so its norm also chooses pixels whose removal raises p, against
            the paper's objective of lowering it.
        chance: Probability to stop at; None takes that of a classifier that knows nothing,
            1 / classes for a softmax (published: 0.001 for 1000 classes, 0.003 for 365), 0.5 for
            sigmoids, where the class is no longer predicted. 0 removes, and ranks, every pixel.
        interpolation: Of mask and map to the image; the paper does not say. Its MP has "bilinear"
            in the text and "nearest" in the code.
        ranked: False gives the published map: 1 where removed, at any step.
        fill: What replaces a pixel, as in `fills.fill`, but "images"; published is "blur".
        sigma: Width of that blur in pixels; published is 10 at 224 px.
        pairs: Image-class pairs side by side; it changes only speed and memory.
        seed: Seed of the fill "noise".

    Raises:
        ValueError: If a number is out of range or an option unknown.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"size": 14}

    def __init__(
        self,
        explanandum: Explanandum,
        size: int = 28,
        pixels: int = 2,
        gradient: Literal["descent", "norm"] = "descent",
        chance: float | None = None,
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
        ranked: bool = True,
        fill: OwnFill = "blur",
        sigma: float = 10.0,
        pairs: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if min(size, pixels, pairs) < 1:
            raise ValueError(f"expected at least 1, got {size=}, {pixels=}, {pairs=}")
        if chance is None:
            chance = 0.5 if explanandum.multi_label else 1 / explanandum.num_classes
        if not 0 <= chance < 1 or sigma <= 0:
            raise ValueError(
                f"chance must be in [0, 1) and sigma positive, got {chance=}, {sigma=}"
            )
        self.size, self.pixels, self.gradient, self.chance = size, pixels, gradient, chance
        self.interpolation, self.ranked = interpolation, ranked
        self.fill, self.sigma, self.pairs = fill, sigma, pairs

    @property
    def steps(self) -> int:
        """Steps that remove everything."""
        return -(-(self.size**2) // self.pixels)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1], the sooner removed the larger."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, `pairs` at a time."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "MP2")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        filled = self.explanandum.fill(self.fill, self.generator(), self.sigma)
        fills = filled(images).expand_as(images)
        stop = math.log(self.chance / (1 - self.chance)) if self.chance else -math.inf

        def advance(order: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            odds_without = partial(self._odds, images[rows], fills[rows], classes[rows])
            odds, slopes = gradient(odds_without, (order > 0).to(images))
            going = odds > stop
            order = torch.where(going[:, None, None], self._grow(order, slopes, step), order)
            return order, ~going

        shape = (len(images), self.size, self.size)
        start = torch.zeros(shape, dtype=torch.long, device=images.device)
        order = until_done(advance, start, self.steps, tick)
        late = (order - 1) / (2 * self.steps) if self.ranked else torch.zeros_like(order)
        maps = torch.where(order > 0, 1 - late, 0.0).to(images)
        return self._large(maps, images).clamp(0, 1)  # interpolation may round beyond

    def _large(self, masks: Tensor, images: Tensor) -> Tensor:
        return resize(masks, (images.shape[2], images.shape[3]), self.interpolation)

    def _odds(self, images: Tensor, fills: Tensor, classes: Tensor, removed: Tensor) -> Tensor:
        """Log-odds (n,) of classes (n,) where masks (n, h, w) remove images."""
        shown = masking.blend(images, 1 - self._large(removed, images), fills)
        return log_odds(self.explanandum(shown), classes, self.explanandum.multi_label)

    def _grow(self, order: Tensor, slopes: Tensor, step: int) -> Tensor:
        """An order of removal (n, h, w), 0 where it is open, with the places of one more step."""
        influence = slopes.abs() if self.gradient == "norm" else -slopes
        influence = influence.masked_fill(order > 0, -torch.inf).flatten(1)
        count = min(self.pixels, influence.shape[1] - step * self.pixels)
        chosen = influence.argsort(dim=1, descending=True, stable=True)[:, :count]
        return order.flatten(1).scatter(1, chosen, step + 1).view_as(order)
