"""Resized and augmented samples of any source of raw images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from datamodules import images
from datamodules.listing import shown
from datamodules.loading import Batch, SkippedImages, Unreadable
from datamodules.sampling import Key, seeded


class ImageSource(ABC):
    """Source of the raw images of one split, which every data set provides."""

    names: Sequence[str]

    @abstractmethod
    def load(self, index: int) -> dict[str, Any]:
        """Return the sample `index` at its original size.

        Returns:
            A dict with `image` (3, h, w), uint8 or float in [0, 1]; `target` (K,) bool unless the
            data are unlabeled; and any number of `tv_tensors.Mask` (..., h, w), which are resized
            and augmented together with the image.

        Raises:
            ValueError: If the image cannot be read. An OSError is understood in the same way.
        """

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Convert a resized and augmented sample to the keys of a batch; by default unchanged."""
        return sample

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return what tells the sample `index` from others without reading its pixels.

        By default this is its name. Sources of files add labels and sizes of files, so that
        `ImageDataModule.identity` notices other data in the same place.
        """
        return (self.names[index],)


class ImageDataset(Dataset[Batch]):
    """Resized and augmented samples of a source, by index or by (epoch, index).

    The epoch seeds the augmentation; a plain index stands for epoch 0. `positions` are the places
    in the source of the images that are used, which become their `index`. `whole` are those of all
    processes of an array job.

    Args:
        source: Source of the raw images.
        fit: Operation that brings images and masks to their final size.
        augment: Whether and how to augment, see `images.augmentation`.
        seed: Seed of the augmentation.
        limit: Largest number of images; None uses all.
        skip: Whether loaders leave out images that cannot be read, instead of raising.
        shard: Numbers [i, n] of the part of the images to use; None uses all.
    """

    def __init__(
        self,
        source: ImageSource,
        fit: images.Fit,
        augment: bool | str,
        seed: int,
        limit: int | None,
        skip: bool = False,
        shard: Sequence[int] | None = None,
    ) -> None:
        self.source, self.seed = source, seed
        self.fit = fit.enlarged() if augment == "crop" else fit
        self.augment = images.augmentation(augment, fit.size) if augment else None
        total = len(source.names)
        self.skipped = SkippedImages(total, skip)
        self.narrow(range(total if limit is None else min(limit, total)), shard)

    def narrow(self, whole: Sequence[int], shard: Sequence[int] | None = None) -> None:
        """Use only these places in the source, or of them every n-th, beginning with the i-th.

        Args:
            whole: Places in the source.
            shard: The numbers [i, n]; None uses all.

        Raises:
            ValueError: If there are images, but none in this shard.
        """
        start, step = shard or (0, 1)
        self.whole, self.positions = whole, whole[start::step]
        if whole and not self.positions:
            raise ValueError(f"shard {list(shard or ())} of {len(whole)} images holds none of them")
        self.skipped = SkippedImages(len(self.positions), self.skipped.allowed)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.positions)

    def __getitem__(self, key: int | Key) -> Batch:
        """Return one sample: image (3, H, W) float32 in [0, 1], name, index and all other keys."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = self.positions[index]
        name = self.source.names[index]
        sample = self.source.load(index)
        images.check_range(sample["image"], name)
        sample["image"] = tv_tensors.Image(sample["image"])
        planes = {
            key: self.fit(value)
            for key, value in sample.items()
            if isinstance(value, tv_tensors.TVTensor)
        }
        planes["image"] = F.to_dtype(planes["image"], torch.float32, scale=True)
        if self.augment is not None:
            with seeded(self.seed, epoch, index):
                planes = self.augment(planes)
        plain = {key: value.as_subclass(Tensor) for key, value in planes.items()}
        return self.source.finish({**sample, **plain, "name": name, "index": index})

    def __getitems__(self, keys: Sequence[int | Key]) -> list[Batch | Unreadable]:
        """Return the samples of a batch for a loader, with `Unreadable` for those that fail."""
        return [self._attempt(key) for key in keys]

    def _attempt(self, key: int | Key) -> Batch | Unreadable:
        try:
            return self[key]
        except Exception as error:
            expected = isinstance(error, ValueError | OSError)
            # A bug shows its traceback where errors are raised; memory is never the image's fault.
            if images.lacks_resources(error) or not (expected or self.skipped.allowed):
                raise
            name = self.source.names[self.positions[key[1] if isinstance(key, tuple) else key]]
            kind = "" if expected else f"{type(error).__name__}: "
            _, _, reason = str(error).rpartition(f"{shown(name)}: ")
            return Unreadable(name, kind + (" ".join(reason.split()) or "no reason given"))
