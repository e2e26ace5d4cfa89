"""What a classifier says of images behind random patch masks: the forward passes of SLOC."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from tqdm import tqdm

from explainers.explanandum.frozen import Explanandum
from explainers.perturbation import patches

CANDIDATES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)


@dataclass(frozen=True)
class Sampling:
    """Which masks are shown, and how.

    Args:
        sides: Sides of the squares in pixels.
        counts: Masks of each side.
        probabilities: Probability that a square is kept, for each side. None is chosen for each
            image among `CANDIDATES`: where the responses of the predicted class have the largest
            standard deviation.
        tuning_masks: Masks a candidate for that choice.
        seed: Of all masks.
        batch_size: Masked images in a forward pass.
        channels_last: Memory layout of these batches.
    """

    sides: tuple[int, ...]
    counts: tuple[int, ...]
    probabilities: tuple[float | None, ...]
    tuning_masks: int
    seed: int
    batch_size: int = field(compare=False)
    channels_last: bool = field(compare=False)

    def forwards(self) -> int:
        """Masked images shown to the classifier for each image."""
        tuned = self.probabilities.count(None) * len(CANDIDATES) * self.tuning_masks
        return tuned + sum(self.counts)


class Measured(NamedTuple):
    """The responses of those images of a batch that share a mask set.

    Attributes:
        rows: Which images, (n,) int64.
        sums: The masks.
        responses: Probability of each class under each mask less that of the fill, (n, k, M).
    """

    rows: Tensor
    sums: patches.PatchSums
    responses: Tensor


Found = tuple[Tensor, list[Measured]]
_LAST: WeakKeyDictionary[Explanandum, tuple[tuple[Tensor, ...], dict[Sampling, Found]]]
_LAST = WeakKeyDictionary()


@torch.no_grad()
def measure(
    explanandum: Explanandum,
    images: Tensor,
    fills: Tensor,
    classes: Tensor,
    sampling: Sampling,
    share: bool = False,
) -> Found:
    """Responses of the classes to their image, whole and masked.

    Forward passes: one for each image and each fill, and `sampling.forwards()` for each image.

    Args:
        explanandum: The classifier.
        images: (B, 3, H, W) in [0, 1].
        fills: What masks show instead, (1, 3, H, W) or (B, 3, H, W).
        classes: (B, k) int64.
        sampling: The masks.
        share: Return what a call with the same sampling found, if it was about these images, fills
            and classes like all since, and the classifier still answers the same for the images.

    Returns:
        The response to the whole image (B, k), and one `Measured` for every mask set.
    """
    batch = sampling.batch_size
    clean, filled = (
        torch.cat([explanandum.probabilities(part) for part in torch.split(pictures, batch)])
        for pictures in (images, fills)
    )
    facts = (images, fills, classes, clean, filled)
    known: dict[Sampling, Found] = {}
    if share:
        seen, known = _LAST.get(explanandum, ((), {}))
        if len(seen) == 0 or not all(map(_same, seen, facts)):
            known = {}
        _LAST[explanandum] = facts, known
    if sampling not in known:
        base = filled.expand(len(images), -1).gather(1, classes)
        viewer = _Viewer(explanandum, images, fills, sampling)
        with viewer.bar:
            keep = _choose(viewer, clean.argmax(dim=1, keepdim=True))
            found = [_respond(viewer, classes, base, keep, p) for p in sorted(set(keep))]
        known[sampling] = clean.gather(1, classes) - base, found
    return known[sampling]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and torch.equal(a, b)


def _choose(viewer: "_Viewer", top: Tensor) -> list[tuple[float, ...]]:
    """Keep probabilities of each image, one a side."""
    sampling, size = viewer.sampling, viewer.size
    columns = []
    for number, (side, fixed) in enumerate(
        zip(sampling.sides, sampling.probabilities, strict=True)
    ):
        if fixed is not None:
            columns.append([fixed] * len(top))
            continue
        spreads = []
        for candidate in CANDIDATES:
            generator = torch.Generator().manual_seed(_seeds(sampling)[1][number])
            group = patches.patches(
                sampling.tuning_masks, size, side, candidate, generator, top.device
            )
            seen = viewer.probabilities(group, torch.arange(len(top)), top)
            spreads.append(seen[:, 0].std(dim=1, correction=0))
        columns.append([CANDIDATES[i] for i in torch.stack(spreads).argmax(dim=0).tolist()])
    return list(zip(*columns, strict=True))


def _respond(
    viewer: "_Viewer",
    classes: Tensor,
    base: Tensor,
    keep: list[tuple[float, ...]],
    chosen: tuple[float, ...],
) -> Measured:
    """Responses of the images whose keep probabilities are the chosen ones."""
    sums = _mask_set(viewer.sampling, viewer.size, chosen, classes.device)
    rows = torch.tensor([row for row, own in enumerate(keep) if own == chosen])
    seen = [viewer.probabilities(group, rows, classes) for group in sums.groups]
    return Measured(rows, sums, torch.cat(seen, dim=2) - base[rows, :, None])


@lru_cache(maxsize=16)
def _mask_set(
    sampling: Sampling, size: tuple[int, int], keep: tuple[float, ...], device: torch.device
) -> patches.PatchSums:
    """The masks; a fresh generator for each side, so that one set serves all images."""
    parts = zip(sampling.counts, sampling.sides, keep, _seeds(sampling)[0], strict=True)
    return patches.PatchSums(
        [
            patches.patches(count, size, side, p, torch.Generator().manual_seed(seed), device)
            for count, side, p, seed in parts
        ]
    )


def _seeds(sampling: Sampling) -> list[list[int]]:
    """Seeds of each side's masks, and of its masks for tuning."""
    generator = torch.Generator().manual_seed(sampling.seed)
    seeds: list[list[int]] = torch.randint(
        2**62, (2, len(sampling.sides)), generator=generator
    ).tolist()
    return seeds


