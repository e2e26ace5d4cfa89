"""Responses of a classifier to images under random patch masks: the forward passes of SLOC."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypedDict
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import content
from explainers.functional.content import Content
from explainers.functional.fills import Inpainted
from explainers.perturbation.adaptive import checkpoints, warn_spent
from explainers.perturbation.patches import Patches, PatchSums, draw_patches
from explainers.perturbation.viewer import Viewer

CANDIDATES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)


class PatchOptions(TypedDict, total=False):
    """Options of the random masks, which are made of squares that are kept or removed.

    Args:
        sides: Side of the squares, or several sides, in pixels of an image whose shorter side is
            224 pixels. They are scaled to the shorter side of the given images. The masks are
            divided evenly among the sides.
        probability: Probability that a square is kept: one number, or one for each side. The
            paper's SLOC_xp uses 0.2 for ViT-B, 0.3 for ViT-S, and 0.6 for ResNet50 and DenseNet201.
            None chooses among 0.2, 0.25, ..., 0.8 for each image and side: the candidate for which
            the responses vary most.
        tuning_masks: Number of masks with which each of these candidates is tested.
    """

    sides: int | list[int]
    probability: float | list[float] | None
    tuning_masks: int


PATCHES: PatchOptions = {"sides": [32, 56], "probability": None, "tuning_masks": 50}


@dataclass(frozen=True)
class Sampling:
    """Setting of the masks and of the forward passes.

    Args:
        sides: Sides of the squares in pixels.
        counts: Number of masks for each side.
        probabilities: Probability that a square is kept, for each side. None chooses one of
            `CANDIDATES` for each image: the one for which the responses of the predicted class have
            the largest standard deviation.
        tuning_masks: Number of masks with which each candidate is tested.
        seed: Seed of all masks.
        batch_size: Number of masked images in a forward pass.
        channels_last: Whether the batches use the channels-last memory layout. None takes
            `Explanandum.channels_last`.
    """

    sides: tuple[int, ...]
    counts: tuple[int, ...]
    probabilities: tuple[float | None, ...]
    tuning_masks: int
    seed: int
    batch_size: int = field(compare=False)
    channels_last: bool | None = field(compare=False)

    def forwards(self) -> int:
        """Number of masked images shown to the classifier for each image."""
        tuned = self.probabilities.count(None) * len(CANDIDATES) * self.tuning_masks
        return tuned + sum(self.counts)


class MaskResponses(NamedTuple):
    """Responses of those images of a batch that share a set of masks.

    Attributes:
        rows: Indices of these images in the batch, (n,) int64.
        sums: The M masks, which give the sums of maps under them.
        responses: Probability of each class under each mask minus its probability for the fill,
            (n, k, M).
    """

    rows: Tensor
    sums: PatchSums
    responses: Tensor

    def halves(self) -> list["MaskResponses"]:
        """Responses to the even and to the odd masks of each side."""
        counts = tuple(len(group.kept) for group in self.sums.groups)
        parts = torch.split(self.responses, list(counts), dim=2)
        return [
            MaskResponses(
                self.rows,
                _some(self.sums, counts, first, 2),
                torch.cat([part[:, :, first::2] for part in parts], dim=2),
            )
            for first in range(2)
        ]


Settled = Callable[[MaskResponses], Tensor]  # which of its images (n,) need no more masks
ResponseSet = tuple[Tensor, list[MaskResponses]]
_LAST: WeakKeyDictionary[Explanandum, tuple[tuple[Content, ...], dict[Sampling, ResponseSet]]]
_LAST = WeakKeyDictionary()


@torch.no_grad()
def measure_responses(
    explanandum: Explanandum,
    images: Tensor,
    fills: Content,
    classes: Tensor,
    sampling: Sampling,
    share: bool = False,
    settled: Settled | None = None,
) -> ResponseSet:
    """Responses of the classes of each image, to the whole image and to the masked images.

    A response is the probability of the class minus its probability for the fill alone. The number
    of forward passes is one for each image, one for each fill, and `sampling.forwards()` for each
    image.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        fills: Content that replaces masked pixels, (1, 3, H, W) or (B, 3, H, W), or an inpainter.
        classes: Classes to measure, (B, k) int64.
        sampling: Setting of the masks.
        share: Whether to return the result of an earlier call with the same sampling, if there is
            one. It is only used if that call and all later calls with `share` had these images,
            fills and classes, and if the classifier still gives the same probabilities for the
            images and fills.
        settled: Function that is asked after 128, 256, 512, ... masks which of the images need no
            more. None shows all masks to all images.

    Returns:
        The responses to the whole images (B, k), and one `MaskResponses` for every set of masks.
        With `settled`, images that were shown different numbers of masks have different sets.
    """
    batch = sampling.batch_size
    clean, filled = (
        torch.cat([explanandum.probabilities(part) for part in torch.split(pictures, batch)])
        for pictures in (images, content.pixels_without_image(fills, images[:1]))
    )
    facts = (images, fills, classes, clean, filled)
    known: dict[Sampling, ResponseSet] = {}
    if share:
        seen, known = _LAST.get(explanandum, ((), {}))
        if len(seen) == 0 or not all(map(_same, seen, facts)):
            known = {}
        _LAST[explanandum] = facts, known
    if sampling not in known:
        base = filled.expand(len(images), -1).gather(1, classes)
        view = _View(explanandum, images, fills, sampling)
        with view.viewer.bar:
            keep = _choose(view, clean.argmax(dim=1, keepdim=True))
            found = [
                part
                for chosen in sorted(set(keep))
                for part in _respond(view, classes, base, keep, chosen, settled)
            ]
        known[sampling] = clean.gather(1, classes) - base, found
    return known[sampling]


def _same(a: Content, b: Content) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.device == b.device and torch.equal(a, b)
    return isinstance(a, Inpainted) and isinstance(b, Inpainted) and a.name == b.name != ""


def _choose(view: "_View", top: Tensor) -> list[tuple[float, ...]]:
    """Keep probabilities of each image, one for each side."""
    sampling, size = view.sampling, view.viewer.size
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
            group = draw_patches(
                sampling.tuning_masks, size, side, candidate, generator, top.device
            )
            seen = view.probabilities(group, torch.arange(len(top)), top)
            spreads.append(seen[:, 0].std(dim=1, correction=0))
        columns.append([CANDIDATES[i] for i in torch.stack(spreads).argmax(dim=0).tolist()])
    return list(zip(*columns, strict=True))


def _respond(
    view: "_View",
    classes: Tensor,
    base: Tensor,
    keep: list[tuple[float, ...]],
    chosen: tuple[float, ...],
    settled: Settled | None,
) -> list[MaskResponses]:
    """Responses of the images whose keep probabilities are `chosen`."""
    sums = _mask_set(view.sampling, view.viewer.size, chosen, classes.device)
    rows = torch.tensor([row for row, own in enumerate(keep) if own == chosen])
    total = len(sums.areas)
    seen = [base.new_empty(len(rows), classes.shape[1], 0) for _ in sums.groups]
    found: list[MaskResponses] = []
    for stop in checkpoints(total) if settled else [total]:
        counts = tuple(stop * count // total for count in view.sampling.counts)
        for i, group in enumerate(sums.groups):
            new = group.part(slice(seen[i].shape[2], counts[i]))
            if len(new.kept):
                seen[i] = torch.cat([seen[i], view.probabilities(new, rows, classes)], dim=2)
        part = _some(sums, counts) if stop < total else sums
        shown = MaskResponses(rows, part, torch.cat(seen, dim=2) - base[rows, :, None])
        if settled is None or stop == total:
            if settled:
                warn_spent(total)
            return [*found, shown]
        done = settled(shown)
        if done.any():
            found.append(MaskResponses(rows[done], part, shown.responses[done]))
            rows, seen = rows[~done], [each[~done] for each in seen]
        if not len(rows):
            break
    return found


@lru_cache(maxsize=64)
def _some(sums: PatchSums, counts: tuple[int, ...], first: int = 0, step: int = 1) -> PatchSums:
    """Of the first masks of each side every `step`-th, as the same object in later calls."""
    groups = zip(sums.groups, counts, strict=True)
    return PatchSums([group.part(slice(first, count, step)) for group, count in groups])


@lru_cache(maxsize=16)
def _mask_set(
    sampling: Sampling, size: tuple[int, int], keep: tuple[float, ...], device: torch.device
) -> PatchSums:
    """Masks from fresh generators, one for each side, so that one set serves all images."""
    parts = zip(sampling.counts, sampling.sides, keep, _seeds(sampling)[0], strict=True)
    return PatchSums(
        [
            draw_patches(count, size, side, p, torch.Generator().manual_seed(seed), device)
            for count, side, p, seed in parts
        ]
    )


def _seeds(sampling: Sampling) -> list[list[int]]:
    """Seeds of the masks of each side, and of its masks for tuning."""
    generator = torch.Generator().manual_seed(sampling.seed)
    seeds: list[list[int]] = torch.randint(
        2**62, (2, len(sampling.sides)), generator=generator
    ).tolist()
    return seeds


class _View:
    """Shows the images of a call, masked by their fills, to the classifier."""

    def __init__(
        self, explanandum: Explanandum, images: Tensor, fills: Content, sampling: Sampling
    ) -> None:
        self.sampling = sampling
        layout = (sampling.batch_size, sampling.channels_last)
        total = len(images) * sampling.forwards()
        self.viewer = Viewer(explanandum, images, *layout, "SLOC", total)
        self.images, self.fills = self.viewer.planes(images), self.viewer.planes(fills)

    def probabilities(self, group: Patches, rows: Tensor, classes: Tensor) -> Tensor:
        """Probabilities (n, k, m) of classes (B, k) for the images `rows` (n,) under m masks."""
        batch, found = self.sampling.batch_size, []
        for start in range(0, len(group.kept), batch):
            keep = group.pixels(start, start + batch, self.viewer.repeat)
            part = []
            for row in rows.tolist():
                image, fill = self.images[row], self.fills
                if isinstance(fill, Tensor):
                    fill = fill[row % len(fill)]
                part.append(self.viewer.masked(image, fill, keep)[:, classes[row]].mT)
            found.append(torch.stack(part))
        return torch.cat(found, dim=2)
