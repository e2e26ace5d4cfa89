"""Similarity of maps, and of the maps of repeated or reparameterized runs."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainers.metrics.base import PerImageMetric, exact
from explainers.metrics.inputs import finite

Planes = NDArray[np.float64]


def pearson(a: Planes, b: Planes) -> Planes:
    """Pearson correlation (B,), in [-1, 1], of the rows of arrays (B, N).

    NaN where a row is constant or not finite.
    """
    result = np.full(len(a), np.nan)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) > 0 and np.ptp(y) > 0:
            x, y = x - x.mean(), y - y.mean()
            result[i] = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    return result.clip(-1, 1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman rank correlation (B,), in [-1, 1], of the pixels of maps (B, H, W).

    Pixels of equal value share a rank. NaN where a map is constant or not finite.

    Example:
        >>> a = torch.tensor([[[0.0, 1.0, 2.0, 5.0]]])
        >>> spearman(a, a**3).item(), spearman(a, -a).item()
        (1.0, -1.0)
    """
    return torch.from_numpy(pearson(_ranks(a), _ranks(b)))


def rank_similarity(before: Tensor, after: Tensor) -> Tensor:
    """`spearman` of two maps of an image, but 0 if only the second one is constant.

    A constant second map contains no information about the first.
    """
    spread = (after.amax(dim=(1, 2)) - after.amin(dim=(1, 2))).cpu()  # NaN if it is not finite
    told = (before.amax(dim=(1, 2)) > before.amin(dim=(1, 2))).cpu()
    return spearman(before, after).masked_fill((spread == 0) & told, 0.0)


def _ranks(maps: Tensor) -> Planes:
    from scipy import stats

    ranks: Planes = stats.rankdata(exact(maps).nan_to_num().flatten(1).numpy(), axis=1)
    ranks[~finite(maps).numpy()] = np.nan
    return ranks


def ssim(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """Structural similarity (B,), in [-1, 1], of maps (B, H, W) over windows of 5 x 5 pixels."""
    from skimage.metrics import structural_similarity

    pairs = zip(exact(a).numpy(), exact(b).numpy(), strict=True)
    values = [structural_similarity(x, y, win_size=5, data_range=data_range) for x, y in pairs]
    return torch.tensor(values, dtype=torch.float64)


def hog(maps: Tensor) -> Planes:
    """Histograms of oriented gradients (B, N) of maps (B, H, W).

    Cells have 16 x 16 pixels and 9 orientations. Blocks have 3 x 3 cells, or fewer if the maps are
    too small. N is 0 for maps smaller than one cell.
    """
    from skimage.feature import hog as histograms

    blocks = [min(3, side // 16) for side in maps.shape[1:]]
    if 0 in blocks:
        return np.empty((len(maps), 0))
    cells = {"pixels_per_cell": (16, 16), "cells_per_block": blocks}
    return np.stack([histograms(plane, **cells) for plane in exact(maps).numpy()])


@contextmanager
def changed(explainer: Any, values: dict[str, Any]) -> Iterator[None]:
    """Set attributes of an explainer within the block, and restore them afterwards.

    Raises:
        ValueError: If the explainer has no such attribute.
    """
    if unknown := [name for name in values if not hasattr(explainer, name)]:
        raise ValueError(f"{type(explainer).__name__} has no setting {unknown[0]!r}")
    before = {name: getattr(explainer, name) for name in values}
    try:
        for name, value in values.items():
            setattr(explainer, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(explainer, name, value)


class MapSimilarity(PerImageMetric):
    """Similarity of the maps of an image under several seeds or settings, averaged over all pairs.

    Reports SSIM with 5 x 5 windows, the Pearson correlation of histograms of oriented gradients
    (16 x 16 cells), and the Spearman correlation of the pixels. Equal maps give 1. A pair with a
    constant map has no correlation and is left out of HOG and Spearman. An image has no value if
    one of its maps is not finite.

    A variant is a dict of settings that are assigned to attributes of the explainer. It affects
    what `attribute` reads, but nothing that the constructor has already built. Methods that lack
    one of the settings have no value.

    Source: Agarwal & Nguyen, ACCV 2020, section 4.4, with scikit-image.

    Differences from the released code:
        - Masks are compared as they are, with data range 1.
        - Other maps are first divided by their largest magnitude and compared with data range 2.
          Published are raw maps in [-1, 1] with data range 2.

    Cost: one explanation for each variant that differs from the current settings.

    Range: [-1, 1].

    Blind to: whether the maps are right: a method without randomness is best.

    Args:
        seeds: Seeds to compare, a short form of one variant for each seed. Five were published.
        variants: Settings to compare, such as `[{patch: 17}, {patch: 29}]`.

    Raises:
        ValueError: Unless exactly one of the two is given, with at least two entries.
    """

    names = ("SSIM", "HOG", "Spearman")
    needs = ("images", "targets", "maps", "explainer")

    def __init__(
        self, seeds: list[int] | None = None, variants: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__()
        if (seeds is None) == (variants is None):
            raise ValueError("MapSimilarity needs either seeds, such as [0, 1], or variants")
        self.variants = [{"seed": s} for s in seeds] if seeds is not None else list(variants or [])
        if len(self.variants) < 2:
            raise ValueError(
                f"MapSimilarity compares at least two runs, got {len(self.variants)} of them"
            )

    def score(
        self, images: Tensor, targets: Tensor, maps: Tensor, explainer: Any
    ) -> dict[str, Tensor]:
        """Mean similarities (B,) over all pairs of runs on images (B, 3, H, W)."""
        if any(not hasattr(explainer, name) for v in self.variants for name in v):
            return {name: torch.full((len(maps),), torch.nan) for name in self.names}
        runs = []
        for variant in self.variants:
            same = all(getattr(explainer, name) == value for name, value in variant.items())
            with changed(explainer, variant):
                runs.append(exact(maps if same else explainer.attribute(images, targets)))
        known = torch.stack([finite(run) for run in runs]).all(dim=0)
        runs = [run.where(known[:, None, None], 0.0) for run in runs]
        if not explainer.is_mask:
            runs = [run / _magnitude(run) for run in runs]
        features, ranks = [hog(run) for run in runs], [_ranks(run) for run in runs]
        pairs = list(itertools.combinations(range(len(runs)), 2))
        data_range = 1.0 if explainer.is_mask else 2.0
        found = (
            [ssim(runs[i], runs[j], data_range) for i, j in pairs],
            [torch.from_numpy(pearson(features[i], features[j])) for i, j in pairs],
            [torch.from_numpy(pearson(ranks[i], ranks[j])) for i, j in pairs],
        )
        return {
            name: torch.stack(values).nanmean(dim=0).masked_fill(~known, torch.nan)
            for name, values in zip(self.names, found, strict=True)
        }


def _magnitude(maps: Tensor) -> Tensor:
    largest = maps.abs().amax(dim=(1, 2), keepdim=True)
    return largest.where(largest > 0, 1.0)
