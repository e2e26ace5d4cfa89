"""Loss terms of masks and logits, with one value for each image."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

# Pixels whose values differ by at most this count as equal. All pixels start equal, and rounding,
# about 1e-6, must not decide which of them belong to the mask.
TIE = 1e-5


def widen(values: Tensor) -> Tensor:
    """Converts half precision to float32. Values in float32 and float64 are returned unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def classification(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy (B,), the mean over classes.

    Source: NN-Explainer eq. 2.

    Args:
        logits: Logits (B, C).
        targets: Multi-hot targets (B, C) bool.
    """
    logits = widen(logits)
    return F.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype), reduction="none"
    ).mean(dim=1)


def negative_entropy(logits: Tensor) -> Tensor:
    """Mean over classes of p ln p with p = softmax(logits): (B, C) -> (B,) in [-ln(C) / C, 0].

    Source: NN-Explainer eq. 3. The softmax is used for multi-label classifiers as well, in the
    paper and in its code.
    """
    log_p = widen(logits).log_softmax(dim=1)
    return (log_p.exp() * log_p).mean(dim=1)


def area_bounds(masks: Tensor, lower: float, upper: float) -> Tensor:
    """Penalty (N,) in [0, 1] of masks (N, H, W) that cover too little or too much of the image.

    Of the Z pixels of a mask, the largest floor(lower * Z) should be 1, and all but the largest
    floor(upper * Z) should be 0. The penalty only needs two sums of largest values, not a sorted
    copy.

    Source: NN-Explainer eq. 5.

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


def area_gap(
    masks: Tensor, areas: list[float], ties: Literal["shared", "sorted"] = "shared"
) -> Tensor:
    """Mean squared difference between the sorted pixels of masks and a step of the given area.

    For an area of K pixels, the step is 1 for the K largest pixels of the mask and 0 for the rest.
    A pixel m thus contributes (1 - m)^2 if it is among the K largest, and m^2 otherwise. Pixels
    that tie with the K-th largest, up to rounding (`TIE`), share the places that are left: each
    belongs to the K largest by the same fraction.

    Source: Fong et al. 2019, divided by the number of pixels as in TorchRay.

    Args:
        masks: Masks (n, A, H, W) in [0, 1].
        areas: Areas of the A masks as fractions of the image. Each is rounded to a number of
            pixels, but to at least one.
        ties: Pixels that count as the K largest among equal ones. "shared": all of them, by the
            same fraction. "sorted": the last ones after sorting, as in TorchRay, which also rounds
            the number of the other pixels down instead of rounding K. The gradients differ.

    Returns:
        Penalties (n, A) >= 0.

    Example:
        >>> area_gap(torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]]), [0.25])
        tensor([[0.1250]])
    """
    pixels = masks.flatten(2)
    total = pixels.shape[2]
    if ties == "sorted":
        rest = torch.tensor([int(total * (1 - area)) for area in areas], device=masks.device)
        step = (torch.arange(total, device=masks.device) >= rest[:, None]).to(masks)
        return (pixels.sort(dim=2, stable=True).values - step).square().mean(dim=2)
    counts = [max(1, round(area * total)) for area in areas]
    largest = torch.tensor(counts, device=masks.device, dtype=masks.dtype)[:, None]
    with torch.no_grad():
        ranked = zip(pixels.unbind(1), counts, strict=True)
        edges = [row.kthvalue(total - count + 1, dim=1).values for row, count in ranked]
        edge = torch.stack(edges, dim=1)[:, :, None]
        above, tied = pixels > edge + TIE, (pixels - edge).abs() <= TIE
        left = largest - above.sum(dim=2, keepdim=True)
        among = above + tied * (left / tied.sum(dim=2, keepdim=True))
    # The gap is the sum of (1 - m)^2 a + m^2 (1 - a), where a is the fraction `among`.
    return (pixels * (pixels - 2 * among)).sum(dim=2).add(largest[:, 0]) / total


def total_variation(
    masks: Tensor, border: Literal["replicate", "reflect"] = "replicate", power: int = 1
) -> Tensor:
    """Anisotropic total variation (B,) of masks (B, H, W).

    It is the mean over pixels of |right - self|^power + |below - self|^power.

    Source: NN-Explainer eq. 7, which does not define the pixels beyond the last row and column.

    Args:
        masks: Masks (B, H, W).
        border: Values beyond the last row and column. "replicate" adds no difference there.
            "reflect", as in the released code, counts the last difference twice.
        power: Exponent of the absolute differences.

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
    """Reduces values (N,) of the true entries of targets (B, C), in row order, to images (B,).

    An image without a class gets 0.
    """
    rows = targets.nonzero()[:, 0]
    total = torch.zeros(len(targets), dtype=values.dtype, device=values.device).index_add(
        0, rows, values
    )
    return total if reduction == "sum" else total / targets.sum(dim=1).clamp(min=1)


def variation(masks: Tensor, power: float) -> Tensor:
    """Sum of |difference|^power over vertical and horizontal neighbors, (n, ..., h, w) -> (n,).

    Example:
        >>> variation(torch.tensor([[[0.0, 1.0], [0.0, 3.0]]]), power=2).tolist()
        [14.0]
    """
    down = masks.diff(dim=-2).abs().pow(power)
    across = masks.diff(dim=-1).abs().pow(power)
    return down.flatten(1).sum(dim=1) + across.flatten(1).sum(dim=1)


def log_odds(logits: Tensor, classes: Tensor, multi_label: bool) -> Tensor:
    """Log-odds (n,), ln(p / (1 - p)), of one class (n,) for each row of logits (n, K).

    They are also exact where p is close to 0 or 1.
    """
    own = logits.gather(1, classes[:, None]).squeeze(1)
    if multi_label:
        return own
    chosen = F.one_hot(classes, logits.shape[1]).bool()
    return own - logits.masked_fill(chosen, -torch.inf).logsumexp(dim=1)
