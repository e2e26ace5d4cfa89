"""Adaptive budgets: an image gets samples until the ranking of its map is certain enough."""

import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from scipy import stats
from torch import Tensor

FEWEST = 128  # samples before the first decision, of methods that draw masks


def check_tolerance(tolerance: float | None, total: int, first: int = FEWEST) -> None:
    """Checks that a tolerance is None, for a fixed budget, or a number in (0, 1) that can be met.

    Args:
        tolerance: Standard error at which an image needs no more samples.
        total: Number of samples that no image exceeds.
        first: Number of samples before the first decision.

    Raises:
        ValueError: If it is not, or the budget ends before it is judged.
    """
    if tolerance is None:
        return
    if not (isinstance(tolerance, int | float) and 0.0 < tolerance < 1.0):
        raise ValueError(
            "tolerance must be in (0, 1), such as 0.2, or null for the full budget, "
            f"got {tolerance!r}"
        )
    if total <= first:
        raise ValueError(
            f"tolerance is first judged after {first} samples, and the budget is {total}: take a "
            "larger one, or tolerance null"
        )


def checkpoints(total: int, first: int = FEWEST) -> list[int]:
    """Numbers of samples after which a budget is judged: `first`, doubled until `total`.

    Example:
        >>> checkpoints(1000, 128), checkpoints(100, 128)
        ([128, 256, 512, 1000], [100])
    """
    stops = []
    while first < total:
        stops.append(first)
        first *= 2
    return [*stops, total]


def warn_spent(total: int) -> None:
    """Warns, once, that an image takes all its samples."""
    warnings.warn(
        f"images take all {total} samples, since fewer do not reach the tolerance; the metric"
        " Passes counts those of each image",
        stacklevel=2,
    )


def standard_error(halves: Tensor) -> Tensor:
    """Standard error of the ranks of the pixels of a map, over their standard deviation, (n,).

    The map is computed twice, from two halves of the samples. With Spearman's correlation r of
    these two maps, the reliability of the map of all samples is 2 r / (1 + r) (Spearman-Brown). The
    standard error of measurement is the square root of one minus the reliability, which is
    sqrt((1 - r) / (1 + r)): 0 if the halves rank all pixels alike, 1 if they have nothing in
    common, and more if they contradict each other.

    Source: Spearman, "Correlation calculated from faulty data", and Brown, "Some experimental
    results in the correlation of mental abilities", both British Journal of Psychology 3(3), 1910;
    Lord and Novick, "Statistical Theories of Mental Test Scores", 1968, section 3.

    Args:
        halves: Maps (2, n, k, H, W) of n images and k classes from each half. Of several classes,
            the least certain one counts.

    Returns:
        Standard errors (n,) float64 on the CPU, infinite where a map is constant or not finite.

    Example:
        >>> a = torch.tensor([0.0, 1.0, 2.0, 5.0]).view(1, 1, 2, 2)
        >>> standard_error(torch.stack([a, a**3])).item()
        0.0
    """
    planes = halves.detach().flatten(3).double().cpu().numpy()
    errors = np.full(planes.shape[1:3], np.inf)
    for place in np.ndindex(errors.shape):
        pair = planes[:, *place]
        if np.isfinite(pair).all() and (np.ptp(pair, axis=1) > 0).all():
            ranks = stats.rankdata(pair, axis=1)
            r = float(np.corrcoef(ranks)[0, 1].clip(-1, 1))
            errors[place] = np.sqrt((1 - r) / (1 + r)) if r > -1 else np.inf
    return torch.from_numpy(errors.max(axis=1))


class Budget:
    """Hands out samples to the images of a batch, each until its map is certain enough.

    The decision is made at the numbers of samples of `checkpoints`, for each image from its own
    samples, so that a map depends neither on the batch nor on the size of passes. Samples are added
    up in `parts` sums: one with a fixed budget, else one for each half, that of the even and that
    of the odd samples.

    Args:
        total: Number of samples that no image exceeds.
        tolerance: Standard error, see `standard_error`, at which an image needs no more samples.
            None gives all images all samples.
        images: Number B of images.
        first: Number of samples before the first decision.
    """

    def __init__(
        self, total: int, tolerance: float | None, images: int, first: int = FEWEST
    ) -> None:
        self.total, self.tolerance = total, tolerance
        self.parts = 1 if tolerance is None else 2
        self.rows = list(range(images))  # images that need more samples
        self._stops = [total] if tolerance is None else checkpoints(total, first)
        self._used = torch.full((images,), total)
        self._start = self._stop = 0  # the samples at hand

    def samples(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Batches of samples (n, ...), cut at the checkpoints, until no image needs more.

        Warns, once, if the samples end before the maps of all images are certain enough.
        """
        for batch in batches:
            rest = batch
            while len(rest):
                if not self.rows:
                    return
                room = next(stop for stop in self._stops if stop > self._stop) - self._stop
                part, rest = rest[:room], rest[room:]
                self._start, self._stop = self._stop, self._stop + len(part)
                yield part
        if self.rows and self.tolerance is not None:
            warn_spent(self.total)

    def slices(self) -> list[slice]:
        """Places of the samples at hand that belong to each of the `parts` sums."""
        return [slice((part - self._start) % self.parts, None, self.parts) for part in
                range(self.parts)]  # fmt: skip

    @property
    def is_due(self) -> bool:
        """Whether the samples at hand are followed by a decision."""
        return self._stop in self._stops[:-1]

    def settle(self, halves: Tensor) -> None:
        """Ends the budget of those of the images `rows` whose maps are certain enough.

        Args:
            halves: Maps (2, n, k, H, W) of the images `rows` from each half of their samples.
        """
        certain = (standard_error(halves) <= (self.tolerance or 0.0)).tolist()
        done = [row for row, enough in zip(self.rows, certain, strict=True) if enough]
        self._used[done] = self._stop
        self.rows = [row for row in self.rows if row not in done]

    def counts(self, like: Tensor) -> int | Tensor:
        """Number of samples of every image, (B, 1, ...) like maps (B, ...) if they can differ."""
        if self.tolerance is None:
            return self.total
        return self._used.to(like).view(-1, *[1] * (like.ndim - 1))
