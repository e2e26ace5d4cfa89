"""Shapes: a synthetic data set with exact masks and parts, for quick experiments."""

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from datamodules.arguments import check_size, check_whole
from datamodules.base import ImageDataModule
from datamodules.dataset import ImageSource
from datamodules.shapes_drawing import PARTS, Scene, draw_scene
from datamodules.shapes_patterns import SHAPES

CLASS_NAMES = [
    "striped disc",
    "checked square",
    "dotted triangle",
    "ringed star",
    "wavy cross",
    "brick ring",
]
PART_NAMES = list(PARTS)
STREAMS = {"train": 0, "val": 1, "test": 2, "predict": 2}
PLANES = 5  # red, green, blue, labels, parts


class SceneCache:
    """Cache of scenes (count, planes, H, W) uint8 in memory that forked workers share.

    The cache is anonymous memory, which is allocated page by page when it is first written. Unlike
    the shared tensors of torch, it does not count against the small /dev/shm of a container. A copy
    that is sent to a spawned worker starts empty.

    Args:
        count: Number of scenes.
        size: Height and width of the scenes.
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.count, self.size = count, size
        self._reserve()

    def _reserve(self) -> None:
        shape = (self.count, PLANES, *self.size)
        self.scenes = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
        self.filled = np.frombuffer(mmap.mmap(-1, self.count), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory, which cannot be sent to another process."""
        return {"count": self.count, "size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with empty memory."""
        self.count, self.size = state["count"], state["size"]
        self._reserve()

    def get(self, index: int) -> Scene | None:
        """Return a scene that this or another worker has drawn before, or None."""
        if not self.filled[index]:
            return None
        planes = self.scenes[index]
        return Scene(planes[:3].transpose(1, 2, 0), planes[3], planes[4])

    def put(self, index: int, scene: Scene) -> None:
        """Store a scene; two workers can do so at the same time, as they write the same bytes."""
        self.scenes[index, :3] = scene.image.transpose(2, 0, 1)
        self.scenes[index, 3], self.scenes[index, 4] = scene.labels, scene.parts
        self.filled[index] = 1


class ShapesSource(ImageSource):
    """Source of the scenes of one split, each of which depends only on (seed, split, index).

    Args:
        split: "train", "val", "test" or "predict", which equals "test".
        count: Number of scenes.
        size: Height and width of the scenes.
        seed: Seed of the scenes.
        parts: Whether samples contain parts.
        allow_empty: Whether to keep scenes without any class.
        cache: Whether to keep drawn scenes in memory.
    """

    def __init__(
        self,
        split: str,
        count: int,
        size: tuple[int, int],
        seed: int,
        parts: bool,
        allow_empty: bool,
        cache: bool,
    ) -> None:
        folder = "test" if split == "predict" else split
        self.names = [f"{folder}/{index:06d}" for index in range(count)]
        self.stream, self.seed, self.size = STREAMS[split], seed, size
        self.parts, self.allow_empty = parts, allow_empty
        self.cache = SceneCache(count, size) if cache and count else None

    def scene(self, index: int) -> Scene:
        """Return the scene `index`, from the cache if possible."""
        scene = self.cache.get(index) if self.cache else None
        if scene is None:
            scene = self.draw(index)
            if self.cache:
                self.cache.put(index, scene)
        return scene

    def draw(self, index: int) -> Scene:
        """Return the scene `index`, drawn anew."""
        rng = np.random.default_rng([self.seed, self.stream, index])
        return draw_scene(rng, self.size, self.allow_empty)

    def load(self, index: int) -> dict[str, Any]:
        """Return image, target and label planes as copies, which keeps the cache unchanged."""
        scene = self.scene(index)
        present = (
            torch.bincount(torch.tensor(scene.labels).flatten(), minlength=len(SHAPES) + 1)[1:] > 0
        )
        sample = {
            "image": torch.tensor(np.ascontiguousarray(scene.image.transpose(2, 0, 1))),
            "target": present,
            "mask": tv_tensors.Mask(torch.tensor(scene.labels)),
        }
        if self.parts:
            sample["parts"] = tv_tensors.Mask(torch.tensor(scene.parts))
        return sample

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Expand the label planes to mask (K, H, W) and parts (K, P, H, W), both bool."""
        sample["mask"] = one_hot(sample["mask"], len(SHAPES))
        if self.parts:
            sample["parts"] = sample["mask"][:, None] & one_hot(sample["parts"], len(PARTS))[None]
        return sample


def one_hot(labels: Tensor, count: int) -> Tensor:
    """Expand labels (H, W), which are 0 or class + 1, to masks (count, H, W) bool.

    Example:
        >>> one_hot(torch.tensor([[0, 2]]), 2).tolist()
        [[[False, False]], [[False, True]]]
    """
    return labels[None] == torch.arange(1, count + 1, dtype=labels.dtype)[:, None, None]


class Shapes(ImageDataModule):
    """Scenes of one to three textured shapes among plain distractors; six classes, multi-label.

    A class is a shape with its own texture. Plain or shaded shapes with the same outlines serve as
    distractors. Images have about 1.75 labels on average, and their objects cover one sixth of the
    image. Masks are exact and contain only visible pixels. Scenes depend only on (scene_seed,
    split, index), and look alike at any image size.

    With `parts`, a batch also contains `parts` (B, K, P, H, W) bool: the outline, the upper half
    and the lower half of each object in its rotated frame. The parts divide the mask of the object.

    Args:
        image_size: Height and width of the scenes, [H, W].
        train_images: Number of scenes in the train split.
        val_images: Number of scenes in the val split.
        test_images: Number of scenes in the test split.
        scene_seed: Seed of the scenes. It is separate from `seed`, so that repeated runs see the
            same data.
        parts: Whether batches contain `parts`.
        allow_empty: Whether to keep scenes in which no object is visible enough to count.
        cache: Whether to keep drawn scenes in memory, with 5 * H * W bytes each; about 190 MB for
            the default train split.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    incidental = ImageDataModule.incidental | {"cache"}

    def __init__(
        self,
        image_size: Sequence[int] = (96, 96),
        train_images: int = 4000,
        val_images: int = 300,
        test_images: int = 500,
        scene_seed: int = 0,
        parts: bool = False,
        allow_empty: bool = False,
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        check_size(image_size)
        counts = {"train_images": train_images, "val_images": val_images}
        check_whole(0, test_images=test_images, scene_seed=scene_seed, **counts)
        self.counts = {
            "train": train_images,
            "val": val_images,
            "test": test_images,
            "predict": test_images,
        }
        self.scene_seed, self.parts = scene_seed, parts
        self.allow_empty, self.cache = allow_empty, cache

    @property
    def class_names(self) -> list[str]:
        """The six classes, named by texture and shape."""
        return list(CLASS_NAMES)

    @property
    def multi_label(self) -> bool:
        """True, since a scene shows one to three classes."""
        return True

    @property
    def part_names(self) -> list[str]:
        """The parts of every class, in the order of `parts`."""
        return list(PART_NAMES)

    def source(self, split: str) -> ShapesSource:
        """Return the source of a split; "predict" contains the test scenes."""
        if split == "predict":
            return self.dataset("test").source  # type: ignore[return-value]
        return ShapesSource(**self.source_arguments(split))

    def source_arguments(self, split: str) -> dict[str, Any]:
        """Return the arguments of `ShapesSource` for a split."""
        count = self.counts[split] if self.limit is None else min(self.limit, self.counts[split])
        height, width = self.image_size
        return {
            "split": split,
            "count": count,
            "size": (height, width),
            "seed": self.scene_seed,
            "parts": self.parts,
            "allow_empty": self.allow_empty,
            "cache": self.cache,
        }
