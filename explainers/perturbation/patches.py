"""Random masks made of square patches, and the sums of maps under them.

All masks are drawn at once, but expanded to pixels batch by batch, so that the memory is that of
one batch.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class Patches:
    """n masks made of squares that are kept (1) or removed (0), stored as bits and offsets.

    The grid of squares covers the image. It begins `offset` pixels above and to the left of the
    image.

    Source: SLOC, "Implementation Details - Mask Generation".

    Args:
        size: Height and width of the masks in pixels.
        side: Side of the squares in pixels.
        kept: Whether each square is kept, (n, R, C) bool.
        offsets: Vertical and horizontal offset of each grid in pixels, (n, 2) int64 in [0, side).
    """

    def __init__(self, size: tuple[int, int], side: int, kept: Tensor, offsets: Tensor) -> None:
        self.size, self.side, self.kept, self.offsets = size, side, kept, offsets
        self.rows = self._lines(0)  # (n, R + 1): borders of the squares, clipped to the image
        self.columns = self._lines(1)  # (n, C + 1)

    def _lines(self, axis: int) -> Tensor:
        count = self.kept.shape[1 + axis] + 1
        steps = self.side * torch.arange(count, device=self.kept.device)
        return (steps - self.offsets[:, axis, None]).clamp(0, self.size[axis])

    def part(self, masks: slice) -> "Patches":
        """Some of the masks."""
        return Patches(self.size, self.side, self.kept[masks], self.offsets[masks])

    def areas(self) -> Tensor:
        """Number of kept pixels of each mask, (n,) float32."""
        heights, widths = self.rows.diff()[:, :, None], self.columns.diff()[:, None, :]
        return (self.kept * heights * widths).sum(dim=(1, 2)).float()

    def pixels(self, start: int, stop: int, repeat: int = 1) -> Tensor:
        """Masks `start` to `stop` as pixels, (n, H, W * repeat) float32.

        Each column occurs `repeat` times in succession.
        """
        part = slice(start, stop)
        down, across = (
            _memberships(lines[part], extent)
            for lines, extent in zip((self.rows, self.columns), self.size, strict=True)
        )  # (n, R, H) and (n, C, W)
        wide = self.kept[part].float() @ across.repeat_interleave(repeat, dim=2)
        return down.mT @ wide


def draw_patches(
    count: int,
    size: tuple[int, int],
    side: int,
    probability: float,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Patches:
    """Draws the random patch masks of SLOC, none of which is all zero.

    The offsets are uniform, and the squares are kept independently of each other. A mask that keeps
    no pixel is drawn again, both its offset and its squares.

    Source: SLOC, "Implementation Details - Mask Generation", and the released code.

    Args:
        count: Number of masks.
        size: Height and width of the masks in pixels.
        side: Side of the squares in pixels.
        probability: Probability that a square is kept.
        generator: Random number generator on the CPU, so that every device gets the same masks.
        device: Device of the masks.

    Raises:
        ValueError: If a count or size is below 1, or the probability is not in (0, 1].
    """
    if min(count, side, *size) < 1 or not 0.0 < probability <= 1.0:
        raise ValueError(
            "count, size and side must be positive and probability in (0, 1], "
            f"got {count}, {tuple(size)}, {side} and {probability}"
        )
    rows, columns = ((extent + side - 2) // side + 1 for extent in size)
    kept = torch.zeros(count, rows, columns, dtype=torch.bool)
    offsets = torch.zeros(count, 2, dtype=torch.int64)
    empty = torch.arange(count)
    while len(empty):
        kept[empty] = torch.rand(len(empty), rows, columns, generator=generator) < probability
        offsets[empty] = torch.randint(side, (len(empty), 2), generator=generator)
        empty = (Patches(size, side, kept, offsets).areas() == 0).nonzero()[:, 0]
    return Patches(size, side, kept.to(device), offsets.to(device))


class PatchSums:
    """Sums of maps under M patch masks: those of several `Patches`, concatenated.

    A mask is constant on squares. The sum of a map under it is therefore a weighted sum of a few
    entries of the map's summed-area table, one at each corner of the kept area. For a mask of 50176
    pixels, these are about 26 entries. The result involves no approximation.

    Args:
        groups: Masks of the same size on the same device.
    """

    def __init__(self, groups: Sequence[Patches]) -> None:
        self.groups, self.size = list(groups), groups[0].size
        self.areas = torch.cat([group.areas() for group in groups])
        mask, place, sign = _corners(groups)
        last = self.size[0] * self.size[1] - 1
        self._by_mask = _sparse_sums(mask, place, sign, len(self.areas))
        self._by_place = _sparse_sums(last - place, mask, sign, last + 1)

    def __call__(self, maps: Tensor) -> Tensor:
        """Sums (N, M) of maps (N, H, W) under each mask."""
        table = maps.cumsum(dim=1).cumsum(dim=2).flatten(1)
        return _gather(self._by_mask, table)

    def adjoint(self, weights: Tensor) -> Tensor:
        """Weighted sums (N, H, W) of the masks, with weights (N, M)."""
        backwards = _gather(self._by_place, weights).reshape(-1, *self.size)
        return backwards.cumsum(dim=1).cumsum(dim=2).flip(1, 2)

    def spectra(
        self, down: Tensor, across: Tensor, rows: int = 16
    ) -> Iterator[tuple[slice, Tensor]]:
        """Masks in another basis: `down` (P, H) times the mask times `across` (Q, W) transposed.

        Yields:
            A slice of at most `rows` of the P rows, and these rows of all transformed masks,
            (M, p, Q).
        """
        sides = [
            (
                _between(down, group.rows),
                group.kept.to(down) @ _between(across, group.columns),
            )
            for group in self.groups
        ]
        for start in range(0, len(down), rows):
            part = slice(start, start + rows)
            yield part, torch.cat([tall[:, :, part].mT @ wide for tall, wide in sides])


def _between(basis: Tensor, lines: Tensor) -> Tensor:
    """Sums (n, k, P) of a basis (P, H) over the pixels between neighboring lines (n, k + 1)."""
    return F.pad(basis.cumsum(dim=1), (1, 0)).mT[lines].diff(dim=1)


def _corners(groups: Sequence[Patches]) -> tuple[Tensor, Tensor, Tensor]:
    """Mask, entry of the summed-area table and weight of every corner of every mask."""
    masks, places, signs, first = [], [], [], 0
    for group in groups:
        bits = F.pad(group.kept.float(), (1, 1, 1, 1))
        turns = bits[:, :-1, :-1] - bits[:, :-1, 1:] - bits[:, 1:, :-1] + bits[:, 1:, 1:]
        # Sums over the pixels above or to the left of the image are 0.
        inside = (group.rows > 0)[:, :, None] & (group.columns > 0)[:, None, :]
        used = (turns != 0) & inside
        entry = (group.rows - 1)[:, :, None] * group.size[1] + (group.columns - 1)[:, None, :]
        masks.append(used.nonzero()[:, 0] + first)
        places.append(entry[used])
        signs.append(turns[used])
        first += len(bits)
    return torch.cat(masks), torch.cat(places), torch.cat(signs)


SparseSums = tuple[Tensor, Tensor, Tensor]  # indices of the terms, weights, start of each sum


def _sparse_sums(keys: Tensor, values: Tensor, factors: Tensor, count: int) -> SparseSums:
    """Terms sorted by their key in [0, count), so that each sum is a contiguous range."""
    order = keys.argsort(stable=True)
    ends = keys.bincount(minlength=count).cumsum(dim=0)
    starts = F.pad(ends[:-1], (1, 0))
    return values[order], factors[order], starts


def _gather(rows: SparseSums, entries: Tensor) -> Tensor:
    """Weighted sums (N, count) of entries (N, P)."""
    index, factors, starts = rows
    columns = entries.mT.contiguous()
    sums = F.embedding_bag(
        index, columns, starts, mode="sum", per_sample_weights=factors.to(columns)
    )
    return sums.mT


def _memberships(lines: Tensor, extent: int) -> Tensor:
    """Indicators (n, k, extent): 1 for pixels between two neighboring lines (n, k + 1), else 0."""
    pixels = torch.arange(extent, device=lines.device)
    before = (pixels < lines[:, :, None]).float()
    return before.diff(dim=1)
