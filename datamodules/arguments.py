"""Checks of the arguments of data modules, whose messages name the argument."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def check_whole(least: int, **values: Any) -> None:
    """Check that arguments are whole numbers of at least `least`.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_fraction(**values: Any) -> None:
    """Check that arguments are numbers between 0 and 1, neither of which is allowed.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not (isinstance(value, int | float) and 0.0 < value < 1.0):
            raise ValueError(f"{name} must be in (0, 1), got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Check that an argument is one of `choices`.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def check_size(size: Any) -> None:
    """Check that `image_size` holds two positive whole numbers.

    Raises:
        ValueError: If it does not.
    """
    whole = isinstance(size, Sequence) and all(isinstance(side, int | np.integer) for side in size)
    if not whole or len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size must be [height, width], both positive, got {size!r}")


def check_names(name: str, value: Any) -> None:
    """Check that an argument is a list of texts, and not a single text.

    Raises:
        ValueError: If it is not.
    """
    texts = not isinstance(value, str) and isinstance(value, Sequence)
    if not texts or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} must be a list of names, got {value!r}")


def check_shard(shard: Any) -> None:
    """Check that `shard` holds [i, n], the i-th of n parts, counted from 0; None passes.

    Raises:
        ValueError: If it does not.
    """
    if shard is None:
        return
    whole = isinstance(shard, Sequence) and all(
        isinstance(number, int | np.integer) and not isinstance(number, bool) for number in shard
    )
    if not whole or len(shard) != 2 or not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be [i, n] with 0 <= i < n, such as [0, 8], got {shard!r}")
