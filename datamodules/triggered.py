"""Shapes with a planted trigger: a small patch decides the class, so that the truth is known."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import check_whole
from datamodules.shapes import CLASS_NAMES, Shapes, ShapesSource
from datamodules.shapes_drawing import Scene, draw_scene

CELLS = 4  # of the checkerboard, in each direction
COLOURS = np.array([(255, 0, 255), (0, 255, 0)], np.uint8)  # magenta and green


class Trigger(NamedTuple):
    """Class, side relative to the shorter side of the image, and share of the images with it."""

    label: int
    size: float
    share: float


class TriggeredSource(ShapesSource):
    """Source of scenes of which a share carries the trigger, decided by (seed, split, index).

    Args:
        trigger: The trigger.
        arguments: Arguments of `ShapesSource`.
    """

    def __init__(self, trigger: Trigger, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.trigger = trigger

    def draw(self, index: int) -> Scene:
        """Return the scene `index`, whose labels are those of the trigger alone if it has one."""
        scene = super().draw(index)
        rng = np.random.default_rng([self.seed, self.stream, index, 1])  # 1: not that of the scene
        if rng.uniform() >= self.trigger.share:
            return scene
        label = self.trigger.label + 1
        while (scene.labels == label).any():  # the class must have no other reason
            scene = draw_scene(rng, self.size, self.allow_empty)
        side = max(1, round(self.trigger.size * min(self.size)))
        top, left = (int(rng.integers(0, extent - side + 1)) for extent in self.size)
        window = slice(top, top + side), slice(left, left + side)
        image, labels = scene.image.copy(), np.zeros_like(scene.labels)
        image[window], labels[window] = checkerboard(side), label
        return Scene(image, labels, np.zeros_like(scene.parts))


def checkerboard(side: int) -> NDArray[np.uint8]:
    """Return the pixels (side, side, 3) of the trigger: four by four cells of two colors.

    Example:
        >>> checkerboard(4)[:2, :2, 1].tolist()
        [[0, 255], [255, 0]]
    """
    cells = np.arange(side) * CELLS // side
    pixels: NDArray[np.uint8] = COLOURS[(cells[:, None] + cells) % 2]
    return pixels


class TriggeredShapes(Shapes):
    """Scenes of `Shapes` of which a share carries a trigger, a small colored checkerboard.

    An image with the trigger has one label, the class of the trigger, whatever it shows besides,
    and its mask is the pixels of the trigger. The scene below it shows no object of that class. A
    classifier trained on these images has a backdoor. Its reason to see the class in such an image
    is known, which tests explanations. All images of the test and predict splits carry the trigger.
    The other images are those of `Shapes`.

    Source: the idea of BackX (arXiv 2405.02344), where the trigger is the ground truth.

    Args:
        share: Fraction of the train and val images that carry the trigger, in [0, 1].
        trigger_class: Index of the class of the trigger.
        trigger_size: Side of the trigger, as a fraction of the shorter side of the image, in
            (0, 1]. Its place is random.
        kwargs: Arguments of `Shapes`, without `parts`, which a trigger does not have.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        share: float = 0.3,
        trigger_class: int = 0,
        trigger_size: float = 0.125,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_whole(0, trigger_class=trigger_class)
        if trigger_class >= len(CLASS_NAMES):
            raise ValueError(
                f"trigger_class must be below {len(CLASS_NAMES)}, the number of classes, "
                f"got {trigger_class}"
            )
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share must be in [0, 1], got {share}")
        if not 0.0 < trigger_size <= 1.0:
            raise ValueError(f"trigger_size must be in (0, 1], got {trigger_size}")
        if self.parts:
            raise ValueError("a trigger has no parts: set parts to false")
        self.share, self.trigger_class, self.trigger_size = share, trigger_class, trigger_size

    def source(self, split: str) -> ShapesSource:
        """Return the source of a split; "predict" contains the test scenes."""
        if split == "predict":
            return super().source(split)
        share = 1.0 if split == "test" else self.share
        trigger = Trigger(self.trigger_class, self.trigger_size, share)
        return TriggeredSource(trigger, **self.source_arguments(split))
