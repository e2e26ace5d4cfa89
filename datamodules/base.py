"""The data module all data sets share: it owns loaders, sizes, transforms and checks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from datamodules import images
from datamodules.sampling import Batch, EpochSampler, Key, ResumableLoader, seeded

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class ImageSource(ABC):
    """The raw images of one split: what a data set has to provide."""

    names: Sequence[str]

    @abstractmethod
    def load(self, index: int) -> dict[str, Any]:
        """Return the sample `index` at its own size.

        Keys: `image` (3, h, w) uint8 or float in [0, 1]; `target` (K,) bool unless unlabelled; any
            further
        `tv_tensors.Mask` (..., h, w), which is resized and augmented along with the image.
        """

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Turn the resized and augmented sample into the keys of a batch; by default as it is."""
        return sample


class ImageDataset(Dataset[Batch]):
    """A source made ready for a loader, by index or, for augmentation by epoch, (epoch, index)."""

    def __init__(
        self, source: ImageSource, fit: images.Fit, augment: bool, seed: int, limit: int | None
    ) -> None:
        self.source, self.fit, self.seed = source, fit, seed
        self.augment = images.augmentation() if augment else None
        self.length = len(source.names) if limit is None else min(limit, len(source.names))

    def __len__(self) -> int:
        """Return the number of images."""
        return self.length

    def __getitem__(self, key: int | Key) -> Batch:
        """Return one sample: image (3, H, W) float32 in [0, 1], name, index and the rest."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
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


class ImageDataModule(LightningDataModule, ABC):
    """Loaders over the splits of an image data set, which adds its class names and sources.

    A batch is a dict: `image` (B, 3, H, W) float32 in [0, 1], `target` (B, K) bool, `name` (unique
    strings), `index` (B,) position in the split, by which images repeated by distributed samplers
    are recognised; where the data have them `mask` (B, K, H, W) bool and `void` (B, H, W) bool.
    Unlabelled data have no `target`.

    Training order and augmentation depend on (seed, epoch, index) only, never on the number of
    workers, and a fit resumed from any checkpoint goes on with the images that the uninterrupted
    one would have seen.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (224, 224),
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        augment: bool = False,
        resize: str = "squash",
        crop_pct: float = 0.875,
        interpolation: str = "bilinear",
        limit: int | None = None,
    ) -> None:
        """Store the settings; nothing is read yet.

        Args:
            image_size: [H, W] of the images.
            batch_size: Images per batch and process; training drops the last incomplete batch.
            num_workers: Loading processes, kept alive between epochs.
            seed: Of the training order and the augmentation.
            augment: Flip, rotate and jitter the training images.
            resize: "squash" ignores the aspect ratio as the papers do, "crop" takes the centre.
            crop_pct: With "crop", the part of the tighter side that is kept, in (0, 1].
            interpolation: "bilinear" or "bicubic", for images; masks take the nearest pixel.
            limit: Use only the first so many images of each split.

        Raises:
            ValueError: If a setting is out of range.
        """
        super().__init__()
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(
                f"image_size must be [height, width], both positive, got {list(image_size)}"
            )
        for name, value in {
            "batch_size": batch_size,
            "limit": 1 if limit is None else limit,
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if resize not in ("squash", "crop"):
            raise ValueError(f"resize must be 'squash' or 'crop', got {resize!r}")
        if interpolation not in images.INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be in {list(images.INTERPOLATIONS)}, got {interpolation!r}"
            )
        if not 0.0 < crop_pct <= 1.0:
            raise ValueError(f"crop_pct must be in (0, 1], got {crop_pct}")
        self.image_size = list(image_size)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.augment, self.limit = augment, limit
        self.fit = images.Fit(image_size, resize, crop_pct, interpolation)
        self._datasets: dict[str, ImageDataset] = {}

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """The K class names in the order of the targets; empty for unlabelled images."""

    @property
    @abstractmethod
    def multi_label(self) -> bool:
        """Whether an image may have several classes."""

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    @abstractmethod
    def source(self, split: str) -> ImageSource:
        """Return the images of "train", "val", "test" or "predict"."""

    def dataset(self, split: str) -> ImageDataset:
        """Return the ready data set of a split, always the same object.

        Raises:
            ValueError: If the split has no image.
        """
        if split not in self._datasets:
            source = self.source(split)
            if not source.names:
                raise ValueError(
                    f"{type(self).__name__}: split {split!r} has no images; check the data"
                )
            augment = self.augment and split == "train"
            self._datasets[split] = ImageDataset(source, self.fit, augment, self.seed, self.limit)
        return self._datasets[split]

    def setup(self, stage: str) -> None:
        """Open the splits of a stage now, so that a missing file stops the run before it starts."""
        for split in STAGES[stage]:
            if not (
                split == "val" and self.trainer is not None and self.trainer.limit_val_batches == 0
            ):
                self.dataset(split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the shuffled train loader.

        Raises:
            ValueError: If there are too few images for one full batch in each process.
        """
        dataset = self.dataset("train")
        replicas = self.trainer.world_size if self.trainer is not None else 1
        rank = self.trainer.global_rank if self.trainer is not None else 0
        if len(dataset) < self.batch_size * replicas:
            raise ValueError(
                f"the train split has {len(dataset)} images, too few for {replicas} process(es)"
                f" with batches of {self.batch_size}; lower batch_size"
            )
        sampler = EpochSampler(dataset, self.seed, replicas, rank)
        return ResumableLoader(dataset, sampler=sampler, drop_last=True, **self._loading())

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of all validation images in order."""
        return DataLoader(self.dataset("val"), **self._loading())

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of all test images in order."""
        return DataLoader(self.dataset("test"), **self._loading())

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the images to explain: the test images, or all of a plain folder."""
        return DataLoader(self.dataset("predict"), **self._loading())

    def _loading(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator(),  # else every loader draws from the global random state
        }
