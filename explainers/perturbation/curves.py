"""Perturbation curves: replace pixels in the order of a map and record the classifier's output.

Deletion, insertion, POS, NEG and "keep the top k" are all settings of `Curve`. All curves of a call
are computed together. A perturbed image that several curves share is shown to the classifier once.
Perturbed images are collected in a queue, which passes full batches to the classifier; an inpainted
fill has a queue of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from explainers.explanandum import Explanandum, representations
from explainers.functional.fills import Fill, FillName, Inpainted
from explainers.options import check_choices
from explainers.perturbation.queue import Queue, ResponseTable

Order = Literal["most", "least"]
# Fill, end of the ranking that is replaced (None for no or all pixels), number of replaced pixels.
State = tuple[Any, Order | None, int]


@dataclass(frozen=True, eq=False)
class Curve:
    """Setting of a curve of n + 1 points, which leads from `start` toward the other end.

    Args:
        order: Pixels that change first: the "most" or the "least" relevant ones. Pixels are sorted
            by value, and pixels of equal value by index. "most" changes them from the end of this
            list: of equal pixels, the one with the larger index changes first. One order is the
            exact reverse of the other.
        start: State at the first point. "image": pixels are then replaced by the fill. "fill":
            pixels are then restored from the image.
        fill: Content that replaces pixels: a name of `fills.fill` ("images" takes another image of
            the batch), a tensor broadcastable to (B, 3, H, W), or a `Fill`, which is called with
            images (1, 3, H, W). Curves of one call that share a fill must be given the same name or
            the same object.
        steps: Number n of equal steps. A point that is j steps away from the whole image shows the
            fill in j H W / n pixels, rounded down.
        pixels: Number of pixels that change in each step. The last step changes the remaining ones.
        counts: Number of changed pixels at each point, for any other spacing.

    Raises:
        ValueError: If not exactly one of `steps`, `pixels` and `counts` is given, if `steps` or
            `pixels` is below 1, or if `order` or `start` is unknown.
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
        """Number of pixels that show the fill at each point, for images of `size` pixels.

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
        """State of the image at each point. Equal states of different curves compare equal."""
        fill = self.fill if isinstance(self.fill, str) else id(self.fill)
        opposite: Order = "least" if self.order == "most" else "most"
        end = self.order if self.start == "image" else opposite
        return [
            ("image", None, 0) if c == 0 else (fill, None if c == size else end, c)
            for c in self.replaced(size)
        ]


class Responses(NamedTuple):
    """Output of the classifier along a curve, as tensors (B, n + 1) on the CPU.

    Attributes:
        probability: Probability of the followed class, float64 in [0, 1], or with a layer the
            similarity of its representation to that of the whole image. The others then say
            nothing.
        logit: Logit of the followed class, float64.
        top: Index of the most probable class, int64.
        clean: Index of the most probable class of the unperturbed image, (B,) int64. It is -1 if no
            curve of the call contains that image.
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
    channels_last: bool | None = None,
    seed: int = 0,
    layer: int | str | None = None,
) -> list[Responses]:
    """Computes the responses of the classifier along each curve.

    The number of images shown to the classifier is B times the number of distinct states. For
    curves of n equal steps, with n <= H W, this is

        B (1 + fills + sum of (n - 1) over distinct sequences),

    where a curve and its reverse (other order, other start, same fill) are the same sequence. A
    deletion and an insertion together take 2 n + 1 forward passes for each image with two fills,
    and 2 n with one fill. All batches but the last are full. Besides the classifier, the memory is
    that of one batch and a few images, regardless of the number of steps and images.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        maps: Relevance maps (B, H, W), of which only the order of the pixels matters.
        targets: Class to follow in each image, one-hot (B, K) bool.
        curves: Settings of the curves to compute.
        batch_size: Number of images in a forward pass.
        channels_last: Whether the batches use the channels-last memory layout. None takes
            `Explanandum.channels_last`.
        seed: Seed of the random fills, with the same random stream for every image.
        layer: Layer whose representation is compared with that of the whole image, see
            `representations.representation`. None follows the class.

    Returns:
        The responses along each curve, in the order of `curves`.

    Raises:
        ValueError: If shapes do not match, a map contains NaN, targets are not one-hot, or
            `batch_size` is below 1.
    """
    _check(images, maps, targets, batch_size)
    if channels_last is None:
        channels_last = explanandum.channels_last
    size = maps.shape[1] * maps.shape[2]
    wanted = [curve.states(size) for curve in curves]
    slots = {state: i for i, state in enumerate(dict.fromkeys(s for w in wanted for s in w))}
    given = {c.fill if isinstance(c.fill, str) else id(c.fill): c.fill for c in curves}
    fills = {key: _resolved(explanandum, images, fill, seed) for key, fill in given.items()}
    sources = {k: _source(explanandum, images, fill) for k, fill in fills.items()}
    classes, wholes = targets.int().argmax(dim=1).to(images.device), None
    if layer is not None:
        parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        vectors = [representations.representation(explanandum, part, layer) for part in parts]
        wholes = torch.cat(vectors)
    answers = ResponseTable(explanandum, classes, len(slots), layer, wholes)
    plain = Queue(answers, images, batch_size, channels_last)
    queues = {
        key: Queue(answers, images, batch_size, channels_last, fill)
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
    """Mean height (B,) of curves (B, n + 1), whose points are treated as equally spaced.

    Args:
        values: Points of the curves, (B, n + 1).
        rule: "trapezoid": the trapezoidal rule, (sum - (first + last) / 2) / n, in which the two
            ends count half. "mean": the mean of all points.
        start: Fraction of the steps at which the averaged part begins.
        end: Fraction of the steps at which the averaged part ends.
        skip_first: Whether to leave out the first point of that part.

    Raises:
        ValueError: If no point is left, or only one for "trapezoid", or if `rule` is unknown.

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
    """Pushes the states of one image (3, H, W) with one fill: all pixels filled, then each path."""
    filled = queue.pixels(fill, keep=0.0)
    if (slot := slots.get((None, len(ranking)))) is not None:
        queue.push(filled, row, slot)
    ends: tuple[tuple[Order, Tensor], ...] = (("most", ranking.flip(0)), ("least", ranking))
    for end, path in ends:
        if stops := sorted(count for where, count in slots if where == end):
            pixels = queue.pixels(image, keep=1.0)
            for stop in queue.replace(pixels, filled, path, stops):
                queue.push(pixels, row, slots[end, stop])


def _resolved(
    explanandum: Explanandum, images: Tensor, fill: FillName | Tensor | Fill, seed: int
) -> Tensor | Fill:
    """The fill of a name: pixels if they depend on the batch, else a function."""
    if not isinstance(fill, str):
        return fill
    named = explanandum.fill(fill, seed)
    return named(images) if fill == "images" else named


def _source(
    explanandum: Explanandum, images: Tensor, fill: Tensor | Fill
) -> Callable[[int], Tensor]:
    """Function from the index of an image to its fill, broadcastable to (3, H, W)."""
    if isinstance(fill, Inpainted):
        mean = explanandum.mean.to(images)
        return lambda row: mean[0]
    if isinstance(fill, Tensor):
        whole = fill.to(images).expand(images.shape)
        return lambda row: whole[row]
    return lambda row: fill(images[row : row + 1])[0]
