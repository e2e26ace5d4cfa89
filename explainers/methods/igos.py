"""iGOS++: two masks by integrated gradients, one that deletes a class and one that inserts it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content, masking
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice
from explainers.functional.planes import resize
from explainers.optimization.pairs import Tick, solve_pairs, until_done

# Fraction of the decrease predicted by the gradient that a step must achieve to be accepted.
DECREASE = 1e-4


class IGOSPlusPlus(Explainer):
    """Optimizes a mask M_x that deletes the class and a mask M_y that inserts it.

    The map is 1 - M_x M_y, what either mask removes. Let p(M) be the probability of the class for a
    blend of the image, where M is 1, and the fill, where M is 0, plus noise. The masks minimize

        (p(M_x) - p(1 - M_y) + p(M_x M_y) - p(1 - M_x M_y)) / 2
        + area mean(1 - M_x M_y) + variation bilateral_variation(M_x M_y)

    where in each p the mask (M_x, M_y or M_x M_y) is multiplied by s = 1/n, 2/n, ..., 1, and the
    results are averaged. The gradient of p is therefore the integrated gradient of I-GOS. Each step
    follows the negative gradient, is clamped to [0, 1], and is shortened until the objective
    decreases enough (Armijo line search).

    Source: Khorram, Lawson and Fuxin, "iGOS++: Integrated Gradient Optimized Saliency by Bilateral
    Perturbations", CHIL 2021. The settings are those of the released code.

    Differences from the released code:
        - The line search evaluates the objective above with the noise of the step, predicts the
          decrease of the clamped step, and leaves the masks unchanged if no length is accepted. The
          released one doubles the weight of the scores, draws new noise, predicts the decrease of
          the step before clamping, and takes the last length even if it does not help.
        - The color difference at an edge is the root mean square over the channels. The released
          code squares the mean of the channels for vertical neighbors, and averages the weights of
          the channels for horizontal ones.
        - Masks are resized with aligned pixel centers.
        - The blur is Gaussian. The released one is 51 pixels wide and nearly a box.
        - The main script of the released code swaps two arguments, and so takes 20 `steps` with
          15 `ig_steps`.

    Cost for each pair of an image and a class: 4 `steps` `ig_steps` (1 + t) forward passes, where t
    is the mean number of step lengths tried, from 1 to 1 + `backtracks`, and 4 `steps` `ig_steps`
    backward passes.

    Args:
        explanandum: The classifier to explain; only its probabilities are used.
        size: Number of parameters along each side of a mask. They start at 1 and are upsampled
            bilinearly.
        steps: Number of steps, each of both masks.
        ig_steps: Number n of points on the path to the mask. The path starts at s = 0, which is
            not evaluated.
        lr: Initial length of each step.
        decay: Factor by which the length shrinks until the objective decreases enough.
        backtracks: Maximum number of times that a step is shortened. If it is still not accepted,
            the masks remain unchanged.
        area: Weight of the mean of 1 - M_x M_y.
        variation: Weight of `bilateral_variation`.
        edge: Squared color difference, in units of `std`, at which the weight of the smoothness
            drops to 1 / e.
        noise: Standard deviation of the noise, in units of the classifier's `std`.
        fill: Content that replaces pixels, see `fills.fill`. "images" is not allowed. An inpainter
            completes the pixels whose scaled mask is at least 0.5, so nothing for s below 0.5.
        sigma: Width in pixels of the fill "blur". 15 is about as wide as the released code's: a
            box of 51 pixels has a standard deviation of 14.7.
        pairs: Number of image-class pairs that are optimized side by side. It changes only speed
            and memory.
        batch_size: Number of blended images in a pass, at least 4 for each pair. It changes only
            speed and memory.
        seed: Seed of the noise, which is the same for every pair.

    Raises:
        ValueError: If an argument is out of range.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs", "batch_size")
    quick: ClassVar = {"size": 7, "steps": 5, "ig_steps": 5}

    def __init__(
        self,
        explanandum: Explanandum,
        size: int = 28,
        steps: int = 15,
        ig_steps: int = 20,
        lr: float = 1000.0,
        decay: float = 0.2,
        backtracks: int = 12,
        area: float = 1.0,
        variation: float = 20.0,
        edge: float = 0.01,
        noise: float = 0.2,
        fill: FillChoice = "blur",
        sigma: float = 15.0,
        pairs: int = 16,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        positive = [size, steps, ig_steps, lr, edge, sigma, pairs, batch_size]
        if min(positive) <= 0:
            names = "size, steps, ig_steps, lr, edge, sigma, pairs and batch_size"
            raise ValueError(f"{names} must be positive, got {positive}")
        if min(backtracks, area, variation, noise) < 0 or not 0 < decay < 1:
            raise ValueError(
                "backtracks, area, variation and noise must not be negative and decay in (0, 1), "
                f"got {backtracks}, {area}, {variation}, {noise} and {decay}"
            )
        self.size, self.steps, self.ig_steps = size, steps, ig_steps
        self.lr, self.decay, self.backtracks = lr, decay, backtracks
        self.area, self.variation, self.edge, self.noise = area, variation, edge, noise
        self.fill, self.sigma, self.pairs, self.batch_size = fill, sigma, pairs, batch_size

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1], which are 1 where either mask removes a pixel."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, `classes` (B, k) int64."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "iGOS++")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        std, generator = self.explanandum.std, self.generator()
        fills = content.behind(self.explanandum.fill(self.fill, generator, self.sigma), images)
        draws = (self.ig_steps, *images.shape[1:])
        masks = images.new_ones(len(images), 2, self.size, self.size)
        for _ in range(self.steps):
            noise = self.noise * torch.randn(draws, generator=generator).to(images) * std.to(images)
            masks = self._step(Task(images, fills, classes, noise), masks)
            tick()
        return 1 - resize(masks, (images.shape[-2], images.shape[-1])).prod(dim=1).clamp(max=1)

    def _step(self, task: "Task", masks: Tensor) -> Tensor:
        """Masks (n, 2, h, w) after one step."""
        values, slopes = self.objective(task, masks)

        def shorten(current: Tensor, rows: Tensor, tried: int) -> tuple[Tensor, Tensor]:
            before, slope = masks[rows], slopes[rows]
            after = (before - self.lr * self.decay**tried * slope).clamp(0, 1)
            promise = (slope * (before - after)).flatten(1).sum(dim=1)
            found, _ = self.objective(task.only(rows), after, with_slopes=False)
            good = found <= values[rows] - DECREASE * promise
            return torch.where(good[:, None, None, None], after, current), good

        return until_done(shorten, masks, 1 + self.backtracks, lambda: None)

    def objective(
        self, task: "Task", masks: Tensor, with_slopes: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Objective (n,) of masks (n, 2, h, w) and its gradient, or zeros unless `with_slopes`."""
        masks = masks.detach().requires_grad_(with_slopes)
        with torch.set_grad_enabled(with_slopes):
            removing, inserting = resize(masks, task.size).unbind(1)
            both = removing * inserting
            kept = torch.stack([removing, both, inserting, both], dim=1)
            scores, pulls = self._scores(task, kept.detach(), with_slopes)
            product = masks.prod(dim=1)
            images = self.explanandum.normalize(task.images)
            prior = self.area * (1 - product).mean(dim=(1, 2))
            prior = prior + self.variation * bilateral_variation(product, images, self.edge)
            if not with_slopes:
                return scores + prior, torch.zeros_like(masks)
            whole = prior.sum() + (kept * pulls).sum()  # has the gradient of scores + prior
        return (scores + prior).detach(), torch.autograd.grad(whole, masks)[0]

    def _scores(self, task: "Task", kept: Tensor, with_slopes: bool) -> tuple[Tensor, Tensor]:
        """Half the sum (n,) of the four signed probabilities, and its gradient (n, 4, H, W).

        At most `batch_size` blended images are in memory, but at least four for each pair.

        Args:
            task: Images, fills, classes and noise.
            kept: Masks (n, 4, H, W). The first two show what they keep, and their probabilities
                are added. The other two show what they do not keep, and theirs are subtracted.
            with_slopes: Whether to compute the gradient. Otherwise it is zero.
        """
        signs = kept.new_tensor([1.0, 1.0, -1.0, -1.0])[:, None]
        flip = (signs < 0)[:, :, None, None]
        scores, pulls = kept.new_zeros(len(kept)), torch.zeros_like(kept)
        fractions = torch.arange(1, self.ig_steps + 1, device=kept.device) / self.ig_steps
        some = max(1, self.batch_size // (4 * len(kept)))
        parts = zip(torch.split(fractions, some), torch.split(task.noise, some), strict=True)
        for part, noise in parts:
            kept = kept.requires_grad_(with_slopes)
            path = kept[:, :, None] * part[:, None, None]  # (n, 4, s, H, W)
            path = torch.where(flip, 1 - path, path)
            shown = self._shown(task, path) + noise
            chances = self.explanandum.probabilities(shown.flatten(0, 2))
            wanted = task.classes.repeat_interleave(4 * len(part))[:, None]
            own = chances.gather(1, wanted).view(path.shape[:3])
            found = (own * signs).sum(dim=(1, 2)) / (2 * self.ig_steps)
            if with_slopes:
                pulls += torch.autograd.grad(found.sum(), kept)[0]
            scores += found.detach()
        return scores, pulls

    def _shown(self, task: "Task", path: Tensor) -> Tensor:
        """Blended images (n, 4, s, 3, H, W) under masks (n, 4, s, H, W)."""
        if isinstance(task.fills, Tensor):
            images, fills = task.images[:, None, None], task.fills[:, None, None]
            return fills + (images - fills) * path[:, :, :, None]
        images = task.images.repeat_interleave(path[0, :, :, 0, 0].numel(), dim=0)
        shown = masking.blend(images, path.flatten(0, 2), task.fills)
        return shown.view(*path.shape[:3], *images.shape[1:])


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs of a step: images and fills (n, 3, H, W), classes (n,) and noise (s, 3, H, W)."""

    images: Tensor
    fills: Content
    classes: Tensor
    noise: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.images.shape[-2], self.images.shape[-1]

    def only(self, rows: Tensor) -> "Task":
        """The inputs of the images with the given row indices."""
        return Task(
            self.images[rows], content.rows(self.fills, rows), self.classes[rows], self.noise
        )


def bilateral_variation(masks: Tensor, images: Tensor, edge: float) -> Tensor:
    """Smoothness penalties (n,) of masks, which are smaller at the edges of the images.

    The penalty is the mean of two terms. The first is the mean squared difference of vertical
    neighbors in the mask plus that of horizontal neighbors. The second is the same for the mask
    upsampled to the image, where each squared difference is weighted by exp(-d^2 / edge). d^2 is
    the squared color difference of the two pixels, averaged over the channels.

    Source: Khorram et al. 2021, with power 2. The weights and the mean of both terms follow the
    released code; for the color difference see `IGOSPlusPlus`.

    Args:
        masks: Masks (n, h, w).
        images: Normalized images (n, 3, H, W).
        edge: Squared color difference at which the weight is 1 / e.
    """
    size = (images.shape[-2], images.shape[-1])
    fine, total = resize(masks, size), masks.new_zeros(len(masks))
    for axis in (-2, -1):
        weights = (-images.diff(dim=axis).square().mean(dim=1) / edge).exp()
        total = total + masks.diff(dim=axis).square().mean(dim=(1, 2))
        total = total + (weights * fine.diff(dim=axis).square()).mean(dim=(1, 2))
    return total / 2
