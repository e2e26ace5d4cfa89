"""Random subsets of a list of images that have no image in common."""

from collections.abc import Mapping, Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_info


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


def of_train(data: str, split: str, val_images: int | None) -> bool:
    """Return whether a split is a part of the published train images, and not of the test images.

    With `val_images`, the val split is; without it, the val images are the test images, which is
    said.

    Args:
        data: Name of the data set, for the message.
        split: "train", "val", "test" or "predict".
        val_images: Number of train images that are held out, or None.
    """
    if split == "val" and val_images is None:
        rank_zero_info(
            f"{data}: the val images are the test images; val_images holds out training images"
        )
    return split == "train" or (split == "val" and val_images is not None)