class _Viewer:
    """Shows images behind masks to the classifier, in full batches made in one buffer."""

    def __init__(
        self, explanandum: Explanandum, images: Tensor, fills: Tensor, sampling: Sampling
    ) -> None:
        self.explanandum, self.sampling = explanandum, sampling
        self.size = (images.shape[-2], images.shape[-1])
        self.images, self.fills = self._planes(images), self._planes(fills)
        self.buffer = images.new_empty(sampling.batch_size, *self.images.shape[1:])
        total = len(images) * sampling.forwards()
        # A bar only in terminals, and only for what takes longer than a second.
        self.bar: tqdm[Any] = tqdm(None, "SLOC", total, leave=False, delay=1, disable=None)

    def _planes(self, images: Tensor) -> Tensor:
        """Pixels in the order of memory: (B, H W 3) if channels_last, else (B, 3, H W)."""
        if self.sampling.channels_last:
            return images.permute(0, 2, 3, 1).flatten(1)
        return images.flatten(2)

    def probabilities(self, group: patches.Patches, rows: Tensor, classes: Tensor) -> Tensor:
        """Probabilities (n, k, m) of classes (B, k) of the images `rows` under masks."""
        last, batch, found = self.sampling.channels_last, self.sampling.batch_size, []
        for start in range(0, len(group.kept), batch):
            keep = group.pixels(start, start + batch, 3 if last else 1).flatten(1)
            shown = self.buffer[: len(keep)]
            part = []
            for row in rows.tolist():
                image, fill = self.images[row], self.fills[row % len(self.fills)]
                torch.addcmul(fill, image - fill, keep if last else keep[:, None], out=shown)
                pictures = (
                    shown.view(-1, *self.size, 3).permute(0, 3, 1, 2)
                    if last
                    else shown.view(-1, 3, *self.size)
                )
                part.append(self.explanandum.probabilities(pictures)[:, classes[row]].mT)
                self.bar.update(len(keep))
            found.append(torch.stack(part))
        return torch.cat(found, dim=2)
