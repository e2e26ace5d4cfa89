"""Omega: keeps the k pixels with the largest noisy scores, by hard masks with soft gradients.

Source: "Ra-NEM: Faithful Model Explanations through Stochastic Feature Selection", appendix E,
Algorithm 1.

The algorithm sorts the scores. Here, one order statistic for each row gives the same masks and
gradients. The algorithm's normalization by logsumexp is left out. It shifts all scores of an image
equally and therefore changes neither masks nor gradients, and it is the only step for which half
precision is not enough.
"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from explainers.functional.losses import widen


def omega(
    scores: Tensor,
    k: Tensor,
    noise: Tensor | None = None,
    threshold: Literal["kth", "next"] = "kth",
) -> Tensor:
    """Masks (B, S, H, W) of 0 and 1 that keep the k largest of scores + noise, for each k.

    The gradient is that of sigmoid(scores + noise - t) with the threshold t: it passes straight
    through the hard step, and also includes the gradient of t. The computation uses float32, or
    float64 for such scores, whatever the precision of the scores. The number of kept pixels is
    exact for rows without ties, which noise ensures. Of pixels that equal the threshold, "kth"
    keeps all and "next" none.

    Args:
        scores: Scores (B, H, W), of which the largest are kept.
        k: Numbers of pixels to keep, (B, S) int64, on the CPU.
        noise: Noise from `gumbel`, (B, S, H, W), or (B, 1, H, W) to share it among all k of an
            image, whose masks are then nested. None adds no noise.
        threshold: Score at which the sigmoid is centered. "kth": the k-th largest score, whose own
            soft value is 1/2, as in the released code; k must be in [1, H W]. "next": the score
            after it, as in the paper's listing, whose `A[k]` counts from 0; k must be in
            [0, H W - 1].

    Raises:
        ValueError: If a k or a shape does not fit.
    """
    batch, size = len(scores), scores[0].numel()
    lowest = 1 if threshold == "kth" else 0
    if k.ndim != 2 or len(k) != batch or k.dtype != torch.int64:
        raise ValueError(f"expected k ({batch}, S) int64, got {tuple(k.shape)} {k.dtype}")
    if int(k.min()) < lowest or int(k.max()) >= size + lowest:
        raise ValueError(
            f"with threshold {threshold!r} expected k in [{lowest}, {size - 1 + lowest}], "
            f"got {int(k.min())} to {int(k.max())}"
        )
    noisy = widen(scores).unsqueeze(1)
    if noise is not None:
        if noise.shape not in {(batch, n, *scores.shape[1:]) for n in (1, k.shape[1])}:
            raise ValueError(
                f"expected noise (B, S or 1, H, W) for scores {tuple(scores.shape)} and "
                f"{k.shape[1]} k, got {tuple(noise.shape)}"
            )
        noisy = noisy + noise
    masks: Tensor = _Select.apply(noisy.flatten(2), k - lowest, threshold == "kth")
    return masks.view(*masks.shape[:2], *scores.shape[1:])


class _Select(torch.autograd.Function):
    """Values (B, S or 1, d) and the 0-based rank (B, S) of each threshold -> masks (B, S, d)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Tensor, inclusive: bool) -> Tensor:
        level, index = at_rank(values, ranks)
        ctx.save_for_backward(values, level, index)
        return (values >= level if inclusive else values > level).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        values, level, index = ctx.saved_tensors
        soft = (values - level).sigmoid_()
        inward = torch.ops.aten.sigmoid_backward(gradients[0], soft)
        inward.scatter_add_(2, index, -inward.sum(dim=2, keepdim=True))
        return inward.sum(dim=1, keepdim=True) if values.shape[1] == 1 else inward, None, None


def at_rank(values: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Value at each rank, where rank 0 is the largest, and its index, both (B, S, 1).

    Args:
        values: Values (B, S, d), with one row for each rank, or (B, 1, d), with one row for all
            ranks of an image.
        ranks: Ranks (B, S) int64 in [0, d), on the CPU.
    """
    return _by_partition(values, ranks) if values.device.type == "cpu" else _by_sort(values, ranks)


def _by_sort(values: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    places = ranks.unsqueeze(2).to(values.device)
    ordered = values.sort(dim=2, descending=True)
    if values.shape[1] == 1:
        return ordered.values.gather(2, places.mT).mT, ordered.indices.gather(2, places.mT).mT
    return ordered.values.gather(2, places), ordered.indices.gather(2, places)


def _by_partition(values: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Introselect, which is several times faster than any selection in torch on the CPU."""
    rows = values.numpy().reshape(-1, values.shape[2])
    wanted = (values.shape[2] - 1 - ranks).numpy().reshape(len(rows), -1)
    pairs = list(zip(rows, wanted, strict=True))
    level = np.stack([np.partition(row, np.unique(kth))[kth] for row, kth in pairs])
    index = [
        [(row == value).argmax() for value in found] for row, found in zip(rows, level, strict=True)
    ]
    shape = (*ranks.shape, 1)
    return torch.from_numpy(level).view(shape), torch.tensor(index).view(shape)


def gumbel(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard Gumbel noise, float32 and finite.

    If the generator is on another type of device than the noise, it only draws the seed of a
    generator there. Large draws then need no transfer between devices, but the numbers differ
    between types of devices.
    """
    if generator is not None and generator.device.type != torch.device(device).type:
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        generator = torch.Generator(device).manual_seed(seed)
    uniform = torch.rand(shape, generator=generator, device=device)
    # torch.rand gives 0 about once in 2^24 draws, which would become -inf.
    return uniform.clamp_(2**-25, 1 - 2**-24).log_().neg_().log_().neg_()


def draw_k(
    images: int,
    samples: int,
    size: int,
    sampling: Literal["stratified", "uniform"],
    generator: torch.Generator,
) -> Tensor:
    """Draws (images, samples) numbers of pixels in [1, size], int64.

    Args:
        images: Number of images.
        samples: Number of draws for each image.
        size: Number of pixels of an image.
        sampling: Sampling method. "stratified": one number from each of `samples` equal parts of
            the range, as in the released code, whose range begins at 0 and whose parts are rounded
            down to whole pixels. "uniform": all numbers from the whole range, with replacement, as
            in the paper. Over all draws, both are uniform.
        generator: Random number generator on the CPU.

    Raises:
        ValueError: If "stratified" is asked for more samples than pixels.
    """
    if sampling == "uniform":
        return torch.randint(1, size + 1, (images, samples), generator=generator)
    if samples > size:
        raise ValueError(f"cannot divide {size} pixels into {samples} parts: take fewer samples")
    place = torch.rand(images, samples, generator=generator, dtype=torch.float64)
    return 1 + ((torch.arange(samples) + place) * size / samples).long().clamp(max=size - 1)
