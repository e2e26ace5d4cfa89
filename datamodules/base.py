"""Base class of all data modules, with their loaders, image sizes, transforms and checks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from datamodules import images
from datamodules.sampling import Batch, EpochSampler, Key, ResumableLoader, one_thread, seeded

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


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
        """

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Convert a resized and augmented sample to the keys of a batch; by default unchanged."""
        return sample


class ImageDataset(Dataset[Batch]):
    """Resized and augmented samples of a source, by index or by (epoch, index).

    The epoch seeds the augmentation; a plain index stands for epoch 0.

    Args:
        source: Source of the raw images.
        fit: Operation that brings images and masks to their final size.
        augment: Whether to apply `images.augmentation`.
        seed: Seed of the augmentation.
        limit: Largest number of images; None uses all.
    """

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
        """Return one sample: image (3, H, W) float32 in [0, 1], name, index and all other keys."""
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
    """Base class of image data sets, which provides the loaders of all splits.

    Subclasses define `class_names`, `multi_label` and `source`. A batch is a dict with:

    - `image` (B, 3, H, W) float32 in [0, 1]
    - `target` (B, K) bool, unless the data are unlabeled
    - `name`: unique strings
    - `index` (B,): positions in the split, which identify images that distributed samplers repeat
    - `mask` (B, K, H, W) bool and `void` (B, H, W) bool, if the data have them

    Training order and augmentation depend only on (seed, epoch, index), not on the number of
    workers. Training that is resumed from any checkpoint continues with the same images as
    uninterrupted training.

    Args:
        image_size: Height and width of the images, [H, W]. None takes the input size of the
            classifier that the trainer runs, and [224, 224] without one.
        batch_size: Number of images per batch and process. Training drops the last incomplete
            batch.
        num_workers: Number of loading processes, with one thread each, which are kept alive between
            epochs.
        seed: Seed of the training order and the augmentation.
        augment: Whether to flip, rotate and color-jitter the training images.
        resize: Way to reach the image size. "squash" ignores the aspect ratio, as the papers do;
            "crop" takes the center of the image.
        crop_pct: With "crop", fraction of the tighter side that is kept, in (0, 1].
        interpolation: Interpolation of images, "bilinear" or "bicubic". Masks use the nearest
            pixel.
        limit: Number of images to use from the beginning of each split; None uses all.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        image_size: Sequence[int] | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        augment: bool = False,
        resize: str = "squash",
        crop_pct: float = 0.875,
        interpolation: str = "bilinear",
        limit: int | None = None,
    ) -> None:
        super().__init__()
        if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
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
        self._image_size = None if image_size is None else list(image_size)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.augment, self.limit = augment, limit
        self._resizing = (resize, crop_pct, interpolation)
        self.test_on: Literal["test", "all"] | None = None  # an argument of folders and lists
        self._datasets: dict[tuple[str, str | None, int, int], ImageDataset] = {}
        self._said = ""

    @property
    def image_size(self) -> list[int]:
        """Height and width of the images; before a run those that hold without a classifier."""
        return self._image_size or self._input_size() or [224, 224]

    def _input_size(self) -> list[int] | None:
        """Return the input size of the classifier that the trainer runs, if it states one."""
        module = getattr(self.trainer, "lightning_module", None)
        for owner in (getattr(module, "explanandum", None), module):
            if size := getattr(owner, "input_size", None):
                return list(size)
        return None

    @property
    def fit(self) -> images.Fit:
        """Operation that brings images and masks to `image_size`."""
        return images.Fit(self.image_size, *self._resizing)

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """The K class names in the order of the targets; empty for unlabeled images."""

    @property
    @abstractmethod
    def multi_label(self) -> bool:
        """Whether an image can have several classes."""

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    @property
    def splits_at_random(self) -> bool:
        """Whether the splits are random parts of one set of images; False unless overridden."""
        return False

    @abstractmethod
    def source(self, split: str) -> ImageSource:
        """Return the source of a split: "train", "val", "test" or "predict"."""

    def dataset(self, split: str) -> ImageDataset:
        """Return the data set of a split; repeated calls return the same object.

        Raises:
            ValueError: If the split has no images.
        """
        height, width = self.image_size
        key = (split, self.test_on, height, width)
        if key not in self._datasets:
            source = self.source(split)
            if not source.names:
                raise ValueError(
                    f"{type(self).__name__}: split {split!r} has no images; check the data"
                )
            augment = self.augment and split == "train"
            self._datasets[key] = ImageDataset(source, self.fit, augment, self.seed, self.limit)
        return self._datasets[key]

    def setup(self, stage: str) -> None:
        """Open the splits of a stage, so that a missing file is reported before the run starts.

        If `image_size` is not given, the size and its reason are said once.
        """
        if self._image_size is None:
            height, width = self.image_size
            why = "the input size of the classifier" if self._input_size() else "the default"
            text = f"image_size: {height} x {width}, {why}"
            if text != self._said:
                rank_zero_info(text)
            self._said = text
        for split in STAGES[stage]:
            unused = (
                split == "val" and self.trainer is not None and self.trainer.limit_val_batches == 0
            )
            open_choice = split == "test" and self.splits_at_random and self.test_on is None
            if not (unused or open_choice):  # what is compared may choose all images to test
                self.dataset(split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the shuffled training images.

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
        """Return the loader of the images to explain: test images, or all of an unsplit folder."""
        return DataLoader(self.dataset("predict"), **self._loading())

    def _loading(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": one_thread,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator(),  # otherwise loaders draw from the global random state
        }
