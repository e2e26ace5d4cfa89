"""MP2: removes the most influential mask pixels step by step until the class is gone."""

import math
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content, masking
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice
from explainers.functional.losses import log_odds
from explainers.functional.planes import resize
from explainers.optimization.pairs import Tick, gradient, solve_pairs, until_done


class MP2(Explainer):
    """Order in which a binary mask removes pixels until the probability p falls to chance.

    The mask has size x size pixels, and at first nothing is removed. Each step removes the `pixels`
    most influential of the remaining pixels, judged by the gradient of p with respect to the mask.
    It ends when p <= chance. If even the fill alone stays above chance, it ends when all pixels are
    removed.

    Source: Agarwal & Nguyen, "Explaining image classifiers by removing input features using
    generative models", ACCV 2020, section 3.5. No code was published.

    Differences from the paper:
        - The map encodes the order of removal. Let S be the number of steps that remove all pixels.
          A pixel removed in step t = 0, 1, ... has the value 1 - t / (2 S), which is above 1/2. A
          pixel that is not removed has the value 0. If p <= chance at the start, the whole map is
          0. Except for the interpolation, the map thresholded at 1/2 is the published binary mask.
        - The gradient is that of the log-odds, which is the gradient of p divided by p (1 - p). It
          gives pixels the same order, and is exact where p rounds to 1.

    Cost for each pair of an image and a class: min(T + 1, S) forward passes and as many backward
    passes, where T is the number of steps that removed something and S = ceil(size^2 / pixels).
    With the published values this is at most 392. Finished pairs cost nothing more.

    Args:
        explanandum: The classifier to explain, through its gradients.
        size: Number of mask pixels along each side, whatever the shape of the image; 28, 56 and 112
            as published.
        pixels: Number of pixels removed in each step; 2 as published.
        gradient: Order of removal. "descent": the most negative gradient first, that is, pixels
            whose removal lowers p, as in JSMA, which the paper follows. "norm": the largest
            absolute gradient first, as the paper states. The gradient of a mask pixel is a single
            number, so its norm also selects pixels whose removal raises p, contrary to the paper's
            objective of lowering it.
        chance: Probability at which removal stops. None selects that of an uninformed classifier:
            1 / classes for a softmax (published: 0.001 for 1000 classes, 0.003 for 365), and 0.5
            for sigmoids, below which the class is no longer predicted. 0 removes and ranks all
            pixels.
        interpolation: Interpolation of the mask and the map to the size of the image. The paper
            does not specify it; its MP has "bilinear" in the text and "nearest" in the code.
        ranked: Whether the map encodes the order of removal. False gives the published map, which
            is 1 at every removed pixel.
        fill: Content that replaces pixels, see `fills.fill`; "blur" as published. "images" is not
            allowed.
        sigma: Width in pixels of the fill "blur"; 10 for images of 224 pixels as published.
        pairs: Number of image-class pairs that are processed side by side. It changes only speed
            and memory.
        seed: Seed of the fill "noise".

    Raises:
        ValueError: If a number is out of range or an option is unknown.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"size": 7}

    def __init__(
        self,
        explanandum: Explanandum,
        size: int = 28,
        pixels: int = 2,
        gradient: Literal["descent", "norm"] = "descent",
        chance: float | None = None,
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
        ranked: bool = True,
        fill: FillChoice = "blur",
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
        """Number of steps that remove all pixels."""
        return -(-(self.size**2) // self.pixels)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1], larger for pixels that were removed earlier."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, `pairs` at a time."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "MP2")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        filled = self.explanandum.fill(self.fill, self.generator(), self.sigma)
        fills = content.behind(filled, images)
        stop = math.log(self.chance / (1 - self.chance)) if self.chance else -math.inf

        def advance(order: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            hidden = content.rows(fills, rows)
            odds_without = partial(self._odds, images[rows], hidden, classes[rows])
            odds, slopes = gradient(odds_without, (order > 0).to(images))
            going = odds > stop
            order = torch.where(going[:, None, None], self._grow(order, slopes, step), order)
            return order, ~going

        shape = (len(images), self.size, self.size)
        start = torch.zeros(shape, dtype=torch.long, device=images.device)
        order = until_done(advance, start, self.steps, tick)
        late = (order - 1) / (2 * self.steps) if self.ranked else torch.zeros_like(order)
        maps = torch.where(order > 0, 1 - late, 0.0).to(images)
        return self._large(maps, images).clamp(0, 1)  # rounding can leave [0, 1]

    def _large(self, masks: Tensor, images: Tensor) -> Tensor:
        return resize(masks, (images.shape[2], images.shape[3]), self.interpolation)

    def _odds(self, images: Tensor, fills: Content, classes: Tensor, removed: Tensor) -> Tensor:
        """Log-odds (n,) of classes (n,) for images filled where `removed` (n, h, w) is 1."""
        shown = masking.blend(images, 1 - self._large(removed, images), fills)
        return log_odds(self.explanandum(shown), classes, self.explanandum.multi_label)

    def _grow(self, order: Tensor, slopes: Tensor, step: int) -> Tensor:
        """Order of removal (n, h, w) after one more step.

        Args:
            order: Number of the step, counted from 1, that removed each pixel (n, h, w), or 0 for
                pixels that remain.
            slopes: Gradient (n, h, w) of the log-odds with respect to the removal of each pixel.
            step: Number of the new step, counted from 0.
        """
        influence = slopes.abs() if self.gradient == "norm" else -slopes
        influence = influence.masked_fill(order > 0, -torch.inf).flatten(1)
        count = min(self.pixels, influence.shape[1] - step * self.pixels)
        chosen = influence.argsort(dim=1, descending=True, stable=True)[:, :count]
        return order.flatten(1).scatter(1, chosen, step + 1).view_as(order)
