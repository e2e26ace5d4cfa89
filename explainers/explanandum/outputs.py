"""The logits in what a network returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """How the logits are read from a network's output.

    Attributes:
        units: Number of outputs K.
        entry: Position or name of the logits among several outputs. None if there is only one.
    """

    units: int
    entry: int | str | None


def find(output: Any, count: int, width: int | None) -> int | str | None:
    """Position or name of the logits (`count`, K) in a network's output.

    Raises:
        ValueError: If there are none, or several.
    """
    if isinstance(output, Tensor):
        entries: dict[Any, Any] = {None: output}
    elif isinstance(getattr(output, "logits", None), Tensor):
        return "logits"
    elif isinstance(output, Mapping):
        entries = {"logits": output["logits"]} if "logits" in output else dict(output)
    else:
        entries = dict(enumerate(output)) if isinstance(output, list | tuple) else {}
    shapes = {key: tuple(v.shape) for key, v in entries.items() if isinstance(v, Tensor)}
    found = [
        key
        for key, shape in shapes.items()
        if entries[key].is_floating_point() and len(_plain(shape)) <= 2 and count in shape[:1]
    ]
    if len(found) > 1 and width is not None:
        found = [key for key in found if shapes[key][1:2] == (width,)]
    if len(found) == 1:
        entry: int | str | None = found[0]
        return entry
    what = [f"{entries[key].dtype} {shape}".removeprefix("torch.") for key, shape in shapes.items()]
    told = f"{type(output).__name__} of {', '.join(what) or 'no tensors'}"
    if None in entries:
        told = what[0]
    if any(len(shape) > 2 for shape in shapes.values()):
        told += "; maps must be averaged to one number for each class"
    if len(found) > 1:
        told += "; return the logits alone, or set num_classes to their number"
    raise ValueError(
        f"the classifier's output holds {'several' if found else 'no'} logits for {count} images: "
        f"expected a floating-point tensor ({count}, K) or an output with .logits, got {told}"
    )


def take(output: Any, entry: int | str | None) -> Tensor:
    """The entry of a network's output that holds the logits."""
    if entry is None:
        found = output
    elif isinstance(entry, str) and not isinstance(output, Mapping):
        found = getattr(output, entry)
    else:
        found = output[entry]
    return found  # type: ignore[no-any-return]


def read(output: Any, reading: Reading, count: int) -> Tensor:
    """Logits (`count`, K) in a network's output.

    Raises:
        ValueError: If the shape is not the one of the trial pass.
    """
    logits = take(output, reading.entry)
    if logits.ndim == 2 and logits.shape[0] == count and logits.shape[1] == reading.units:
        return logits  # no look at single sizes, which would fix them in an exported graph
    if _plain(logits.shape) != _plain((count, reading.units)):
        raise ValueError(
            f"the classifier's logits of {count} images have shape {tuple(logits.shape)}, "
            f"expected {(count, reading.units)}"
        )
    return logits.reshape(count, reading.units)


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its dimensions of size 1."""
    return tuple(side for side in shape if side != 1)
