"""Meaningful perturbation: the smallest smooth region whose blurring hides the class."""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content, masking
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice
from explainers.functional.losses import variation
from explainers.functional.planes import resize
from explainers.functional.smoothing import gaussian
from explainers.optimization.pairs import Tick, minimize, solve_pairs


class MP(Explainer):
    """Finds the smallest smooth region whose removal makes the class improbable.

    The mask m has size x size parameters in [0, 1], where 1 keeps and 0 removes. Adam minimizes

        l1 sum(1 - m) + tv variation(m) + p(masked image)

    where p is the probability of the class. The map is 1 - m at the size of the image, so that 1
    marks what had to be removed. The paper's eq. 1 defines its mask the other way round.

    Source: Fong & Vedaldi, "Interpretable Explanations of Black Boxes by Meaningful Perturbation",
    ICCV 2017, as used in Agarwal & Nguyen, "Explaining image classifiers by removing input features
    using generative models", ACCV 2020, eq. 3, and the released code of the latter, whose values
    are the defaults.

    Differences from the released code:
        - Jitter shifts the image and its fill and replicates their border pixels. The released code
          crops 224 x 224 pixels from 228 x 228. Rolling would show the opposite border, mirroring
          would repeat objects. The shifts to both sides are nearly equal, so that the map is
          aligned with the image.
        - All pairs of an image and a class see the same shifts and noise.
        - The blur is applied to the image at its final size and fades to the mean color at the
          border. The released code blurs before it resizes, and replicates the border.
        - The gradient of the area is -l1 where m is 1. The released code has none there, see
          `slope_at_one`.

    Cost for each pair of an image and a class: `steps` forward and `steps` backward passes, and 36
    more forward passes with the initial mask "circle".

    Args:
        explanandum: The classifier to explain, through its gradients.
        steps: Number of steps of Adam.
        lr: Learning rate of Adam.
        size: Number of mask parameters along each side, whatever the shape of the image.
        interpolation: Interpolation of the mask to the size of the image: "bilinear" as in the
            papers, or "nearest" as in the released code.
        l1: Weight of the removed area, the sum of 1 - m over the parameters.
        slope_at_one: Derivative of the area where m is exactly 1. "left": -1, that of 1 - m, so
            that m stays 1 where removal achieves less than it costs. "zero": 0, that of |1 - m| in
            the released code. There any gain of p then moves m from 1 by a whole step of Adam.
        tv: Weight of the variation, the sum of |difference|^power over neighboring parameters.
        power: Exponent of the variation; 3 as published, 2 in some implementations.
        jitter: Number of offsets along each axis. Each step shows the image and its fill at one of
            jitter x jitter offsets, one pixel apart. As in the released code, the mask is not
            shifted; in eq. 3 it is. 1 turns jitter off.
        init: Initial mask. "uniform": uniform noise in [0, 1], as in the ACCV paper. "ones":
            nothing is removed; the gradient of a confident classifier is then almost zero. "zeros":
            everything is removed, for inpainters, which restore an image with scattered holes.
            "circle": the smallest centered blurred disc whose removal achieves 99 % of the drop of
            p that the fill alone causes, as in the ICCV paper.
        noise: Standard deviation of the normal noise added to the masked image in each step, in
            units of the classifier's `std`; 0 in both papers, 0.2 in some implementations.
        fill: Content that replaces pixels, see `fills.fill`; "blur" as published. "images" is not
            allowed.
        sigma: Width in pixels of the fill "blur"; 10 for images of 224 pixels as published.
        binary: Whether the image is shown under a binary mask, see `binary`, as in MP-G of the ACCV
            paper, which fills by an inpainter. The map is the mask before it.
        pairs: Number of image-class pairs that are optimized side by side. It changes only speed
            and memory.
        seed: Seed of the noise and the shifts.

    Raises:
        ValueError: If a number is out of range or an option is unknown.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"steps": 30, "size": 7}

    def __init__(
        self,
        explanandum: Explanandum,
        steps: int = 300,
        lr: float = 0.1,
        size: int = 28,
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
        l1: float = 1e-4,
        slope_at_one: Literal["left", "zero"] = "left",
        tv: float = 1e-2,
        power: float = 3.0,
        jitter: int = 4,
        init: Literal["uniform", "ones", "zeros", "circle"] = "uniform",
        noise: float = 0.0,
        fill: FillChoice = "blur",
        sigma: float = 10.0,
        binary: bool = False,
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
        self.slope_at_one, self.binary = slope_at_one, binary

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1], where 1 marks pixels that had to be removed."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, `pairs` at a time."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "MP")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        std, generator = self.explanandum.std, self.generator()
        fills = content.behind(self.explanandum.fill(self.fill, generator, self.sigma), images)
        start = self._start(images, fills, classes, generator)
        wide_images = border(images, self.jitter)
        wide_fills = border(fills, self.jitter) if isinstance(fills, Tensor) else fills

        def objective(masks: Tensor, step: int) -> Tensor:
            offsets = torch.randint(self.jitter, (2,), generator=generator)
            seen = window(wide_images, offsets, images)
            hidden = wide_fills
            if isinstance(hidden, Tensor):
                hidden = window(hidden, offsets, images)
            shift: Tensor | None = None
            if self.noise:
                drawn = torch.randn(images.shape[1:], generator=generator).to(images)
                shift = self.noise * std.to(images) * drawn
            area = 1 - masks
            removed = (area.abs() if self.slope_at_one == "zero" else area).sum(dim=(1, 2))
            rough = variation(masks, self.power)
            p = self._probability(seen, hidden, masks, classes, shift)
            return self.l1 * removed + self.tv * rough + p

        adam = partial(Adam, lr=self.lr)
        found = minimize(objective, start, self.steps, adam, tick, limits=(0.0, 1.0))
        return (1 - self._large(found, images)).clamp(0, 1)  # rounding can leave [0, 1]

    def _large(self, masks: Tensor, images: Tensor) -> Tensor:
        return resize(masks, (images.shape[2], images.shape[3]), self.interpolation)

    def _probability(
        self,
        images: Tensor,
        fills: Content,
        masks: Tensor,
        classes: Tensor,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Probability (n,) of classes (n,) for images blended with fills by masks (n, h, w).

        The noise `shift` (3, H, W), if any, is added to both.
        """
        large = self._large(masks, images)
        large = binary(large) if self.binary else large
        if shift is not None and isinstance(fills, Tensor):
            images, fills = images + shift, fills + shift
        shown = masking.blend(images, large, fills)
        if shift is not None and not isinstance(fills, Tensor):
            shown = shown + shift  # the inpainter sees no noise
        return self.explanandum.probabilities(shown).gather(1, classes[:, None]).squeeze(1)

    def _start(
        self, images: Tensor, fills: Content, classes: Tensor, generator: torch.Generator
    ) -> Tensor:
        shape = (len(images), self.size, self.size)
        if self.init == "circle":
            return self._circle(images, fills, classes)
        if self.init in ("ones", "zeros"):
            return images.new_full(shape, float(self.init == "ones"))
        return torch.rand(shape[1:], generator=generator).to(images).expand(shape)

    @torch.no_grad()
    def _circle(self, images: Tensor, fills: Content, classes: Tensor) -> Tensor:
        """Masks (n, size, size) that remove the smallest sufficient disc of `blurred_discs`.

        A disc is sufficient if it lowers the probability by 99 % of what the fill alone does. If
        none is, the largest is removed. If the fill does not lower the probability, none is.
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


def binary(masks: Tensor) -> Tensor:
    """Masks (n, H, W) of 0 and 1, whose gradient is passed on to `masks` unchanged.

    A pixel is 1 above the threshold max(0.5, (largest + smallest value of its mask) / 2).

    Source: the released code of Agarwal & Nguyen, ACCV 2020.

    Example:
        >>> binary(torch.tensor([[[0.2, 0.6, 0.9, 1.0]]])).tolist()
        [[[0.0, 0.0, 1.0, 1.0]]]
    """
    values = masks.detach()
    middle = (values.amax(dim=(1, 2), keepdim=True) + values.amin(dim=(1, 2), keepdim=True)) / 2
    hard = (values > middle.clamp(min=0.5)).to(values)
    return hard + (masks - values)


def border(images: Tensor, jitter: int) -> Tensor:
    """Images (n, 3, H, W) padded by `jitter` - 1 rows and columns that replicate the border."""
    before = (jitter - 1) // 2
    after = jitter - 1 - before
    return F.pad(images, (before, after, before, after), mode="replicate")


def window(wide: Tensor, offsets: Tensor, images: Tensor) -> Tensor:
    """Crop of the padded images `wide`, of the size of `images`, starting at offsets (2,)."""
    (top, left), (height, width) = offsets.tolist(), images.shape[-2:]
    return wide[..., top : top + height, left : left + width]


def blurred_discs(size: int) -> Tensor:
    """Removal masks (35, size, size): centered discs of radius 0, 5, ..., 170, blurred by sigma 10.

    Lengths are in pixels of an image of 224 x 224 pixels. The masks sample it at the centers of
    their cells. The first mask is empty. The last one removes everything except for a few percent
    at the corners.
    """
    reach, side = 40, 224
    line = torch.arange(-reach, side + reach, dtype=torch.float64)
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * side / size - 0.5
    blurring = gaussian(centres[:, None] - line, sigma=10, dim=1)
    squares = (line - (side - 1) / 2) ** 2
    radii = torch.arange(0, 175, 5)[:, None, None]
    discs = (squares[:, None] + squares < radii**2).double()
    return (blurring @ discs @ blurring.mT).float()
