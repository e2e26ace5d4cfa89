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
from explainers.functional.content import Content
from explainers.functional.fills import Inpainted, MaskFill
from explainers.functional.losses import log_odds, variation, widen
from explainers.functional.planes import resize
from explainers.optimization.pairs import Tick, minimize, solve_pairs


class MaskingExplanation(Explainer):
    """Finds small masks whose part of the image preserves the class on random other images.

    K masks and a rest sum to 1 at every pixel. An image blended by mask k shows the image itself
    where mask k is 1, another picture (the fill) where the rest is 1, and the mean color where one
    of the other K - 1 masks is 1. Adam minimizes the mean over k of the sum of three terms, plus an
    optional penalty (see `entropy`):
        - the negative log-probability of the class for the blended image (see `loss`),
        - `l1` times the sum of mask k over the pixels,
        - `tv` times the sum of its squared differences between neighboring pixels.

    A single mask is a sigmoid, and the rest is its complement. Several masks and the rest are a
    softmax. Each of the K masks thus explains the class, and they compete for the pixels.

    Source: Gupta et al., "New Definitions and Evaluations for Saliency Methods: Staying Intrinsic,
    Complete and Sound", NeurIPS 2022, appendix A, eq. 5 (tv 0, scale 1) and eq. 6. Several masks
    are from appendix D.3. The paper does not define one map of them; `combine` does, and
    `ensembles` returns all masks. The subset of labels to which the paper restricts the classifier
    corresponds to the `classes` of the explanandum, and its masks of all labels to `class_maps`
    with all classes.

    Published values of l1 are 2e-5 for 224 x 224 pixels and 1e-3 for 32 x 32 pixels. l1 weights a
    sum over pixels; the product of each value with the number of pixels is about 1. Published
    values of tv are 0, 0.001, 0.01 and 0.1. The released command has scale 4 and tv 0.01.

    Differences from the released code:
        - All pairs of an image and a class see the same pictures, instead of each its own.
        - A picture is cropped anew each time it is drawn, instead of once.
        - The differences along the last row and the last column count too.
        - Several masks start from noise, see `start`.

    Cost for each pair: `steps` * `maps` * `draws` forward passes and as many backward passes. With
    other fills than "images", `draws` counts as 1.

    Args:
        explanandum: The classifier to explain, through its gradients.
        steps: Number of steps of Adam.
        lr: Learning rate of Adam.
        scale: Side of a mask's cells in pixels; 1 and 4 as published. A mask has ceil(H / scale) x
            ceil(W / scale) cells, which are interpolated bilinearly.
        maps: Number K of masks; 1, 2 and 4 as published.
        start: Initial parameters of several masks. "noise": standard normal noise, so that the
            masks differ; a large `tv` can make them alike again. "zeros", as in the released code:
            all masks have the same gradient and stay equal. A single mask always starts at 1/2.
        combine: Pixelwise reduction of the K masks to one map: "max", or "mean", which is at most
            1 / K.
        l1: Weight of the sum of a mask.
        tv: Weight of the sum of the squared differences of a mask.
        entropy: Weight of the entropy over the K masks and the rest, averaged over the pixels and
            divided by K, as in the released code. A positive weight makes the masks binary.
        loss: Classification loss. "paper": -ln p, averaged over the pictures (eq. 5 and 6).
            "released": p is averaged first, and the cross-entropy is computed as if these
            probabilities were logits, or for a sigmoid head as if the pair (p, 1 - p) were.
        fill: Content where the rest is 1: "mean" (gray), "images" for the pictures of `bank`, or an
            inpainter, which completes what mask k keeps, see `fills.fill`.
        bank: Folder of pictures for the fill "images"; 1000 training images as published.
        draws: Number of pictures drawn in each step, with replacement.
        augment: Whether to crop and flip the pictures, as the released code does; see `crops`.
        pairs: Number of image-class pairs that are optimized side by side. It changes only speed
            and memory.
        seed: Seed of the pictures and of the start.

    Raises:
        ValueError: If a number is out of range, if an option is unknown, or if the fill is "images"
            without a `bank`, or another one with it.
    """

    is_mask = True
    needs_gradients = True
    speed_only = ("pairs",)
    quick: ClassVar = {"steps": 30}

    def __init__(
        self,
        explanandum: Explanandum,
        steps: int = 2000,
        lr: float = 0.05,
        scale: int = 4,
        maps: int = 1,
        start: Literal["noise", "zeros"] = "noise",
        combine: Literal["max", "mean"] = "max",
        l1: float = 2e-5,
        tv: float = 0.01,
        entropy: float = 0.0,
        loss: Literal["paper", "released"] = "paper",
        fill: Literal["mean", "images"] | MaskFill | str = "mean",
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
                "fill must be 'images' with a folder of pictures as bank, or another without, got "
                f"{fill!r} and bank {bank!r}"
            )
        self.steps, self.lr, self.scale, self.maps, self.combine = steps, lr, scale, maps, combine
        self.l1, self.tv, self.entropy, self.loss = l1, tv, entropy, loss
        self.bank, self.draws, self.augment, self.pairs = bank, draws, augment, pairs
        self.start, self.fill = start, fill

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1], where 1 marks pixels that are kept."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, `pairs` at a time."""
        masks = self.ensembles(images, classes)[:, :, :-1]
        return masks.amax(dim=2) if self.combine == "max" else masks.mean(dim=2)

    def ensembles(self, images: Tensor, classes: Tensor) -> Tensor:
        """The K masks and the rest (B, k, K + 1, H, W), which sum to 1 at every pixel."""
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
        start = torch.zeros(1 if self.maps == 1 else self.maps + 1, *cells)
        if self.maps > 1 and self.start == "noise":
            start = torch.randn(start.shape, generator=generator)
        start = start.to(images).expand(len(images), *start.shape)
        found = minimize(objective, start, self.steps, partial(Adam, lr=self.lr), tick)
        return disjoint(found, size).clamp(0, 1)  # rounding can leave [0, 1]

    def _fills(self, bank: Tensor | None, images: Tensor, generator: torch.Generator) -> Content:
        """Pictures (draws, 3, H, W) of a step; without a bank the mean color, or an inpainter."""
        if bank is None:
            fill = self.explanandum.fill(self.fill, self.seed)
            return fill if isinstance(fill, Inpainted) else fill(images)
        drawn = bank[torch.randint(len(bank), (self.draws,), generator=generator)]
        return (crops(drawn, generator) if self.augment else drawn).to(images)

    def losses(self, images: Tensor, classes: Tensor, masks: Tensor, fills: Content) -> Tensor:
        """Losses (n,) of the pairs, which the optimization minimizes.

        Args:
            images: Images (n, 3, H, W) in [0, 1].
            classes: Classes (n,) int64.
            masks: K masks and the rest (n, K + 1, H, W), which sum to 1 at every pixel.
            fills: Pictures (d, 3, H, W) that are shown where the rest is 1, or an inpainter.
        """
        mean = self.explanandum.mean.to(images)
        kept, rest = masks[:, :-1], masks[:, -1]
        parts = (images - mean)[:, None] * kept[:, :, None]  # (n, K, 3, H, W)
        if isinstance(fills, Tensor):
            behind = (fills - mean)[None, None] * rest[:, None, None, None]  # (n, 1, d, 3, H, W)
        else:
            several = images.repeat_interleave(kept.shape[1], dim=0)
            filled = fills(several, kept.flatten(0, 1)).view_as(parts)
            behind = ((filled - mean) * rest[:, None, None])[:, :, None]  # (n, K, 1, 3, H, W)
        shown = mean + parts[:, :, None] + behind  # (n, K, d, 3, H, W)
        logits = widen(self.explanandum(shown.flatten(0, 2))).view(*shown.shape[:3], -1)
        loss = self._surprise(logits, classes).sum(dim=1)
        loss = loss + self.l1 * kept.sum(dim=(1, 2, 3)) + self.tv * variation(kept, power=2)
        if self.entropy:
            # The gradient of the entropy is infinite at 0.
            entropies = torch.special.entr(masks.clamp_min(1e-9)).sum(dim=1)
            loss = loss + self.entropy * entropies.mean(dim=(1, 2))
        return loss / kept.shape[1]

    def _surprise(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Classification loss (n, K) of logits (n, K, d, C) for classes (n,)."""
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
    """K masks and, last, the rest (n, K + 1, H, W), which sum to 1 at every pixel.

    Args:
        parameters: Parameters (n, K + 1, h, w), or (n, 1, h, w) for K = 1.
        size: Height and width of the masks.

    Example:
        >>> disjoint(torch.zeros(1, 1, 1, 1), (1, 1)).flatten().tolist()
        [0.5, 0.5]
    """
    if parameters.shape[1] == 1:
        mask = resize(parameters.sigmoid(), size)
        return torch.cat([mask, 1 - mask], dim=1)
    return resize(parameters.softmax(dim=1), size)


def crops(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of pictures (N, 3, H, W), resized to H x W and flipped with probability 1/2.

    The area of a crop is uniform between 8 % and 100 % of the picture. Its aspect ratio is
    log-uniform between 3/4 and 4/3. Both are those of torchvision's RandomResizedCrop, which draws
    again if a crop is larger than the picture; here its sides are clamped instead.
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
