"""iGOS++: two masks by integrated gradients, one that deletes a class and one that inserts it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional.fills import OwnFill
from explainers.functional.planes import resize
from explainers.optimization.pairs import Tick, solve_pairs, until_done

DECREASE = 1e-4  # of the objective, for a step to be accepted: this part of what its slope promises


class IGOSPlusPlus(Explainer):
    """What either of two masks removes: 1 - M_x M_y.

    Source: Khorram, Lawson and Fuxin, "iGOS++: Integrated Gradient Optimized Saliency by Bilateral
    Perturbations", CHIL 2021; settings of its released code. With image and fill blended where a
    mask is between 1 and 0, and p the probability of the class, the masks minimise

        (p(M_x) - p(1 - M_y) + p(M_x M_y) - p(1 - M_x M_y)) / 2 + area mean(1 - M_x M_y) + variation

    where each p is the mean over s M in place of M, s = 1/n, 2/n ... 1: its gradient is the
    integrated gradient of I-GOS. A step goes down that gradient, clamped to [0, 1], and is
    shortened until the objective falls enough (Armijo). All blended images are noisy.

    Passes a pair (image and class): forward 4 `steps` `ig_steps` (1 + t), where t from 1 to
    1 + `backtracks` is the mean number of steps tried; backward 4 `steps` `ig_steps`.

    We differ from the released code: its line search doubles the weight of the scores, draws new
    noise, expects the decrease of a step that is not clamped, and takes the last step even if that
    does not help; ours measures the objective above under the same noise, and then stays. A colour
    edge is the root mean square over channels, where it squares the mean down and averages weights
    across; masks are resized with pixel centres aligned. Its blur is 51 pixels wide, nearly a box.
    Its main script swaps two arguments and so takes 20 `steps` of 15 `ig_steps`.

    Args:
        explanandum: The classifier to explain; only its probabilities are used.
        size: Side of the masks' parameters, which begin with 1 and are upsampled bilinearly.
        steps: Steps of both masks.
        ig_steps: n, blends on the path from s = 0, which is left out, to the mask.
        lr: First length of a step.
        decay: Factor of that length until the objective falls enough.
        backtracks: How often it is tried at most; then the masks stay.
        area: Weight of the mean of 1 - M_x M_y.
        variation: Weight of `bilateral_variation`.
        edge: Squared colour difference, in units of `std`, at which smoothness counts 1 / e.
        noise: Standard deviation of the noise, in units of the classifier's `std`.
        fill: What replaces a pixel, as in `fills.fill`, but "images".
        sigma: Width of the fill "blur" in pixels; 15 is about as wide as the released code's.
        pairs: Image-class pairs optimised side by side; it changes only speed and memory.
        batch_size: Blended images in a pass, at least 4 a pair; only speed and memory.
        seed: Of the noise, the same for every pair.

    Raises:
        ValueError: If an argument is out of range.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs", "batch_size")
    quick: ClassVar = {"size": 14, "steps": 6, "ig_steps": 6}

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
        fill: OwnFill = "blur",
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
        """Maps (B, H, W) in [0, 1]: 1 where either mask removes a pixel."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "iGOS++")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        std, generator = self.explanandum.std, self.generator()
        fills = self.explanandum.fill(self.fill, generator, self.sigma)(images)
        draws = (self.ig_steps, *images.shape[1:])
        masks = images.new_ones(len(images), 2, self.size, self.size)
        for _ in range(self.steps):
            noise = self.noise * torch.randn(draws, generator=generator).to(images) * std.to(images)
            masks = self._step(Task(images, fills.expand_as(images), classes, noise), masks)
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
        """What masks (n, 2, h, w) minimise (n,), and its gradient, or zeros if not wanted."""
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
        """Half the signed probabilities (n,) under masks (n, 4, H, W), and their gradient.

        The first two delete, the other two insert what is not kept. Never more than `batch_size`
        images are held, or four a pair.
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
            images, fills = task.images[:, None, None], task.fills[:, None, None]
            shown = fills + (images - fills) * path[:, :, :, None] + noise
            chances = self.explanandum.probabilities(shown.flatten(0, 2))
            wanted = task.classes.repeat_interleave(4 * len(part))[:, None]
            own = chances.gather(1, wanted).view(path.shape[:3])
            found = (own * signs).sum(dim=(1, 2)) / (2 * self.ig_steps)
            if with_slopes:
                pulls += torch.autograd.grad(found.sum(), kept)[0]
            scores += found.detach()
        return scores, pulls


@dataclass(frozen=True, eq=False)
class Task:
    """What a step needs: images, their fills (n, 3, H, W), classes (n,), noise (s, 3, H, W)."""

    images: Tensor
    fills: Tensor
    classes: Tensor
    noise: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.images.shape[-2], self.images.shape[-1]

    def only(self, rows: Tensor) -> "Task":
        """The task of some of the images."""
        return Task(self.images[rows], self.fills[rows], self.classes[rows], self.noise)


def bilateral_variation(masks: Tensor, images: Tensor, edge: float) -> Tensor:
    """Squared differences of masks (n, h, w), as they are and less so at edges of images: (n,).

    Half the mean squared difference of neighbours in the mask, down plus across, and half that of
    the mask upsampled to the images (n, 3, H, W), where each difference counts exp(-d^2 / edge) of
    the squared colour difference d^2, mean over channels.

    Source: Khorram et al. 2021, in the released form, with power 2.
    """
    size = (images.shape[-2], images.shape[-1])
    fine, total = resize(masks, size), masks.new_zeros(len(masks))
    for axis in (-2, -1):
        weights = (-images.diff(dim=axis).square().mean(dim=1) / edge).exp()
        total = total + masks.diff(dim=axis).square().mean(dim=(1, 2))
        total = total + (weights * fine.diff(dim=axis).square()).mean(dim=(1, 2))
    return total / 2
