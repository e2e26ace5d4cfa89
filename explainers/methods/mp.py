"""Meaningful perturbation: the smallest smooth region whose blurring costs the class its score."""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.functional.fills import OwnFill
from explainers.functional.losses import variation
from explainers.functional.planes import resize
from explainers.functional.smoothing import gaussian
from explainers.optimization.pairs import Tick, minimize, solve_pairs


class MP(Explainer):
    """What a mask m removes, 1 - m: minimal l1 sum(1 - m) + tv variation(m) + p(masked image).

    The mask has size x size parameters in [0, 1], 1 keeps, which Adam moves; the map is 1 - m at
    the size of the image, so 1 is what had to go. As in `masking` the keep mask is the inner one;
    the paper's eq. 1 has the opposite sense.

    Source: Fong & Vedaldi, "Interpretable Explanations of Black Boxes by Meaningful Perturbation",
    ICCV 2017, as used in Agarwal & Nguyen, "Explaining image classifiers by removing input features
    using generative models", ACCV 2020, eq. 3, and its released code, whose numbers are the
    defaults.

    Differs: the released code crops the jittered 224 px from 228 px, we shift the image and its
    fill by replicating their border pixels (rolling would put the opposite border there, mirroring
    would repeat objects), by nearly as much to either side, so that the map lies on the image; all
    pairs see the same shifts and noise. It blurs before it resizes, and with replicated borders.

    Cost a pair: steps forward and as many backward passes; 36 more forward with init "circle".

    Args:
        explanandum: The classifier to explain, through its gradients.
        steps: Steps of Adam.
        lr: Their size.
        size: Parameters a side of the mask, whatever the shape of the image.
        interpolation: Of the mask to the image: "bilinear" as in the papers, or "nearest" as in the
            released code.
        l1: Weight of the removed area, the sum of 1 - m over the parameters.
        tv: Weight of the sum of |difference|^power over neighbouring parameters.
        power: 3, or 2 in some implementations.
        jitter: Each step shows image and fill at one of jitter x jitter offsets, one pixel apart,
            under a mask that stays where it is, as in the released code; eq. 3 shifts the mask as
            well. 1 turns it off.
        init: "uniform": noise in [0, 1], as in the ACCV paper; "ones": nothing removed, where a
            confident classifier has hardly a gradient; "circle", as in the ICCV paper: the smallest
            centred blurred disc that takes 99 % of what the whole fill takes from p.
        noise: Standard deviation of normal noise added in each step to the masked image, in units
            of the classifier's `std`; 0 in both papers, 0.2 in some implementations.
        fill: What replaces a pixel, as in `fills.fill`, but "images"; published is "blur".
        sigma: Width of that blur in pixels; published is 10 at 224 px.
        pairs: Image-class pairs optimised side by side; it changes only speed and memory.
        seed: Seed of the noises and shifts.

    Raises:
        ValueError: If a number is out of range or an option unknown.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"steps": 40, "size": 14}

    def __init__(
        self,
        explanandum: Explanandum,
        steps: int = 300,
        lr: float = 0.1,
        size: int = 28,
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
        l1: float = 1e-4,
        tv: float = 1e-2,
        power: float = 3.0,
        jitter: int = 4,
        init: Literal["uniform", "ones", "circle"] = "uniform",
        noise: float = 0.0,
        fill: OwnFill = "blur",
        sigma: float = 10.0,
        pairs: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if min(steps, size, jitter, pairs) < 1:
            raise ValueError(f"expected at least 1, got {steps=}, {size=}, {jitter=}, {pairs=}")
        if min(lr, sigma) <= 0 or min(l1, tv, noise) < 0 or power < 1:
            raise ValueError(
                "lr and sigma must be positive, l1, tv and noise at least 0, power at least 1, got "
                f"{lr=}, {sigma=}, {l1=}, {tv=}, {noise=}, {power=}"
            )
        self.steps, self.lr, self.size, self.interpolation = steps, lr, size, interpolation
        self.l1, self.tv, self.power, self.jitter, self.init = l1, tv, power, jitter, init
        self.noise, self.fill, self.sigma, self.pairs = noise, fill, sigma, pairs

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1], 1 = had to be removed."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, `pairs` at a time."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "MP")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        std, generator = self.explanandum.std, self.generator()
        fills = self.explanandum.fill(self.fill, generator, self.sigma)(images).expand_as(images)
        start = self._start(images, fills, classes, generator)
        wide_images, wide_fills = border(images, self.jitter), border(fills, self.jitter)

        def objective(masks: Tensor, step: int) -> Tensor:
            offsets = torch.randint(self.jitter, (2,), generator=generator)
            seen, behind = (window(x, offsets, images) for x in (wide_images, wide_fills))
            if self.noise:
                drawn = torch.randn(images.shape[1:], generator=generator).to(images)
                shift = self.noise * std.to(images) * drawn
                seen, behind = seen + shift, behind + shift
            removed = (1 - masks).sum(dim=(1, 2))
            rough = variation(masks, self.power)
            p = self._probability(seen, behind, masks, classes)
            return self.l1 * removed + self.tv * rough + p

        adam = partial(Adam, lr=self.lr)
        found = minimize(objective, start, self.steps, adam, tick, limits=(0.0, 1.0))
        return (1 - self._large(found, images)).clamp(0, 1)  # interpolation may round beyond

    def _large(self, masks: Tensor, images: Tensor) -> Tensor:
        return resize(masks, (images.shape[2], images.shape[3]), self.interpolation)

    def _probability(self, images: Tensor, fills: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
        """Probability (n,) of classes (n,) where masks (n, h, w) hide images behind fills."""
        shown = masking.blend(images, self._large(masks, images), fills)
        return self.explanandum.probabilities(shown).gather(1, classes[:, None]).squeeze(1)

    def _start(
        self, images: Tensor, fills: Tensor, classes: Tensor, generator: torch.Generator
    ) -> Tensor:
        shape = (len(images), self.size, self.size)
        if self.init == "circle":
            return self._circle(images, fills, classes)
        if self.init == "ones":
            return images.new_ones(shape)
        return torch.rand(shape[1:], generator=generator).to(images).expand(shape)

    @torch.no_grad()
    def _circle(self, images: Tensor, fills: Tensor, classes: Tensor) -> Tensor:
        """The smallest of `blurred_discs` that removes 99 % of what the whole fill removes.

        If none does, the largest; where the fill does not lower the probability, none at all.
        """
        everything = images.new_zeros(len(images), self.size, self.size)
        blank = self._probability(images, fills, everything, classes)
        found, goal = everything, torch.empty_like(blank)
        looking = torch.ones_like(classes, dtype=torch.bool)
        for radius, disc in enumerate(blurred_discs(self.size).to(images)):
            masks = (1 - disc).expand_as(everything)
            p = self._probability(images, fills, masks, classes)
            if radius == 0:  # the image itself
                goal = blank + 0.01 * (p - blank)
            found = torch.where(looking[:, None, None], masks, found)
            looking = looking & (p > goal)
        return found


def border(images: Tensor, jitter: int) -> Tensor:
    """Images (n, 3, H, W) with `jitter` - 1 more rows and columns, which repeat the border."""
    before = (jitter - 1) // 2
    after = jitter - 1 - before
    return F.pad(images, (before, after, before, after), mode="replicate")


def window(wide: Tensor, offsets: Tensor, images: Tensor) -> Tensor:
    """The part of widened images that begins at offsets (2,) and is as large as `images`."""
    (top, left), (height, width) = offsets.tolist(), images.shape[-2:]
    return wide[..., top : top + height, left : left + width]


def blurred_discs(size: int) -> Tensor:
    """Removal masks (35, size, size): centred discs of radius 0, 5, ... 170, blurred with sigma 10.

    Lengths are those of a square of 224 pixels, which the masks sample at the centres of their
    cells: the first is empty, the last removes everything but a few per cent of the corners.
    """
    reach, side = 40, 224
    line = torch.arange(-reach, side + reach, dtype=torch.float64)
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * side / size - 0.5
    blurring = gaussian(centres[:, None] - line, sigma=10, dim=1)
    squares = (line - (side - 1) / 2) ** 2
    radii = torch.arange(0, 175, 5)[:, None, None]
    discs = (squares[:, None] + squares < radii**2).double()
    return (blurring @ discs @ blurring.mT).float()
