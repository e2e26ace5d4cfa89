"""Part maps of FunnyBirds, whose colors name the parts of a bird and the objects behind it."""

import torch
from torch import Tensor

# Colors of a part map. Pixels on edges are mixed, and belong to nothing.
COLORS = {
    "beak": [(255, 255, 0)],
    "eye": [(255, 255, 253), (255, 255, 254)],
    "foot": [(255, 0, 1), (255, 0, 2)],
    "tail": [(0, 0, 255)],
    "wing": [(0, 255, 1), (0, 255, 2)],
}
PARTS = list(COLORS)
BODY = (170, 170, 170)
OBJECT = (204, 204, 204)  # of the first object of the background; the last number counts on
MOST_OBJECTS = 255 - OBJECT[2] + 1  # that colors tell apart
BODY_LABEL = len(PARTS) + 1


def subsets() -> list[list[str]]:
    """Return all 32 sets of parts; set number c contains the i-th part if bit i of c is 1.

    Example:
        >>> subsets()[5]
        ['beak', 'foot']
    """
    codes = range(2 ** len(PARTS))
    return [[part for i, part in enumerate(PARTS) if code >> i & 1] for code in codes]


def part_labels(colors: Tensor) -> Tensor:
    """Labels (h, w) uint8 of a part map (3, h, w) uint8: 1 + part, 6 for the body, else 0."""
    labels = torch.zeros(colors.shape[1:], dtype=torch.uint8)
    listed = [(i + 1, color) for i, part in enumerate(PARTS) for color in COLORS[part]]
    for label, color in [*listed, (BODY_LABEL, BODY)]:
        labels[_where(colors, color)] = label
    return labels


def object_masks(colors: Tensor, count: int) -> Tensor:
    """Masks (count, h, w) uint8 of the first objects of the background of a part map."""
    masks = [_where(colors, (*OBJECT[:2], OBJECT[2] + i)) for i in range(count)]
    return torch.stack(masks).to(torch.uint8)


def _where(colors: Tensor, color: tuple[int, int, int]) -> Tensor:
    return (colors == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(dim=0)
