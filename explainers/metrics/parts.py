"""Parts of objects: their share of a map, and what the classifier says without them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.metrics.base import exact, pixel_sum

MOST_PARTS = 8  # of one object: the classifier sees every subset of them


def part_shares(maps: Tensor, parts: Tensor, dilation: int = 5) -> Tensor:
    """Share of a map that falls on each part, grown by a square of `dilation` pixels.

    Parts overlap after growing, so shares may sum to more than 1. The whole is the positive part of
    the map, so that a map of negative total does not make everything important; without any
    positive value all shares are 0.

    Args:
        maps: (B, H, W).
        parts: (B, K, P, H, W) bool.
        dilation: Side of the square, odd.

    Returns:
        (B, K, P) float64, on the CPU; negative where the map is.
    """
    values, whole = exact(maps), pixel_sum(exact(maps).clamp_min(0))[:, None]
    inside = []
    for part in parts.flatten(1, 2).unbind(1):
        grown = F.max_pool2d(part[:, None].float(), dilation, stride=1, padding=dilation // 2)
        inside.append(pixel_sum(values * exact(grown[:, 0])))
    sums = torch.stack(inside, dim=1)
    shares = torch.where(whole > 0, sums / whole.where(whole > 0, 1.0), 0.0)
    return shares.view(parts.shape[:3])


class Deletions(NamedTuple):
    """Logits of an image without some of its parts, in float64 on the CPU.

    Attributes:
        own: The P' parts of the target that are there, (P',) int64.
        subsets: Logits (2^P', K) when own parts i are left exactly where bit i of the row number
            is set; the last row is the untouched image.
        elsewhere: Class and part of the Q parts of other classes that are there, (Q, 2) int64.
        others: Logits (Q, K) without each of these.
        objects: Other class -> logits (K,) without all its parts.
    """

    own: Tensor
    subsets: Tensor
    elsewhere: Tensor
    others: Tensor
    objects: dict[int, Tensor]


def delete_parts(
    explanandum: Explanandum,
    image: Tensor,
    parts: Tensor,
    target: int,
    clean: Tensor,
    batch_size: int = 16,
) -> Deletions:
    """What the classifier says without parts; what is deleted shows the mean colour.

    Args:
        explanandum: The classifier.
        image: (3, H, W).
        parts: (K, P, H, W) bool.
        target: The class whose parts are deleted in every combination.
        clean: Logits (K,) of the image.
        batch_size: Images a forward pass.

    Raises:
        ValueError: If there are more than 8 parts of the target.
    """
    there = parts.flatten(2).any(dim=2).cpu()
    own = there[target].nonzero().flatten()
    if len(own) > MOST_PARTS:
        raise ValueError(f"expected at most {MOST_PARTS} parts an object, got {len(own)}")
    there[target] = False
    elsewhere = there.nonzero()
    classes = [int(c) for c in torch.unique(elsewhere[:, 0])]
    none = torch.zeros_like(parts[target, 0])
    regions = [
        torch.stack([none, *(parts[target, p] for i, p in enumerate(own) if not code >> i & 1)])
        for code in range(2 ** len(own) - 1)
    ]
    regions += [parts[c, p][None] for c, p in elsewhere.tolist()]
    regions += [parts[c] for c in classes]
    logits = [clean.double().cpu()[None, :][:0]]
    for start in range(0, len(regions), batch_size):
        deleted = torch.stack([r.any(dim=0) for r in regions[start : start + batch_size]])
        shown = torch.where(deleted[:, None], explanandum.mean, image)
        logits.append(exact(explanandum(shown)))
    count = 2 ** len(own) - 1
    subsets, others, objects = torch.split(torch.cat(logits), [count, len(elsewhere), len(classes)])
    return Deletions(
        own,
        torch.cat([subsets, exact(clean)[None]]),
        elsewhere,
        others,
        dict(zip(classes, objects, strict=True)),
    )


def sufficiency(codes: list[int], decided: list[bool]) -> list[float]:
    """Largest share of a minimal sufficient set of parts that is among the given parts.

    Args:
        codes: Sets of parts as bits.
        decided: Whether each set of parts, by its code, is sufficient.

    Returns:
        A value in [0, 1] for each of `codes`; NaN if no set is sufficient.

    Example:
        >>> sufficiency([0b01, 0b10], decided=[False, False, False, True])  # only both suffice
        [0.5, 0.5]
    """
    enough = [code for code in range(1, len(decided)) if decided[code]]
    least = [a for a in enough if not any(b != a and a & b == b for b in enough)]
    shares = [[(c & a).bit_count() / a.bit_count() for a in least] for c in codes]
    return [max(share, default=float("nan")) for share in shares]


def decision_checks(important: Tensor, decided: list[bool]) -> Tensor:
    """Mean of sufficiency, preservation and deletion check at each threshold.

    Preservation asks whether the decision survives without the unimportant parts, deletion whether
    it falls without the important ones.

    Args:
        important: Which parts are called important, (T, P) bool.
        decided: The decision with only the parts in each code, 2^P of them.

    Returns:
        (T,) float64 in [0, 1]; NaN if the untouched image is not decided so.
    """
    codes = [sum(1 << i for i, on in enumerate(row) if on) for row in important.tolist()]
    everything = len(decided) - 1
    if not decided[everything]:
        return torch.full((len(codes),), torch.nan, dtype=torch.float64)
    preserved = [float(decided[code]) for code in codes]
    fallen = [float(not decided[everything ^ code]) for code in codes]
    table = [sufficiency(codes, decided), preserved, fallen]
    return torch.tensor(table, dtype=torch.float64).mean(dim=0)


def distraction(important: Tensor, drops: Tensor, logit: float) -> Tensor:
    """Share of the irrelevant parts that are not called important, at each threshold.

    Irrelevant is what raises the target's logit when deleted, or changes it by less than 5 %.

    Args:
        important: (T, N) bool.
        drops: Loss of the target's logit without each part, (N,).
        logit: The target's logit on the untouched image.

    Returns:
        (T,) float64 in [0, 1]; NaN if no part is irrelevant.
    """
    irrelevant = (drops.abs() < 0.05 * abs(logit)) | (drops < 0)
    return 1 - (important & irrelevant).sum(dim=1).double() / irrelevant.sum()
