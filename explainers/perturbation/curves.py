"""One engine for all perturbation curves: replace pixels in the order of a map, watch a classifier.

Deletion, insertion, POS, NEG, "keep the top k": each is a `Curve`. All curves of a call run
together: states that several curves visit are shown to the classifier once, and every perturbed
image goes through one queue that is flushed in full batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional.fills import Fill, FillName, Inpainted
from explainers.options import check_choices
from explainers.perturbation.queue import Queue, ResponseTable

Order = Literal["most", "least"]
State = tuple[Any, Order | None, int]  # fill, which end of the ranking is replaced, replaced pixels


@dataclass(frozen=True, eq=False)
class Curve:
    """The setting of a curve of n + 1 points, from `start` to the other end.

    Args:
        order: Which pixels change first: the "most" or the "least" relevant. Pixels are ranked by
            (value, index), "most" from the end: of equal pixels the later changes first, and one
            order is the exact reverse of the other.
        start: "image": pixels are replaced by the fill; "fill": they are restored from the image.
        fill: A name of `fills.fill` ("images" takes another image of the batch), a tensor
            broadcastable to (B, 3, H, W), or a `Fill`, which gets images (1, 3, H, W). Curves of a
            call that share a fill must share the name or the object.
        steps: n equal steps; at fraction f the replaced pixels are f H W, rounded down.
        pixels: Changed pixels a step; the last step takes what is left.
        counts: Changed pixels at each point, for anything else.

    Raises:
        ValueError: If not exactly one of steps, pixels and counts is given, or one is negative.
    """

    order: Order = "most"
    start: Literal["image", "fill"] = "image"
    fill: FillName | Tensor | Fill = "mean"
    steps: int | None = None
    pixels: int | None = None
    counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_choices(Curve, vars(self))
        if sum(x is not None for x in (self.steps, self.pixels, self.counts)) != 1:
            raise ValueError("a curve needs exactly one of steps, pixels and counts")
        if any(x is not None and x < 1 for x in (self.steps, self.pixels)):
            raise ValueError(f"expected at least 1, got steps={self.steps}, pixels={self.pixels}")

    def replaced(self, size: int) -> list[int]:
        """Pixels that show the fill at each point, for images of `size` pixels.

        Raises:
            ValueError: If `counts` do not lie in [0, size].

        Example:
            >>> Curve(steps=4).replaced(6), Curve(start="fill", pixels=4).replaced(6)
            ([0, 1, 3, 4, 6], [6, 2, 0])
        """
        forward = self.start == "image"
        if self.steps is not None:
            counts = [size * j // self.steps for j in range(self.steps + 1)]
            return counts if forward else counts[::-1]
        if self.pixels is not None:
            changed = [*range(0, size, self.pixels), size]
        else:
            changed = list(self.counts or ())
            if not changed or not 0 <= min(changed) <= max(changed) <= size:
                raise ValueError(f"counts must lie in [0, {size}], got {self.counts}")
        return changed if forward else [size - c for c in changed]

    def states(self, size: int) -> list[State]:
        """What is shown at each point, so that equal states of different curves are equal here."""
        fill = self.fill if isinstance(self.fill, str) else id(self.fill)
        opposite: Order = "least" if self.order == "most" else "most"
        end = self.order if self.start == "image" else opposite
        return [
            ("image", None, 0) if c == 0 else (fill, None if c == size else end, c)
            for c in self.replaced(size)
        ]


class Responses(NamedTuple):
    """What the classifier said along a curve, (B, n + 1) on the CPU.

    Attributes:
        probability: Of the followed class, float64 in [0, 1].
        logit: Of the followed class, float64.
        top: The most probable class, int64.
        clean: The most probable class of the image itself, (B,) int64; -1 if no curve shows it.
    """

    probability: Tensor
    logit: Tensor
    top: Tensor
    clean: Tensor


@torch.no_grad()
def run(
    explanandum: Explanandum,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    curves: Sequence[Curve],
    batch_size: int = 16,
    channels_last: bool = True,
    seed: int = 0,
) -> list[Responses]:
    """Responses along each curve.

    Images shown to the classifier: B times the number of distinct states. With curves of n equal
    steps (n <= H W) that is B (1 + fills + sum of (n - 1) over distinct sequences), where a curve
    and its reverse (other order, other start, same fill) are one sequence: 2 n + 1 an image for a
    deletion and an insertion with two fills, 2 n with one fill. They come in full batches but for
    the last. Own memory: one batch and a few images, whatever the steps and the number of images.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        maps: Relevance (B, H, W); only its order counts.
        targets: The class to follow, one-hot (B, K) bool.
        curves: What to run.
        batch_size: Images a forward pass.
        channels_last: Memory layout of the batches; which is faster depends on the network.
        seed: Of the fills "noise" and "images", the same stream for every image.

    Raises:
        ValueError: If shapes do not fit, a map is not a number, or targets are not one-hot.
    """
    _check(images, maps, targets, batch_size)
    size = maps.shape[1] * maps.shape[2]
    wanted = [curve.states(size) for curve in curves]
    slots = {state: i for i, state in enumerate(dict.fromkeys(s for w in wanted for s in w))}
    fills = {c.fill if isinstance(c.fill, str) else id(c.fill): c.fill for c in curves}
    sources = {k: _source(explanandum, images, fill, seed) for k, fill in fills.items()}
    answers = ResponseTable(explanandum, targets.int().argmax(dim=1).to(images.device), len(slots))
    plain = Queue(answers, images, batch_size, channels_last)
    queues = {
        key: Queue(answers, images, batch_size, channels_last, fill.inpaint)
        if isinstance(fill, Inpainted)
        else plain
        for key, fill in fills.items()
    }
    for row in range(len(images)):
        if (slot := slots.get(("image", None, 0))) is not None:
            plain.push(plain.pixels(images[row], keep=1.0), row, slot)
        ranking = maps[row].flatten().to(images.device).argsort(stable=True)
        for key, source in sources.items():
            _walk(queues[key], images[row], source(row), ranking, row, _part(slots, key))
    for queue in dict.fromkeys([plain, *queues.values()]):
        queue.flush()
    picked = [torch.tensor([slots[s] for s in states]) for states in wanted]
    probability, logit = answers.probability.cpu().double(), answers.logit.cpu().double()
    top = answers.top.cpu()
    whole = slots.get(("image", None, 0))
    clean = top.new_full((len(top),), -1) if whole is None else top[:, whole]
    return [Responses(probability[:, i], logit[:, i], top[:, i], clean) for i in picked]


def auc(
    values: Tensor,
    rule: Literal["trapezoid", "mean"] = "trapezoid",
    start: float = 0.0,
    end: float = 1.0,
    skip_first: bool = False,
) -> Tensor:
    """Mean height (B,) of curves (B, n + 1) whose points count as equally far apart.

    Args:
        values: Points of each curve.
        rule: "trapezoid": the ends count half, as (sum - (first + last) / 2) / n; "mean": of all.
        start: Fraction of the steps where the part begins that counts.
        end: Fraction where it ends.
        skip_first: Leave out the first of these points.

    Raises:
        ValueError: If no point, or for "trapezoid" only one, is left, or `rule` is unknown.

    Example:
        >>> auc(torch.tensor([[1.0, 0.5, 0.0, 0.0, 0.5]])).tolist()
        [0.3125]
        >>> auc(torch.tensor([[1.0, 0.5, 0.0, 0.0, 0.5]]), "mean", skip_first=True).tolist()
        [0.25]
    """
    if rule not in ("trapezoid", "mean"):
        raise ValueError(f"rule must be 'trapezoid' or 'mean', got {rule!r}")
    steps = max(1, values.shape[1] - 1)
    kept = [j for j in range(values.shape[1]) if start - 1e-9 <= j / steps <= end + 1e-9]
    part = values[:, kept[1:] if skip_first else kept]
    needed = 1 if rule == "mean" else 2
    if part.shape[1] < needed:
        raise ValueError(
            f"{part.shape[1]} of {values.shape[1]} points lie in [{start}, {end}]; need {needed}"
        )
    if rule == "mean":
        return part.mean(dim=1)
    return (part.sum(dim=1) - (part[:, 0] + part[:, -1]) / 2) / (part.shape[1] - 1)


def _check(images: Tensor, maps: Tensor, targets: Tensor, batch_size: int) -> None:
    if images.ndim != 4 or maps.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(
            f"expected images (B, 3, H, W) and maps (B, H, W), got {tuple(images.shape)} "
            f"and {tuple(maps.shape)}"
        )
    if targets.shape[0] != images.shape[0] or bool((targets.sum(dim=1) != 1).any()):
        raise ValueError("a curve follows one class an image: targets must be one-hot (B, K)")
    if bool(maps.isnan().any()):
        raise ValueError("maps hold values that are not numbers: they rank no pixels")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def _part(slots: dict[State, int], fill: Any) -> dict[tuple[Order | None, int], int]:
    return {(end, count): slot for (key, end, count), slot in slots.items() if key == fill}


def _walk(
    queue: Queue,
    image: Tensor,
    fill: Tensor,
    ranking: Tensor,
    row: int,
    slots: dict[tuple[Order | None, int], int],
) -> None:
    """Push the states of one image (3, H, W) under one fill: all filled, then step by step."""
    filled = queue.pixels(fill, keep=0.0)
    if (slot := slots.get((None, len(ranking)))) is not None:
        queue.push(filled, row, slot)
    ends: tuple[tuple[Order, Tensor], ...] = (("most", ranking.flip(0)), ("least", ranking))
    for end, path in ends:
        if stops := sorted(count for where, count in slots if where == end):
            pixels = queue.pixels(image, keep=1.0)
            for stop in queue.replace(pixels, filled, path, stops):
                queue.push(pixels, row, slots[end, stop])


def _source(
    explanandum: Explanandum, images: Tensor, fill: FillName | Tensor | Fill, seed: int
) -> Callable[[int], Tensor]:
    """From the number of an image to its fill, broadcastable to (3, H, W)."""
    if isinstance(fill, Inpainted):
        mean = explanandum.mean.to(images)
        return lambda row: mean[0]
    if isinstance(fill, str):
        named = explanandum.fill(fill, seed)
        fill = named(images) if fill == "images" else named
    if isinstance(fill, Tensor):
        whole = fill.to(images).expand(images.shape)
        return lambda row: whole[row]
    return lambda row: fill(images[row : row + 1])[0]
