"""Extremal perturbations: the smooth mask of a given area that the classifier likes best."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.explanandum.frozen import Explanandum
from explainers.functional import fills
from explainers.optimization.pairs import Tick, minimize, solve_pairs
from explainers.optimization.snapshots import KeepBest

AREAS = [0.05, 0.1, 0.2, 0.4, 0.6, 0.8]
COLDNESS = 20.0  # of the smooth maximum: 1 / T, with the paper's T of 1/20
FILLS = ["pyramid", *(name for name in fills.FILLS if name != "images")]


class ExtremalPerturbation(Explainer):
    """Masks of fixed areas that keep the class best, each as smooth as its kernel.

    Source: Fong, Patrick and Vedaldi, "Understanding Deep Networks via Extremal Perturbations and
    Smooth Masks", ICCV 2019; settings of TorchRay. A mask is the smooth maximum of a coarse grid of
    parameters (`smooth_masks`), begun with 1; its area is held by a penalty that grows with the
    steps (`area_gap`); the image is blurred the more the smaller the mask.

    Passes a pair (image and class), with A areas: forward `steps` A images, and A + 1 more for
    choose "smallest", 20 A more for "insertion_deletion"; backward `steps` A. A single area leaves
    nothing to choose: `steps` forward and `steps` backward.

    We differ from TorchRay: pixels of equal value share the penalty's gradient, where sorting
    favours some, and at first all are equal; areas are fractions of the image, without the border
    of `smoothness` pixels it counts; the mask after the last update results, not before it.

    Args:
        explanandum: The classifier to explain.
        areas: Fraction of the image, or several, a mask each; None: 0.05, 0.1, 0.2, 0.4, 0.6, 0.8.
        choose: Which map results. "sum": of all masks, 0 to A, a ranking. "smallest": the mask of
            the smallest area that gives the class at least its logit on the whole image, else of
            the area with the highest logit (NN-Explainer's rule, which names no else).
            "insertion_deletion": the mask with the best insertion minus deletion (SLOC's rule,
            `KeepBest`). That selects by what SLOCCurves measures: say so in any table.
        reward: "simple": the logit of the class; "contrastive": minus the highest other one. None
            takes what the probability depends on: "contrastive" for a softmax, "simple" for
            sigmoids. TorchRay's default is "simple"; SLOC and NN-Explainer ran "contrastive".
        steps: Of SGD with momentum and dampening 0.9.
        lr: Of SGD.
        fill: "pyramid": mask values 0 to 1 show 8 blurs of widths `sigma` to 0, the nearest two
            blended; or what 0 shows, as in `fills.fill`, but "images".
        sigma: Width of the strongest blur, or of the fill "blur", in pixels.
        smoothness: Width of the mask's kernel in pixels of an image whose shorter side is 224,
            scaled with that side; parameters lie a third of it apart. NN-Explainer's 0.09 is 20.
        area_weight: Of the penalty at step 0.
        area_growth: Factor of that weight from step to step.
        jitter: Mirror the image at every other step, from the first, as TorchRay does: only for
            classifiers to which mirrored images are the same.
        pairs: Image-class pairs, of A masks each, side by side; changes only speed and memory.
        seed: Of the fill "noise".

    Raises:
        ValueError: If an argument is out of range.
    """

    needs = ("gradients",)

    def __init__(
        self,
        explanandum: Explanandum,
        areas: float | Sequence[float] | None = None,
        choose: Literal["sum", "smallest", "insertion_deletion"] = "sum",
        reward: Literal["simple", "contrastive"] | None = None,
        steps: int = 800,
        lr: float = 0.01,
        fill: str = "pyramid",
        sigma: float = 20.0,
        smoothness: float = 21.0,
        area_weight: float = 300.0,
        area_growth: float = 1.0035,
        jitter: bool = False,
        pairs: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        areas = AREAS if areas is None else areas
        given = list(areas) if isinstance(areas, Sequence) else [areas]
        if not given or not all(isinstance(area, float | int) and 0 < area < 1 for area in given):
            raise ValueError(f"areas must be fractions in (0, 1), at least one, got {areas!r}")
        self.areas = sorted(given)
        choices: dict[str, tuple[Any, list[Any]]] = {
            "choose": (choose, ["sum", "smallest", "insertion_deletion"]),
            "reward": (reward, ["simple", "contrastive", None]),
            "fill": (fill, FILLS),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
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
        """Maps (B, H, W) >= 0: a mask in [0, 1], or the sum of several."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "EP")

    def masks(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks of the areas in rising order, (B, k, A, H, W) in [0, 1]."""
        return solve_pairs(self._optimise, images, classes, self.steps, self.pairs, "EP")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        masks = self._optimise(images, classes, tick)
        with torch.no_grad():
            return self._chosen(images, classes, masks)

    def _optimise(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        """Masks (n, A, H, W) of images (n, 3, H, W)."""
        size = (images.shape[-2], images.shape[-1])
        sigma = self.smoothness * min(size) / 224
        spacing = max(1, round(sigma / 3))
        levels = self._levels(images)

        def objective(parameters: Tensor, step: int) -> Tensor:
            masks = smooth_masks(parameters, size, spacing, sigma)
            shown = show(levels, masks).flatten(0, 1)
            mirrored = self.jitter and step % 2 == 0
            logits = self.explanandum(shown.flip(-1) if mirrored else shown)
            kept = self._rewards(logits.view(*masks.shape[:2], -1), classes)
            weight = self.area_weight * self.area_growth**step
            return (weight * area_gap(masks, self.areas) - kept).sum(dim=1)

        grid = (math.ceil(extent / spacing) for extent in size)
        start = images.new_ones(len(images), len(self.areas), *grid)
        found = minimize(objective, start, self.steps, self._optimizer, tick, limits=(0.0, 1.0))
        return smooth_masks(found, size, spacing, sigma).clamp(max=1)  # rounding

    def _optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9, dampening=0.9)

    def _levels(self, images: Tensor) -> Tensor:
        """What mask values 0 to 1 show, in equal steps: (n, L, 3, H, W)."""
        mean, std = self.explanandum.mean.to(images), self.explanandum.std.to(images)
        if self.fill != "pyramid":
            hidden = fills.fill(self.fill, images, mean, std, self.generator(), self.sigma)
            return torch.stack([hidden.expand_as(images), images], dim=1)
        widths = [self.sigma * (1 - level / 7) for level in range(7)]
        blurred = [fills.fill("blur", images, mean, sigma=width) for width in widths]
        return torch.stack([*blurred, images], dim=1)

    def _rewards(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Rewards (n, A) of logits (n, A, K)."""
        own = logits[torch.arange(len(logits)), :, classes]
        if self.reward == "simple":
            return own
        chosen = F.one_hot(classes, logits.shape[-1]).bool()[:, None]
        return own - logits.masked_fill(chosen, -torch.inf).amax(dim=-1)

    def _chosen(self, images: Tensor, classes: Tensor, masks: Tensor) -> Tensor:
        """One map (n, H, W) of the masks (n, A, H, W)."""
        if self.choose == "sum" or masks.shape[1] == 1:
            return masks.sum(dim=1)
        if self.choose == "smallest":
            shown = torch.cat([images[:, None], show(self._levels(images), masks)], dim=1)
            logits = self.explanandum(shown.flatten(0, 1)).view(*shown.shape[:2], -1)
            own = logits[torch.arange(len(masks)), :, classes]
            return masks[torch.arange(len(masks)), smallest(own[:, 1:], own[:, 0])]
        model, batch = self.explanandum, self.pairs * len(self.areas)
        best = KeepBest(model, images, model.mean, classes[:, None], 0, batch, True)
        for area in range(masks.shape[1]):
            best(torch.arange(len(images)), 0, masks[:, area, None])
        return best.maps[:, 0]


def smallest(logits: Tensor, wanted: Tensor) -> Tensor:
    """First of logits (n, A) that reaches `wanted` (n,), else the highest: (n,) int64.

    Example:
        >>> smallest(torch.tensor([[1.0, 4.0, 5.0], [1.0, 2.0, 0.0]]), torch.tensor([3.0, 3.0]))
        tensor([1, 1])
    """
    enough = logits >= wanted[:, None]
    return torch.where(enough.any(dim=1), enough.int().argmax(dim=1), logits.argmax(dim=1))


def area_gap(masks: Tensor, areas: list[float]) -> Tensor:
    """Mean squared difference between the sorted pixels of masks (n, A, H, W) and a step, (n, A).

    Source: Fong et al. 2019, divided by the number of pixels as in TorchRay. The step is 1 for the
    K largest, the mask's area, rounded and at least one, and 0 for the rest. Nothing need be
    sorted: the K largest m count (1 - m)^2, the rest m^2. Of pixels that are equal at the edge, but
    for rounding, each counts as the same part of a largest one.

    Example:
        >>> area_gap(torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]]), [0.25])
        tensor([[0.1250]])
    """
    pixels = masks.flatten(2)
    total = pixels.shape[2]
    counts = [max(1, round(area * total)) for area in areas]
    largest = torch.tensor(counts, device=masks.device, dtype=masks.dtype)[:, None]
    with torch.no_grad():
        ranked = zip(pixels.unbind(1), counts, strict=True)
        edges = [row.kthvalue(total - count + 1, dim=1).values for row, count in ranked]
        edge = torch.stack(edges, dim=1)[:, :, None]
        above, tied = pixels > edge + 1e-5, (pixels - edge).abs() <= 1e-5
        left = largest - above.sum(dim=2, keepdim=True)
        among = above + tied * (left / tied.sum(dim=2, keepdim=True))
    return (pixels * (pixels - 2 * among)).sum(dim=2).add(largest[:, 0]) / total


def show(levels: Tensor, masks: Tensor) -> Tensor:
    """Images between levels (n, L, 3, H, W) at the places masks (n, A, H, W) say: (n, A, 3, H, W).

    A mask of 0 shows the first level, 1 the last, and between them the two nearest are blended.
    """
    places = masks * (levels.shape[1] - 1)
    below = places.detach().long().clamp(max=levels.shape[1] - 2)
    index = below[:, :, None].expand(-1, -1, 3, -1, -1)
    lower, upper = levels.gather(1, index), levels.gather(1, index + 1)
    return torch.lerp(lower, upper, (places - below)[:, :, None])


def smooth_masks(parameters: Tensor, size: tuple[int, int], spacing: int, sigma: float) -> Tensor:
    """Masks (n, A, H, W) as smooth maxima of grids: no detail is smaller than the kernel.

    Source: Fong et al. 2019. A pixel is sum f exp(20 f) / sum exp(20 f) over the parameters v
    around it, f = k(d) v, with k(d) = exp(-2 max(d / sigma - 1/2, 0)^2) at the distance d in
    pixels. Parameters (n, A, h, w) in [0, 1] lie in the middle of cells of `spacing` pixels a side;
    those up to 1 + ceil(sigma / spacing) cells away count. Beyond the image the outermost go on:
    with zeros there, a mask that begins with 1 everywhere is largest at the border and stays there.
    """
    n, areas, rows, columns = parameters.shape
    radius = 1 + math.ceil(sigma / spacing)
    kernel = _kernel(spacing, sigma, radius).to(parameters)
    grids = parameters.reshape(n * areas, 1, rows, columns)
    around = F.unfold(F.pad(grids, [radius] * 4, mode="replicate"), 2 * radius + 1)
    pooled: Tensor = _SmoothMaximum.apply(around.mT.flatten(0, 1), kernel)
    cells = pooled.view(n * areas, rows, columns, spacing**2).permute(0, 3, 1, 2)
    masks = F.pixel_shuffle(cells, spacing)[:, 0, : size[0], : size[1]]
    return masks.reshape(n, areas, *size)


def _kernel(spacing: int, sigma: float, radius: int) -> Tensor:
    """Kernel from the pixels of a cell to the cells around it, (spacing^2, (2 radius + 1)^2)."""
    pixels = torch.arange(spacing) - (spacing - 1) / 2
    line = (pixels[:, None] - spacing * torch.arange(-radius, radius + 1)).square()
    distance = (line[:, None, :, None] + line[None, :, None, :]).sqrt()
    kernel = (-2 * (distance / sigma - 0.5).clamp(min=0).square()).exp()
    return kernel.flatten(2).flatten(0, 1)


class _SmoothMaximum(torch.autograd.Function):
    """Smooth maxima (R, P) of rows of values (R, J) under P kernels (P, J), part by part.

    All products at once would be a hundred times the masks; they are made twice instead of kept.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, kernel: Tensor) -> Tensor:
        maxima, totals = values.new_empty(2, len(values), len(kernel)).unbind(0)
        for part in _parts(values, kernel):
            scaled = COLDNESS * kernel * values[part, None]
            powers = scaled.exp()
            torch.sum(powers, dim=2, out=totals[part])
            maxima[part] = powers.mul_(scaled).sum(dim=2) / (COLDNESS * totals[part])
        ctx.save_for_backward(values, kernel, maxima, totals)
        return maxima

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        values, kernel, maxima, totals = ctx.saved_tensors
        result = torch.empty_like(values)
        # d maximum / d f = exp(20 f) / total * (1 + 20 (f - maximum)), with f = kernel * value
        for part in _parts(values, kernel):
            scaled = COLDNESS * kernel * values[part, None]
            slopes = scaled.exp().mul_(scaled.add_((1 - COLDNESS * maxima[part])[:, :, None]))
            share = gradients[0][part] / totals[part]
            torch.sum(slopes.mul_(kernel).mul_(share[:, :, None]), dim=1, out=result[part])
        return result, None


def _parts(values: Tensor, kernel: Tensor) -> list[slice]:
    room = 2**17 if values.device.type == "cpu" else 2**26  # of a processor's cache, or of memory
    rows = max(1, room // kernel.numel())
    return [slice(start, start + rows) for start in range(0, len(values), rows)]
