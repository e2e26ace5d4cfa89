"""FIDO: which pixels to keep, or to drop, learned as probabilities over random masks."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.functional.fills import OwnFill
from explainers.functional.losses import log_odds
from explainers.functional.planes import resize
from explainers.optimization.pairs import Tick, minimize, solve_pairs


class FIDO(Explainer):
    """Probability that a pixel must be kept for the class to stay, or dropped for it to go.

    One probability a cell of a coarse grid starts at 1/2, is upsampled bilinearly and then drawn
    from: each pixel by itself, as a relaxed coin (`concrete`). Descended is the mean over these
    masks of -ln(p / (1 - p)) of the class (preservation: what is drawn is kept) or of
    ln(p / (1 - p)) (deletion: what is drawn is replaced), plus `weight` times the sum of the
    probabilities over the pixels of the image.

    Source: Chang et al., "Explaining Image Classifiers by Counterfactual Generation", ICLR 2019,
    section 3: its smallest supporting and smallest destroying region; relaxation, upsampling and
    regulariser as in the released code. The paper prefers an inpainter's fill (FIDO-CA), for which
    these fills, which do not look at the mask, stand in.

    Cost: `steps` * `samples` forward and as many backward passes for each image and class.

    Args:
        explanandum: The classifier to explain.
        objective: "preservation" or "deletion".
        weight: Price of a pixel in log-odds. It is not divided by their number: 1e-3 was used for
            images of 224 * 224.
        samples: Masks drawn at each step, the same for every image.
        temperature: Of the relaxed coins; towards 0 they become black and white.
        steps: Steps of Adam.
        lr: Its learning rate, in units of the probabilities' log-odds.
        size: Cells a side of the grid.
        fill: What replaces a pixel, as in `fills.fill`. "images" would make a map depend on its
            batch and is refused.
        sigma: Width of the fill "blur" in pixels.
        pairs: Image-class pairs optimised side by side, `samples` masked images each; changes only
            speed and memory.
        seed: Seed of the masks and of the fill "noise".

    Raises:
        ValueError: If a number is out of range, or the objective or fill unknown.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"steps": 40, "size": 14}

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
        fill: OwnFill = "mean",
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
        """Maps (B, H, W) in [0, 1]: probability that the pixel matters."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, each optimised for itself."""
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "FIDO")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        generator, size = self.generator(), (images.shape[-2], images.shape[-1])
        fills = self.explanandum.fill(self.fill, generator, self.sigma)(images)
        # One row a mask from here on.
        wanted = classes.repeat_interleave(self.samples)
        shown = images.repeat_interleave(self.samples, dim=0)
        hidden = fills.expand_as(images).repeat_interleave(self.samples, dim=0)

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
    """Relaxed coins in [0, 1]: near 1 with probability `yes`, near 0 with `no` = 1 - `yes`.

    sigmoid((ln(yes / no) + ln(u / (1 - u))) / temperature), which exceeds 1/2 just if u > no.

    Source: Maddison et al., "The Concrete Distribution", ICLR 2017, appendix B.

    Args:
        yes: Probabilities of 1, any shape.
        no: Probabilities of 0, given as well since 1 - `yes` would lose the small ones.
        uniform: Numbers u in [0, 1) that broadcast to them.
        temperature: Positive; towards 0 the coins become black and white.

    Example:
        >>> concrete(torch.tensor(0.5), torch.tensor(0.5), torch.tensor([0.2, 0.5, 0.8]), 1.0)
        tensor([0.2000, 0.5000, 0.8000])
    """
    least = torch.finfo(yes.dtype).tiny
    odds = yes.clamp(min=least).log() - no.clamp(min=least).log()
    return ((odds + uniform.logit(eps=1e-6)) / temperature).sigmoid()
