"""FIDO: learns for each pixel the probability that it must be kept, or removed."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content, masking
from explainers.functional.fills import FillChoice
from explainers.functional.losses import log_odds
from explainers.functional.planes import resize
from explainers.optimization.pairs import Tick, minimize, solve_pairs


class FIDO(Explainer):
    """Learns which pixels must be kept to preserve the class, or removed to destroy it.

    The map is the probability of each pixel to be one of them. A coarse grid holds one probability
    for each cell. The probabilities start at 1/2 and are upsampled bilinearly to the image. In each
    step masks are drawn from them: every pixel is an independent relaxed Bernoulli variable
    (`concrete`). Let p be the probability of the class for a masked image. Adam minimizes the mean
    over the masks of

        -ln(p / (1 - p)) for "preservation", where the drawn pixels are kept, or
         ln(p / (1 - p)) for "deletion", where the drawn pixels are replaced,

    plus `weight` times the sum of the probabilities over the pixels of the image.

    Source: Chang et al., "Explaining Image Classifiers by Counterfactual Generation", ICLR 2019,
    section 3, the smallest supporting region and the smallest destroying region. Relaxation,
    upsampling and regularizer are those of the released code. The paper prefers to fill with an
    inpainting network (FIDO-CA): give the path of one as the fill.

    Cost: `steps` * `samples` forward passes and as many backward passes for each image and class.

    Args:
        explanandum: The classifier to explain.
        objective: Objective of the optimization, "preservation" or "deletion".
        weight: Weight of the sum of the probabilities, in log-odds per pixel. The sum is not
            divided by the number of pixels. 1e-3 was used for images of 224 x 224 pixels.
        samples: Number of masks drawn in each step, from random numbers that all images share.
        temperature: Temperature of the relaxed Bernoulli variables. Towards 0 they become binary.
        steps: Number of steps of Adam.
        lr: Learning rate of Adam, whose parameters are the log-odds of the probabilities.
        size: Number of cells along each side of the grid.
        fill: Content that replaces pixels, see `fills.fill`. "images" is not allowed, because a
            map would then depend on the rest of its batch.
        sigma: Width in pixels of the fill "blur".
        pairs: Number of image-class pairs that are optimized side by side, with `samples` masked
            images each. It changes only speed and memory.
        seed: Seed of the masks and of the fill "noise".

    Raises:
        ValueError: If a number is out of range, or if the objective or the fill is unknown.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"steps": 30, "samples": 4, "size": 7}

    def __init__(
        self,
        explanandum: Explanandum,
        objective: Literal["preservation", "deletion"] = "preservation",
        weight: float = 1e-3,
        samples: int = 8,
        temperature: float = 0.1,
        steps: int = 300,
        lr: float = 0.05,
        size: int = 56,
        fill: FillChoice = "mean",
        sigma: float = 10.0,
        pairs: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if min(samples, steps, size, pairs) < 1 or min(temperature, lr, sigma) <= 0 or weight < 0:
            raise ValueError(
                "samples, steps, size, pairs, temperature, lr and sigma must be positive and "
                f"weight not negative, got {samples}, {steps}, {size}, {pairs}, {temperature}, "
                f"{lr}, {sigma} and {weight}"
            )
        self.keeps, self.weight, self.samples = objective == "preservation", weight, samples
        self.temperature, self.steps, self.lr, self.size = temperature, steps, lr, size
        self.fill, self.sigma, self.pairs = fill, sigma, pairs

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1], the probability that a pixel must be kept, or removed."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, optimized separately."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "FIDO")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        generator, size = self.generator(), (images.shape[-2], images.shape[-1])
        fills = content.behind(self.explanandum.fill(self.fill, generator, self.sigma), images)
        # From here on, each row is one mask.
        wanted = classes.repeat_interleave(self.samples)
        shown = images.repeat_interleave(self.samples, dim=0)
        hidden = content.repeated(fills, self.samples)

        def objective(logits: Tensor, step: int) -> Tensor:
            uniform = torch.rand(self.samples, *size, generator=generator).to(images)
            matters, rest = resize(logits.sigmoid(), size), resize((-logits).sigmoid(), size)
            drawn = concrete(matters.unsqueeze(1), rest.unsqueeze(1), uniform, self.temperature)
            masks = (drawn if self.keeps else 1 - drawn).flatten(0, 1)
            seen = self.explanandum(masking.blend(shown, masks, hidden))
            odds = log_odds(seen, wanted, self.explanandum.multi_label)
            gain = odds.view(-1, self.samples).mean(dim=1)
            price = self.weight * matters.sum(dim=(1, 2))
            return price - gain if self.keeps else price + gain

        logits = minimize(
            objective,
            images.new_zeros(len(images), self.size, self.size),
            self.steps,
            lambda parameters: torch.optim.Adam(parameters, lr=self.lr),
            tick,
        )
        return resize(logits.sigmoid(), size)


def concrete(yes: Tensor, no: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Relaxed Bernoulli samples in [0, 1], near 1 with probability `yes` and near 0 otherwise.

    A sample is sigmoid((ln(yes / no) + ln(u / (1 - u))) / temperature). It exceeds 1/2 if and only
    if u > no.

    Source: Maddison et al., "The Concrete Distribution", ICLR 2017, appendix B.

    Args:
        yes: Probabilities of 1, of any shape.
        no: Probabilities of 0, 1 - `yes`. They are passed separately because computing 1 - `yes`
            would round small probabilities to 0.
        uniform: Uniform random numbers u in [0, 1) that broadcast to the probabilities.
        temperature: Positive temperature. Towards 0 the samples become binary.

    Example:
        >>> concrete(torch.tensor(0.5), torch.tensor(0.5), torch.tensor([0.2, 0.5, 0.8]), 1.0)
        tensor([0.2000, 0.5000, 0.8000])
    """
    least = torch.finfo(yes.dtype).tiny
    odds = yes.clamp(min=least).log() - no.clamp(min=least).log()
    return ((odds + uniform.logit(eps=1e-6)) / temperature).sigmoid()
