"""Loss terms of masks and logits: tensors in, one value per image out."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def widen(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 pass."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def classification(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy (B,), the mean over classes; NN-Explainer eq. 2.

    Logits (B, C), targets (B, C) bool.
    """
    logits = widen(logits)
    return F.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype), reduction="none"
    ).mean(dim=1)


def negative_entropy(logits: Tensor) -> Tensor:
    """Mean over classes of p ln p, p = softmax(logits): (B, C) -> (B,) in [-ln(C) / C, 0].

    NN-Explainer eq. 3. The softmax stands for a multi-label classifier as well, in the paper as in
    its code.
    """
    log_p = widen(logits).log_softmax(dim=1)
    return (log_p.exp() * log_p).mean(dim=1)


def area_bounds(masks: Tensor, lower: float, upper: float) -> Tensor:
    """Penalty (N,) in [0, 1] of masks (N, H, W) that cover too little or too much.

    NN-Explainer eq. 5: the brightest floor(lower * Z) pixels should be 1, all but the brightest
    floor(upper * Z) should be 0. Only two sums of largest values are needed, no sorted copy.

    Raises:
        ValueError: Unless 0 <= lower <= upper <= 1.

    Example:
        >>> area_bounds(torch.tensor([[[0.5, 1.0], [0.25, 0.75]]]), lower=0.25, upper=0.5)
        tensor([0.1875])
    """
    if not 0.0 <= lower <= upper <= 1.0:
        raise ValueError(f"expected 0 <= lower <= upper <= 1, got lower={lower}, upper={upper}")
    pixels = masks.flatten(1)
    total = pixels.shape[1]
    at_least, at_most = int(total * lower), int(total * upper)
    brightest = pixels.topk(max(at_most, 1), dim=1).values[:, :at_most]
    missing = at_least - brightest[:, :at_least].sum(dim=1)
    excess = pixels.sum(dim=1) - brightest.sum(dim=1)
    return (missing + excess) / total


def total_variation(
    masks: Tensor, border: Literal["replicate", "reflect"] = "replicate", power: int = 1
) -> Tensor:
    """Anisotropic total variation of masks (B, H, W) -> (B,).

    Mean over pixels of |right - self|^p + |below - self|^p; NN-Explainer eq. 7. The paper does not
    say what lies beyond the last row and column: "replicate" counts no difference there; "reflect",
    the released code, counts the last difference twice.

    Example:
        >>> total_variation(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))
        tensor([0.5000])
        >>> total_variation(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), border="reflect")
        tensor([1.])
    """
    padded = F.pad(masks.unsqueeze(1), (0, 1, 0, 1), mode=border).squeeze(1)
    right = (padded[:, :-1, 1:] - masks).abs().pow(power)
    below = (padded[:, 1:, :-1] - masks).abs().pow(power)
    return (right + below).mean(dim=(1, 2))


def mean_per_image(values: Tensor, targets: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    """Reduce values (N,), one per true entry of targets (B, C) in row order, to (B,) images.

    An image without a class gets 0.
    """
    rows = targets.nonzero()[:, 0]
    total = torch.zeros(len(targets), dtype=values.dtype, device=values.device).index_add(
        0, rows, values
    )
    return total if reduction == "sum" else total / targets.sum(dim=1).clamp(min=1)


def variation(masks: Tensor, power: float) -> Tensor:
    """Sum of |difference|^power over neighbours down and across, (n, ..., h, w) -> (n,).

    Example:
        >>> variation(torch.tensor([[[0.0, 1.0], [0.0, 3.0]]]), power=2).tolist()
        [14.0]
    """
    down = masks.diff(dim=-2).abs().pow(power)
    across = masks.diff(dim=-1).abs().pow(power)
    return down.flatten(1).sum(dim=1) + across.flatten(1).sum(dim=1)


def log_odds(logits: Tensor, classes: Tensor, multi_label: bool) -> Tensor:
    """ln(p / (1 - p)) of a class (n,) under logits (n, K), exact where p is near 0 or 1."""
    own = logits.gather(1, classes[:, None]).squeeze(1)
    if multi_label:
        return own
    chosen = F.one_hot(classes, logits.shape[1]).bool()
    return own - logits.masked_fill(chosen, -torch.inf).logsumexp(dim=1)
