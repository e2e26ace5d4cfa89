"""Extremal perturbations: the smooth mask of a given area that best preserves the class."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice, Inpainted
from explainers.functional.losses import area_gap
from explainers.functional.smooth_masks import smooth_masks, torchray_masks
from explainers.functional.smoothing import blur
from explainers.optimization.pairs import Tick, minimize, solve_pairs
from explainers.optimization.snapshots import KeepBest

AREAS = [0.05, 0.1, 0.2, 0.4, 0.6, 0.8]


class GeometryOptions(TypedDict, total=False):
    """Options of the masks' geometry.

    Args:
        grid: Positions of the parameters, and region whose area counts. "centered": in the middle
            of their cells, repeated beyond the image (`smooth_masks`); the image counts.
            "torchray": at the top left pixels of their cells, with zeros beyond the image
            (`torchray_masks`); a border of about `smoothness` pixels counts too, and `area_gap`
            sorts equal pixels.
        blur: Width of the Gaussian blur of the finished masks, as a fraction of the shorter side of
            the image, with zeros beyond the image; 0.09 in NN-Explainer. 0 turns it off.
    """

    grid: Literal["centered", "torchray"]
    blur: float


GEOMETRY: GeometryOptions = {"grid": "centered", "blur": 0.0}


class ExtremalPerturbation(Explainer):
    """For each given area, finds the smooth mask of that area that best preserves the class.

    A mask is computed from a coarse grid of parameters by a smooth maximum (`smooth_masks`), which
    fixes its smoothness. Gradient descent starts with all parameters at 1 and minimizes

        weight * (penalty on the area of the mask) - (reward of the masked image)

    where the weight grows with every step. The penalty is `losses.area_gap`. The masked image is
    blurred more strongly where the mask is smaller.

    Source: Fong, Patrick and Vedaldi, "Understanding Deep Networks via Extremal Perturbations and
    Smooth Masks", ICCV 2019. TorchRay is the authors' code.

    Differences from the released code:
        - The grid of parameters is centered in the image and repeated beyond it. TorchRay's grid is
          aligned with the top left corner, and zeros lie beyond it, so that its masks fade at the
          border. See `GeometryOptions`.
        - Pixels of equal value share the gradient of the penalty. TorchRay sorts them, which favors
          some of them arbitrarily, and at the start all pixels are equal.
        - Areas are fractions of the image. TorchRay also counts a border of `smoothness` pixels.
        - The result is the mask after the last update, not the mask before it: 800 steps of
          TorchRay are 799 of these.
        - Areas, `reward` and `jitter` have other defaults, see there.
    The grid "torchray" removes the first three. Rounding still decides how TorchRay sorts the equal
    pixels of the first step, and for some areas the masks then differ in shape.

    Cost for each pair of an image and a class, with A areas: `steps` A forward and `steps` A
    backward passes. `choose="smallest"` adds A + 1 forward passes and "insertion_deletion" adds
    20 A, unless there is a single area, which leaves nothing to choose.

    Args:
        explanandum: The classifier to explain.
        areas: Area of the mask as a fraction of the image, or a sequence of areas, which give one
            mask each. None stands for 0.05, 0.1, 0.2, 0.4, 0.6 and 0.8.
        choose: Rule that makes one map of the masks. "sum": the sum of all masks, from 0 to A,
            which ranks the pixels. "smallest": the mask of the smallest area whose masked image
            reaches the logit of the whole image (the rule of NN-Explainer), or, if none does, the
            mask with the highest logit (NN-Explainer: the mask of the largest area).
            "insertion_deletion": the mask with the highest insertion minus deletion score (the rule
            of SLOC, see `KeepBest`). It selects by what SLOCCurves measures, so any table of
            results should say so.
        reward: Score of the masked image that is maximized. "simple": the logit of the class.
            "contrastive": the logit of the class minus the highest other logit. None selects the
            score that the probability depends on: "contrastive" for a softmax, "simple" for
            sigmoids. The default of TorchRay is "simple"; SLOC and NN-Explainer used "contrastive".
        steps: Number of steps of SGD with momentum 0.9 and dampening 0.9.
        lr: Learning rate of SGD.
        fill: Content that replaces the masked pixels. "pyramid": eight versions of the image, from
            a blur of width `sigma` at mask value 0 to the image itself at 1; values between two
            versions blend them. Any other name: the image of `fills.fill` at mask value 0, except
            "images", which is not allowed.
        sigma: Width in pixels of the strongest blur of the pyramid, or of the fill "blur".
        smoothness: Width of the mask's kernel, in pixels of an image whose shorter side is 224
            pixels. It is scaled to the shorter side of the given images. The parameters lie a third
            of the width apart.
        geometry: Options of the masks' geometry, see `GeometryOptions`.
        area_weight: Weight of the area penalty in the first step.
        area_growth: Factor by which that weight grows from one step to the next. If `lr` times the
            weight exceeds about 1000, SGD becomes unstable and rounding errors decide the details
            of the masks. With the defaults the product ends at 49.
        jitter: Whether to mirror the image in every other step, starting with the first, as
            TorchRay does. Only suitable for classifiers that treat mirrored images alike.
        pairs: Number of image-class pairs that are optimized side by side, with A masks each. It
            changes only speed and memory.
        seed: Seed of the fill "noise".

    Raises:
        ValueError: If an argument is out of range.
    """

    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"areas": [0.25], "steps": 30}

    def __init__(
        self,
        explanandum: Explanandum,
        areas: float | Sequence[float] | None = None,
        choose: Literal["sum", "smallest", "insertion_deletion"] = "sum",
        reward: Literal["simple", "contrastive"] | None = None,
        steps: int = 800,
        lr: float = 0.01,
        fill: FillChoice | Literal["pyramid"] = "pyramid",
        sigma: float = 20.0,
        smoothness: float = 21.0,
        geometry: GeometryOptions | None = None,
        area_weight: float = 300.0,
        area_growth: float = 1.0035,
        jitter: bool = False,
        pairs: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        self.geometry = self.complete("geometry", GEOMETRY)
        if self.geometry["blur"] < 0:
            raise ValueError(f"blur must not be negative, got {self.geometry['blur']}")
        areas = AREAS if areas is None else areas
        given = list(areas) if isinstance(areas, Sequence) else [areas]
        if not given or not all(isinstance(area, float | int) and 0 < area < 1 for area in given):
            raise ValueError(f"areas must be fractions in (0, 1), at least one, got {areas!r}")
        self.areas = sorted(given)
        numbers = [steps, lr, sigma, smoothness, area_weight, area_growth, pairs]
        if min(numbers) <= 0:
            names = "steps, lr, sigma, smoothness, area_weight, area_growth and pairs"
            raise ValueError(f"{names} must be positive, got {numbers}")
        self.choose = choose
        self.reward = reward or ("simple" if explanandum.multi_label else "contrastive")
        self.steps, self.lr, self.fill, self.sigma, self.pairs = steps, lr, fill, sigma, pairs
        self.smoothness, self.jitter = smoothness, jitter
        self.area_weight, self.area_growth = area_weight, area_growth
        self.is_mask = choose != "sum" or len(self.areas) == 1

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0: masks in [0, 1], or only a ranking if `is_mask` is False."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, `classes` (B, k) int64."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "EP")

    def masks(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, k, A, H, W) in [0, 1], with the areas in ascending order."""
        return solve_pairs(self._optimise, images, classes, self.steps, self.pairs, "EP")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        masks = self._optimise(images, classes, tick)
        with torch.no_grad():
            return self._chosen(images, classes, masks)

    def _optimise(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        """Masks (n, A, H, W) for images (n, 3, H, W) and classes (n,)."""
        size = (images.shape[-2], images.shape[-1])
        sigma = self.smoothness * min(size) / 224
        spacing = max(1, round(sigma / 3))
        levels = self._levels(images)

        def generate(parameters: Tensor) -> tuple[Tensor, Tensor]:
            if self.geometry["grid"] == "centered":
                masks = smooth_masks(parameters, size, spacing, sigma)
                return masks, area_gap(masks, self.areas)
            whole, first = torchray_masks(parameters, spacing, sigma), round(sigma)
            masks = whole[..., first : first + size[0], first : first + size[1]]
            return masks, area_gap(whole, self.areas, "sorted")

        def objective(parameters: Tensor, step: int) -> Tensor:
            masks, gap = generate(parameters)
            shown = show_masked(images, levels, masks).flatten(0, 1)
            mirrored = self.jitter and step % 2 == 0
            logits = self.explanandum(shown.flip(-1) if mirrored else shown)
            kept = self._rewards(logits.view(*masks.shape[:2], -1), classes)
            weight = self.area_weight * self.area_growth**step
            return (weight * gap - kept).sum(dim=1)

        grid = (math.ceil(extent / spacing) for extent in size)
        start = images.new_ones(len(images), len(self.areas), *grid)
        found = minimize(objective, start, self.steps, self._optimizer, tick, limits=(0.0, 1.0))
        masks, _ = generate(found)
        if width := self.geometry["blur"] * min(size):
            masks = blur(masks, 2 * math.ceil(4 * width) + 1, width, masks.new_zeros(()))
        return masks.clamp(max=1)  # rounding can exceed 1

    def _optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9, dampening=0.9)

    def _levels(self, images: Tensor) -> Content:
        """Images shown at L evenly spaced mask values from 0 to 1, (n, L, 3, H, W).

        For an inpainter, which completes what each mask keeps, it is the inpainter.
        """
        if self.fill != "pyramid":
            fill = self.explanandum.fill(self.fill, self.generator(), self.sigma)
            if isinstance(fill, Inpainted):
                return fill
            return torch.stack([fill(images).expand_as(images), images], dim=1)
        widths = [self.sigma * (1 - level / 7) for level in range(7)]
        blurred = [self.explanandum.fill("blur", sigma=width)(images) for width in widths]
        return torch.stack([*blurred, images], dim=1)

    def _rewards(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Rewards (n, A) of the masked images with logits (n, A, K)."""
        own = logits[torch.arange(len(logits)), :, classes]
        if self.reward == "simple":
            return own
        chosen = F.one_hot(classes, logits.shape[-1]).bool()[:, None]
        return own - logits.masked_fill(chosen, -torch.inf).amax(dim=-1)

    def _chosen(self, images: Tensor, classes: Tensor, masks: Tensor) -> Tensor:
        """Maps (n, H, W) made from masks (n, A, H, W) by the rule `choose`."""
        if self.choose == "sum" or masks.shape[1] == 1:
            return masks.sum(dim=1)
        if self.choose == "smallest":
            masked = show_masked(images, self._levels(images), masks)
            shown = torch.cat([images[:, None], masked], dim=1)
            logits = self.explanandum(shown.flatten(0, 1)).view(*shown.shape[:2], -1)
            own = logits[torch.arange(len(masks)), :, classes]
            return masks[torch.arange(len(masks)), smallest(own[:, 1:], own[:, 0])]
        model, batch = self.explanandum, self.pairs * len(self.areas)
        best = KeepBest(model, images, model.mean, classes[:, None], 0, batch)
        for area in range(masks.shape[1]):
            best(torch.arange(len(images)), 0, masks[:, area, None])
        return best.maps[:, 0]


def smallest(logits: Tensor, wanted: Tensor) -> Tensor:
    """Index (n,) of the first of the logits (n, A) that is at least `wanted` (n,).

    Rows in which no logit is large enough give the index of their highest logit.

    Example:
        >>> smallest(torch.tensor([[1.0, 4.0, 5.0], [1.0, 2.0, 0.0]]), torch.tensor([3.0, 3.0]))
        tensor([1, 1])
    """
    enough = logits >= wanted[:, None]
    return torch.where(enough.any(dim=1), enough.int().argmax(dim=1), logits.argmax(dim=1))


def show_masked(images: Tensor, levels: Content, masks: Tensor) -> Tensor:
    """Masked images (n, A, 3, H, W) of masks (n, A, H, W): by `show`, or filled by an inpainter."""
    if isinstance(levels, Tensor):
        return show(levels, masks)
    several = images.repeat_interleave(masks.shape[1], dim=0)
    shown = masking.blend(several, masks.flatten(0, 1), levels)
    return shown.view(*masks.shape[:2], *images.shape[1:])


def show(levels: Tensor, masks: Tensor) -> Tensor:
    """Masked images (n, A, 3, H, W), interpolated linearly between levels by the mask values.

    Args:
        levels: Images (n, L, 3, H, W) for L evenly spaced mask values: the first level is shown
            where the mask is 0, the last level where it is 1.
        masks: Masks (n, A, H, W) in [0, 1].
    """
    places = masks * (levels.shape[1] - 1)
    below = places.detach().long().clamp(max=levels.shape[1] - 2)
    index = below[:, :, None].expand(-1, -1, 3, -1, -1)
    lower, upper = levels.gather(1, index), levels.gather(1, index + 1)
    return torch.lerp(lower, upper, (places - below)[:, :, None])
