"""Random subsets of a list of images that have no image in common."""

from collections.abc import Mapping, Sequence

import numpy as np


def draw_subsets(
    names: Sequence[str], counts: Mapping[str, int | None], seed: int
) -> dict[str, list[str]]:
    """Return one subset of the names for each split; subsets keep the order of the names.

    A split with a number has that many names, drawn at random, which no other split has. All splits
    without a number have all names that are left.

    Args:
        names: Names of the images. Their order decides the draw.
        counts: Number of images of each split, or None.
        seed: Seed of the draw.

    Raises:
        ValueError: If there are fewer names than the numbers ask for.

    Example:
        >>> parts = draw_subsets("abcdef", {"test": 2, "val": 1, "train": None}, seed=0)
        >>> {split: "".join(part) for split, part in parts.items()}
        {'test': 'cd', 'val': 'f', 'train': 'abe'}
    """
    numbers = {split: count for split, count in counts.items() if count is not None}
    if sum(numbers.values()) > len(names):
        asked = " + ".join(f"{count} ({split}_images)" for split, count in numbers.items())
        raise ValueError(f"expected at least {asked} images, got {len(names)}; lower the numbers")
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    places: dict[str, list[int]] = {}
    start = 0
    for split, count in numbers.items():
        places[split], start = order[start : start + count], start + count
    return {
        split: [names[place] for place in sorted(places.get(split, order[start:]))]
        for split in counts
    }
