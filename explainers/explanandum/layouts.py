"""Where the positions and channels of a layer's output are, found by one trial pass."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import taps

# Least locality of a layer of maps. Most have more than 1, the least of 80 families of timm with
# random weights 0.04.
LEAST = 0.02
# Numbers of positions that may all see the whole image, so that chance decides about the locality.
FEW, SOME = 16, 256
IMAGES = 5  # in the trial pass
Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Arrangement of a layer's output.

    Attributes:
        kind: "maps" (B, C, h, w), "channels_last" (B, h, w, C) or "tokens" (B, prefix + h w, C).
        grid: Rows and columns of the positions in the trial.
        prefix: Number of tokens in front of those of the positions.
        locality: How clearly the positions are those of the image, see `locality`.
    """

    kind: Literal["maps", "channels_last", "tokens"]
    grid: tuple[int, int]
    prefix: int = 0
    locality: float = 0.0

    def to_maps(self, output: Tensor, shape: Shape) -> Tensor:
        """Maps (B, C, h, w) of the layer's output for images of a given shape (B, 3, H, W).

        Raises:
            ValueError: If the output has another form than in the trial, or if its tokens cannot be
                laid out as a grid of the aspect of the images.
        """
        got = tuple(output.shape)
        if len(got) != (3 if self.kind == "tokens" else 4) or got[0] != shape[0]:
            raise ValueError(f"expected {self.kind} of {shape[0]} images from a layer, got {got}")
        if self.kind == "tokens":
            return lay_out(output[:, self.prefix :], shape[-2] / shape[-1])
        return output.movedim(-1, 1) if self.kind == "channels_last" else output


class Layer(NamedTuple):
    """What the trial shows of a layer.

    Attributes:
        layout: Arrangement of its output, or None if it has no positions.
        fault: Why there is no layout, as the end of a sentence about the layer.
    """

    layout: Layout | None
    fault: str = ""


def lay_out(tokens: Tensor, aspect: float) -> Tensor:
    """Tokens (B, h w, C) as maps (B, C, h, w) with h / w close to the given aspect.

    Raises:
        ValueError: If no such grid exists.
    """
    count = tokens.shape[1]
    rows = max(1, round((count * aspect) ** 0.5))
    if not count or count % rows or abs(rows**2 / count / aspect - 1) >= 0.05:
        raise ValueError(f"cannot lay {count} tokens out as a grid of aspect {aspect:.2f}")
    return tokens.mT.reshape(*tokens[:, 0].shape, rows, -1)


def of(explanandum: Any, name: str) -> Layout:
    """The layout of a layer of an `Explanandum`.

    Raises:
        ValueError: If there is no such layer, or it has no layout.
    """
    names = [known for known, _ in explanandum.model.named_modules()]
    if name not in names:
        raise ValueError(f"no module {name!r} in the explanandum; its last ones: {names[-8:]}")
    layer: Layer = explanandum.layers.get(name, Layer(None, "does not run"))
    if layer.layout is None:
        raise ValueError(
            f"layer {name!r} {layer.fault}: name a layer that gives maps (B, C, h, w) or "
            "(B, h, w, C), or tokens (B, N, C), once in each pass"
        )
    return layer.layout


@contextmanager
def trying(explanandum: Any) -> Iterator[None]:
    """Passes inside the `with` block are without gradients, and nothing is warned about weights."""
    untrained, explanandum.untrained = explanandum.untrained, False
    try:
        with torch.no_grad():
            yield
    finally:
        explanandum.untrained = untrained


def trial(explanandum: Any) -> dict[str, Layer]:
    """What a pass of five images shows of each layer, by name and in the order of their ends.

    The first image is noise. In the others the upper, lower, left or right half is other noise. The
    rows of an output are where its upper half changes more with the upper half of the image, and
    its lower half with the lower one. The columns are found in the same way. Maps of few positions
    that all see the whole image, or nothing, count as such if their shape can be read in one way
    only.
    """
    size = (explanandum.input_size[0], explanandum.input_size[1])
    layers: dict[str, Layer] = {}

    def look(name: str, output: Any) -> None:
        again = layers.pop(name, None) is not None
        many = Layer(None, "runs more than once in each pass")
        layers[name] = many if again else seen(output, size)

    names = [name for name, _ in explanandum.model.named_modules() if name]
    with trying(explanandum), taps.watched(explanandum.model, names, look):
        explanandum(trial_images(size).to(explanandum.mean.device))
    return layers


