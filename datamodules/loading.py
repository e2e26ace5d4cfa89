"""Loaders that leave out images that cannot be read, and tell which."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch.distributed
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, default_collate

from datamodules.listing import shown

Batch = dict[str, Any]


class Unreadable(NamedTuple):
    """Name of an image that cannot be read, in place of its sample, and the reason in one line."""

    name: str
    reason: str


class PartialBatch(NamedTuple):
    """Batch of the readable images, or None if there are none, and the images left out of it."""

    batch: Batch | None
    unreadable: list[Unreadable]


def collate(samples: Sequence[Batch | Unreadable]) -> Batch | PartialBatch:
    """Combine samples into a batch, or into a `PartialBatch` if some of them are unreadable."""
    good = [sample for sample in samples if not isinstance(sample, Unreadable)]
    if len(good) == len(samples):
        batch: Batch = default_collate(good)
        return batch
    bad = [sample for sample in samples if isinstance(sample, Unreadable)]
    return PartialBatch(default_collate(good) if good else None, bad)


class SkippedImages:
    """Images of a data set that could not be read so far, in the main process.

    Args:
        total: Number of images of the data set.
        allowed: Whether images may be left out. If not, the first one raises an error.
    """

    def __init__(self, total: int, allowed: bool) -> None:
        self.total, self.allowed = total, allowed
        self.clear()

    def clear(self) -> None:
        """Forget all images, for another run on the same data."""
        self.reasons: dict[str, str] = {}
        self.said = 0

    def add(self, unreadable: Sequence[Unreadable]) -> None:
        """Note images that could not be read.

        Raises:
            ValueError: If images may not be left out.
        """
        if not self.allowed:
            (name, reason), more = unreadable[0], len(unreadable) - 1
            also = f" (and {more} more images of its batch)" if more else ""
            raise ValueError(f"{shown(name)}: {reason}{also}; on_error: skip leaves such files out")
        self.reasons.update(unreadable)

    def check(self) -> None:
        """Check that at least one image of the data set could be read.

        Raises:
            ValueError: If none could.
        """
        if len(self.reasons) >= self.total:
            raise ValueError(
                f"none of the {self.total} images could be read: {self._examples()};"
                " on_error: raise shows the first error in full"
            )

    def say(self) -> None:
        """Warn of the images left out, with their number, unless that was said before."""
        if len(self.reasons) > self.said:
            self.said = len(self.reasons)
            rank_zero_warn(
                f"{self.said} of {self.total} images could not be read and were left out:"
                f" {self._examples()}"
            )

    def _examples(self) -> str:
        first, *others = list(self.reasons)[:3]
        return ", ".join([f"{shown(first)} ({self.reasons[first]})", *map(shown, others)])


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gather(records: Sequence[SkippedImages]) -> None:
    """Share the images left out among all processes, which must all call this."""
    if _distributed():
        shares: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, [record.reasons for record in records])
        for record, *parts in zip(records, *shares, strict=True):
            merged = {name: reason for part in parts for name, reason in part.items()}
            record.reasons = dict(sorted(merged.items()))


class ImageLoader(DataLoader[Batch]):
    """Loader of a data set with `skipped` images, which are left out of the batches.

    Batches without any readable image are not returned. With several processes, the images left out
    are told at the end of the run instead of here, when all of them are known.
    """

    needs_every_batch = False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over the batches of readable images.

        Raises:
            ValueError: If an image cannot be read and may not be left out, or none can be read.
        """
        skipped = getattr(self.dataset, "skipped", None) or SkippedImages(0, allowed=False)
        alone, returned = not _distributed(), 0
        if alone:
            skipped.say()
        for batch in super().__iter__():
            if isinstance(batch, PartialBatch):
                skipped.add(batch.unreadable)
                if batch.batch is None and self.needs_every_batch:
                    (name, reason), size = batch.unreadable[0], len(batch.unreadable)
                    raise ValueError(
                        f"none of the {size} images of a training batch could be read:"
                        f" {shown(name)} ({reason}); replace the files, or raise batch_size"
                    )
                batch = batch.batch
            if batch is not None:
                returned += 1
                yield batch
        if alone and skipped.reasons:
            if not returned:
                skipped.check()
            skipped.say()
