"""Masking explanations: a small part of the image that makes the class likely on any background."""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import fills
from explainers.functional.losses import log_odds, variation, widen
from explainers.functional.planes import resize
from explainers.optimization.pairs import Tick, minimize, solve_pairs


class MaskingExplanation(Explainer):
    """Masks whose part of the image, laid over random other pictures, keeps the class: eq. 6.

    K masks and a rest sum to 1 at every pixel. Mask k alone is seen together with a picture that
    shines through where the rest is; where the other K - 1 masks are, the mean colour is seen. The
    mean over k is minimised of: surprise at the class, l1 times the sum of mask k, tv times the sum
    of its squared differences between neighbours. One mask is a sigmoid and its complement the
    rest; more are a softmax with the rest. So K masks each explain the class, and are disjoint.

    Source: Gupta et al., "New Definitions and Evaluations for Saliency Methods: Staying Intrinsic,
    Complete and Sound", NeurIPS 2022, appendix A, eq. 5 (tv 0, scale 1) and 6; several masks:
    appendix D.3. The paper does not say how these become one map, `combine` does; `ensembles` gives
    all of them. The label subset to which the paper restricts the classifier is the explanandum's
    `classes`, and the masks of all its labels are `class_maps` with all classes.

    Published l1, a sum over pixels, is 2e-5 at 224 px and 1e-3 at 32 px: both times the number of
    pixels are 1. tv is 0, 0.001, 0.01 or 0.1; the released command has scale 4 and tv 0.01.

    Differs: all pairs see the same pictures, not each its own; a picture is cropped anew each time
    it is drawn, not once; the differences of the last row and column count too.

    Cost a pair: steps * maps * draws forward and as many backward passes; draws is 1 with "mean".

    Args:
        explanandum: The classifier to explain, through its gradients.
        steps: Steps of Adam.
        lr: Their size.
        scale: Pixels a side of a mask's cells, ceil(H / scale) by ceil(W / scale) in all, which are
            interpolated bilinearly; published are 1 and 4.
        maps: Disjoint masks K; published are 1, 2 and 4.
        combine: The map of K masks: their pixelwise "max", or "mean", at most 1 / K.
        l1: Weight of the sum of a mask.
        tv: Weight of the sum of squared differences of a mask.
        entropy: Weight of the pixels' mean entropy over the K masks and the rest, divided by K, as
            in the released code; positive makes masks binary.
        loss: "paper": -ln p, averaged over the pictures (eq. 5, 6). "released": p is averaged
            first, and the cross-entropy taken as if these probabilities were logits; with a sigmoid
            head as if the pair (p, 1 - p) were.
        fill: "mean" (gray), or "images": pictures of `bank`.
        bank: Flat folder of pictures for "images"; published are 1000 training images.
        draws: Pictures a step, with replacement.
        augment: Crop and flip the pictures, see `crops`; the released code does.
        pairs: Image-class pairs optimised side by side; it changes only speed and memory.
        seed: Seed of the pictures.

    Raises:
        ValueError: If a number is out of range, an option unknown, or fill and bank do not fit.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"steps": 40}

    def __init__(
        self,
        explanandum: Explanandum,
        steps: int = 2000,
        lr: float = 0.05,
        scale: int = 4,
        maps: int = 1,
        combine: Literal["max", "mean"] = "max",
        l1: float = 2e-5,
        tv: float = 0.01,
        entropy: float = 0.0,
        loss: Literal["paper", "released"] = "paper",
        fill: Literal["mean", "images"] = "mean",
        bank: str | None = None,
        draws: int = 10,
        augment: bool = False,
        pairs: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if min(steps, scale, maps, draws, pairs) < 1:
            raise ValueError(
                f"expected at least 1, got {steps=}, {scale=}, {maps=}, {draws=}, {pairs=}"
            )
        if lr <= 0 or min(l1, tv, entropy) < 0:
            raise ValueError(
                f"lr must be positive and no weight negative, got {lr=}, {l1=}, {tv=}, {entropy=}"
            )
        if (fill == "images") != (bank is not None):
            raise ValueError(
                "fill must be 'mean', or 'images' with a folder of pictures as bank, got "
                f"{fill!r} and bank {bank!r}"
            )
        self.steps, self.lr, self.scale, self.maps, self.combine = steps, lr, scale, maps, combine
        self.l1, self.tv, self.entropy, self.loss = l1, tv, entropy, loss
        self.bank, self.draws, self.augment, self.pairs = bank, draws, augment, pairs

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1], 1 = keep."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, `pairs` at a time."""
        masks = self.ensembles(images, classes)[:, :, :-1]
        return masks.amax(dim=2) if self.combine == "max" else masks.mean(dim=2)

    def ensembles(self, images: Tensor, classes: Tensor) -> Tensor:
        """The K disjoint masks and the rest, which sum to 1, (B, k, K + 1, H, W)."""
        title = "Masking explanation"
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, title)

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        size, generator = (images.shape[2], images.shape[3]), self.generator()
        bank = None if self.bank is None else fills.read_bank(self.bank, *size)

        def objective(parameters: Tensor, step: int) -> Tensor:
            return self.losses(
                images, classes, disjoint(parameters, size), self._fills(bank, images, generator)
            )

        cells = [-(-side // self.scale) for side in size]
        start = images.new_zeros(len(images), 1 if self.maps == 1 else self.maps + 1, *cells)
        found = minimize(objective, start, self.steps, partial(Adam, lr=self.lr), tick)
        return disjoint(found, size).clamp(0, 1)  # interpolation may round beyond

    def _fills(self, bank: Tensor | None, images: Tensor, generator: torch.Generator) -> Tensor:
        """The pictures of a step, (draws, 3, H, W), or the mean colour, (1, 3, 1, 1)."""
        if bank is None:
            return self.explanandum.mean.to(images)
        drawn = bank[torch.randint(len(bank), (self.draws,), generator=generator)]
        return (crops(drawn, generator) if self.augment else drawn).to(images)

    def losses(self, images: Tensor, classes: Tensor, masks: Tensor, fills: Tensor) -> Tensor:
        """What is minimised: the loss (n,) of each pair.

        Args:
            images: (n, 3, H, W) in [0, 1].
            classes: (n,) int64.
            masks: K masks and the rest, (n, K + 1, H, W), sum 1.
            fills: Pictures (d, 3, H, W) that show where the rest is.
        """
        mean = self.explanandum.mean.to(images)
        kept, rest = masks[:, :-1], masks[:, -1]
        parts = (images - mean)[:, None] * kept[:, :, None]  # (n, K, 3, H, W)
        behind = (fills - mean) * rest[:, None, None]  # (n, d, 3, H, W)
        shown = mean + parts[:, :, None] + behind[:, None]  # (n, K, d, 3, H, W)
        logits = widen(self.explanandum(shown.flatten(0, 2))).view(*shown.shape[:3], -1)
        loss = self._surprise(logits, classes).sum(dim=1)
        loss = loss + self.l1 * kept.sum(dim=(1, 2, 3)) + self.tv * variation(kept, power=2)
        if self.entropy:
            # Not quite 0: the slope there is infinite.
            entropies = torch.special.entr(masks.clamp_min(1e-9)).sum(dim=1)
            loss = loss + self.entropy * entropies.mean(dim=(1, 2))
        return loss / kept.shape[1]

    def _surprise(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Logits (n, K, d, C) -> how unlikely classes (n,) are, (n, K)."""
        pairs, maps, draws, _ = logits.shape
        multi_label = self.explanandum.multi_label
        if self.loss == "paper":
            wanted = classes.repeat_interleave(maps * draws)
            odds = log_odds(logits.flatten(0, 2), wanted, multi_label)
            return F.softplus(-odds).view(pairs, maps, draws).mean(dim=2)
        p = self.explanandum.to_probabilities(logits.flatten(0, 2)).view_as(logits).mean(dim=2)
        own = p.gather(2, classes.view(-1, 1, 1).expand(-1, maps, 1)).squeeze(2)
        both = torch.stack([own, 1 - own], dim=2) if multi_label else p
        return both.logsumexp(dim=2) - own


def disjoint(parameters: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, K + 1, H, W) with sum 1, the rest last, of parameters (n, K + 1, h, w).

    For K = 1 there is one parameter a cell, (n, 1, h, w).

    Example:
        >>> disjoint(torch.zeros(1, 1, 1, 1), (1, 1)).flatten().tolist()
        [0.5, 0.5]
    """
    if parameters.shape[1] == 1:
        mask = resize(parameters.sigmoid(), size)
        return torch.cat([mask, 1 - mask], dim=1)
    return resize(parameters.softmax(dim=1), size)


def crops(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of each picture (N, 3, H, W), at its size, half of them flipped.

    The areas are uniform in 8 to 100 %, the logarithms of the aspect ratios in those of 3/4 to 4/3,
    as torchvision's RandomResizedCrop has them; sides are cut to the picture's instead of redrawn.
    """
    height, width = pictures.shape[-2:]
    area, slant, down, across, turn = torch.rand(5, len(pictures), generator=generator)
    area, ratio = 0.08 + 0.92 * area, (4 / 3) ** (2 * slant - 1) * height / width
    tall, wide = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    zoom = torch.zeros(len(pictures), 2, 3)
    zoom[:, 0, 0], zoom[:, 1, 1] = torch.where(turn < 0.5, -wide, wide), tall
    zoom[:, 0, 2], zoom[:, 1, 2] = (2 * across - 1) * (1 - wide), (2 * down - 1) * (1 - tall)
    grid = F.affine_grid(zoom, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
