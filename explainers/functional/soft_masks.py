"""Soft masks of the pixels with the largest scores, and probabilities that keep a gradient."""

import torch
from torch import Tensor

from explainers.functional.losses import widen


def soft_masks(scores: Tensor, shares: Tensor, sharpness: float = 8.0) -> Tensor:
    """Masks (B, H, W) in [0, 1] of the pixels with the largest scores, without noise.

    The mask is sigmoid(sharpness (scores - t)), where t is the score at the given share of the
    pixels. The gradient of t is that of the level which keeps the area of the mask: a shift of all
    scores changes nothing, and no single pixel decides about the level.

    Args:
        scores: Scores (B, H, W), with a standard deviation of about 1.
        shares: Share of the pixels to keep for each image, (B,) in [0, 1].
        sharpness: Inverse width of the transition.

    Example:
        >>> masks = soft_masks(torch.tensor([[[0.0, 9.0], [1.0, 9.5]]]), torch.tensor([0.5]))
        >>> masks.round().tolist()
        [[[0.0, 1.0], [0.0, 1.0]]]
    """
    flat = widen(scores).flatten(1)
    places = (shares * flat.shape[1]).long().clamp(max=flat.shape[1] - 1).to(flat.device)
    ordered = flat.sort(dim=1, descending=True).values
    level = ordered.gather(1, places[:, None]).detach()
    masks = (sharpness * (flat - level)).sigmoid().detach()
    slopes = masks * (1 - masks)  # of the mask, as far as it matters
    slopes = slopes / slopes.sum(dim=1, keepdim=True).clamp(min=torch.finfo(slopes.dtype).tiny)
    moved = (slopes * (flat - flat.detach())).sum(dim=1, keepdim=True)  # 0, with a gradient
    return (sharpness * (flat - level - moved)).sigmoid().view_as(scores)


def stratified_shares(count: int, generator: torch.Generator) -> Tensor:
    """Shares (count,) in [0, 1), one in each of `count` equal parts of the range, in random order.

    Args:
        count: Number of shares.
        generator: Source of the randomness, on the CPU.
    """
    order = torch.randperm(count, generator=generator)
    return (order + torch.rand(count, generator=generator)) / count


def tempered(log_odds: Tensor, temperature: float = 3.0) -> Tensor:
    """Probabilities of log-odds at a temperature.

    A masked image has a probability near 0 or 1 for most masks, where the probability itself has no
    gradient.

    Args:
        log_odds: Log-odds (B,).
        temperature: Divisor of the log-odds. 1 gives the probabilities themselves.
    """
    return (log_odds / temperature).sigmoid()