def trial_images(size: tuple[int, int]) -> Tensor:
    """Images (5, 3, H, W) in [0, 1]: noise, and the same where one half is other noise."""
    side = max(1, min(size) // 28)
    grid = (-(-size[0] // side), -(-size[1] // side))
    noise = torch.rand(2, 3, *grid, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    large = F.interpolate(noise, scale_factor=side, mode="nearest")
    first, second = large[..., : size[0], : size[1]].unbind(0)
    images: Tensor = first.repeat(IMAGES, 1, 1, 1)
    upper, left = size[0] // 2, size[1] // 2
    images[1, :, :upper], images[2, :, upper:] = second[:, :upper], second[:, upper:]
    images[3, ..., :left], images[4, ..., left:] = second[..., :left], second[..., left:]
    return images


def seen(output: Any, size: tuple[int, int]) -> Layer:
    """The layout of a layer's output for the images of the trial, of `size` (H, W)."""
    if not isinstance(output, Tensor):
        return Layer(None, f"gives a {type(output).__name__}, not a tensor")
    shape = tuple(output.shape)
    fault = f"gives {shape} for {IMAGES} images"
    if len(shape) not in (3, 4) or shape[0] != IMAGES or not output.is_floating_point():
        return Layer(None, fault)
    if len(shape) == 4 and min(shape[1] * shape[2], shape[2] * shape[3]) == 1:
        return Layer(Layout("maps" if shape[2:] == (1, 1) else "channels_last", (1, 1)))
    aspect, found, blind = size[0] / size[1], list[Layout](), False
    change = (output[1:].float() - output[:1].float()).abs()
    if len(shape) == 4:
        kinds: dict[Literal["maps", "channels_last"], int] = {"maps": 1, "channels_last": 3}
        for kind, axis in kinds.items():
            planes = change.mean(dim=axis)
            rows, columns = planes.shape[1:]
            if rows * columns > 1 and 0.5 <= rows / columns / aspect <= 2:
                clear, spread = locality(planes)
                blind = rows * columns <= (SOME if spread < 1 else FEW)
                found.append(Layout(kind, (rows, columns), 0, clear))
    else:
        planes = change.mean(dim=2)
        for others in range(6):  # class, distillation and register tokens
            for first in range(others + 1):
                part = planes[:, first : shape[1] - others + first, None]
                try:
                    laid = lay_out(part, aspect)[:, 0]
                except ValueError:
                    continue
                grid = (laid.shape[1], laid.shape[2])
                found.append(Layout("tokens", grid, first, locality(laid)[0]))
    best = max(found, key=lambda layout: layout.locality, default=Layout("maps", (1, 1)))
    if best.locality < LEAST and not (blind and len(found) == 1):
        return Layer(None, f"{fault}, in which the positions of the images are not found")
    if best.kind == "tokens" and best.prefix + math.prod(best.grid) < shape[1]:
        return Layer(None, f"{fault}, with further tokens behind those of the image")
    return Layer(best)


def locality(changes: Tensor) -> tuple[float, float]:
    """How much more each half of a map changes with its own half of the image than the other does.

    Args:
        changes: Changes (4, h, w) of the map with the upper, lower, left and right half of the
            image.

    Returns:
        Half the difference between the halves of the map in the mean log ratio of the changes,
        along rows or along columns, whichever is less. It is about 20 if each half answers to its
        own half of the image only, and 0 if too few of the positions tell which half they are in.
        The second number is the mean absolute deviation of the log ratios, whichever is more.
    """
    found, spread = [], [0.0]
    for pair, axis in ((changes[:2], 0), (changes[2:], 1)):
        ratio = (pair.double().cpu() + 1e-9 * float(pair.sum()) + 1e-30).log().diff(dim=0)[0]
        count = ratio.shape[axis] // 2
        if count:
            first = ratio.narrow(axis, 0, count)
            last = ratio.narrow(axis, ratio.shape[axis] - count, count)
            middle = (first.mean() + last.mean()) / 2
            right = torch.cat([first < middle, last > middle]).double()
            clear = right.mean() >= min(1.0, max(0.65, 0.5 + 1.2 / right.numel() ** 0.5))
            found.append(float(last.mean() - first.mean()) / 2 if clear else 0.0)
            spread.append(float((ratio - middle).abs().mean()))
    return min(found, default=0.0), max(spread)


def swapped(explanandum: Any, name: str, positions: bool) -> tuple[float, float]:
    """Effects of a layer on the logits of one image, if its output is that for another image.

    Args:
        explanandum: The classifier.
        name: Name of a layer with a layout.
        positions: Whether class and register tokens stay those of the first image.

    Returns:
        Distances of the new logits from those of the first image and of the other, relative to the
        distance of these two. (1, 0) if these differ by rounding only.
    """
    layout = of(explanandum, name)

    def swap(output: Tensor) -> Tensor:
        start = layout.prefix if positions else 0
        first = torch.cat([output[:1, :start], output[1:2, start:]], dim=1)
        return torch.cat([first, output[1:]])

    size = (explanandum.input_size[0], explanandum.input_size[1])
    images = trial_images(size)[1:3].to(explanandum.mean.device)  # they differ everywhere
    with trying(explanandum):
        one, other = explanandum(images)
        with taps.replaced(explanandum.model, name, swap):
            new = explanandum(images)[0]
    whole = float((one - other).norm())
    if whole <= 1e-5 * float(one.norm()):  # no more than rounding
        return 1.0, 0.0
    return float((new - one).norm()) / whole, float((new - other).norm()) / whole
