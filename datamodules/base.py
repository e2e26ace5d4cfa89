"""Base class of all data modules, with their loaders, image sizes, transforms and checks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from datamodules import images
from datamodules.arguments import check_choice, check_shard, check_size, check_whole
from datamodules.dataset import ImageDataset, ImageSource
from datamodules.identity import deciding, digest, full_name, recorded
from datamodules.loading import Batch, ImageLoader, collate, gather
from datamodules.sampling import EpochSampler, ResumableLoader, one_thread
from datamodules.selection import Judge, check_only, select

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


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
        augment: Whether to flip, rotate and color-jitter the training images. "crop" flips them and
            takes random crops, which cut off an eighth of each side. "affine" and "pad" are those
            of Ra-NEM and of CIFAR, see `images.augmentation`.
        resize: Way to reach the image size. "squash" ignores the aspect ratio, as the papers do;
            "crop" takes the center of the image.
        crop_pct: With "crop", fraction of the tighter side that is kept, in (0, 1].
        interpolation: That of images, "bilinear" or "bicubic". Masks use the nearest pixel.
        limit: Number of images to use from the beginning of each split; None uses all.
        on_error: Treatment of images that cannot be read. "skip" leaves them out of their batches,
            keeps them in `skipped` and says at the end how many they were; "raise" stops. None
            skips in test and predict, and raises in fit and validate.
        shard: The part [i, n] of the test and predict images, of n parts counted from 0: every
            n-th image, so that n runs share the work. `evaluate.py merge` joins their results.
        only: Test and predict images to use, by the classifier's own prediction: "correct",
            "wrong", or the least probability of the predicted class. A multi-label prediction is
            correct if it is exactly the classes of the image. With `limit`, they are chosen at
            random by `seed`. Predictions are kept in the user's cache folder.

    Raises:
        ValueError: If an argument is out of range.
    """

    # Arguments that do not change any image, which `identity` leaves out.
    incidental: ClassVar[frozenset[str]] = frozenset({"batch_size", "num_workers", "on_error"})

    _arguments: dict[str, Any]  # all arguments, kept by `recorded`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the arguments of every subclass for `identity`."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls) or not hasattr(cls.__init__, "__wrapped__"):  # or of a mixin
            cls.__init__ = recorded(cls.__init__)  # type: ignore[method-assign]

    @recorded
    def __init__(
        self,
        image_size: Sequence[int] | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        augment: bool | Literal["crop", "affine", "pad"] = False,
        resize: str = "squash",
        crop_pct: float = 0.875,
        interpolation: str = "bilinear",
        limit: int | None = None,
        on_error: Literal["skip", "raise"] | None = None,
        shard: Sequence[int] | None = None,
        only: Literal["correct", "wrong"] | float | None = None,
    ) -> None:
        super().__init__()
        check_shard(shard)
        check_only(only)
        if image_size is not None:
            check_size(image_size)
        check_whole(1, batch_size=batch_size, limit=1 if limit is None else limit)
        check_whole(0, num_workers=num_workers, seed=seed)
        check_choice("resize", resize, ["squash", "crop"])
        check_choice("interpolation", interpolation, list(images.INTERPOLATIONS))
        check_choice("augment", augment, [False, True, "crop", "affine", "pad"])
        check_choice("on_error", on_error, [None, "skip", "raise"])
        if not (isinstance(crop_pct, int | float) and 0.0 < crop_pct <= 1.0):
            raise ValueError(f"crop_pct must be in (0, 1], got {crop_pct!r}")
        self._image_size = None if image_size is None else list(image_size)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.augment, self.limit, self.on_error = augment, limit, on_error
        self._resizing = (resize, crop_pct, interpolation)
        self.test_on: Literal["test", "all"] | None = None  # an argument of folders and lists
        self._datasets: dict[tuple[str, str | None, int, int], ImageDataset] = {}
        self._said = ""
        self.shard, self.only, self.chosen = shard, only, ""  # what `only` has chosen, in words
        self.judge: Judge | None = None  # the classifier that `only` asks, set before the run

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
            augment = self.augment if split == "train" else False
            shard = self.shard if split in ("test", "predict") else None
            choice = self.limit, self.skips_errors(split), shard
            self._datasets[key] = ImageDataset(source, self.fit, augment, self.seed, *choice)
        return self._datasets[key]

    def skips_errors(self, split: str) -> bool:
        """Return whether images of a split that cannot be read are left out, see `on_error`."""
        return (self.on_error or ("raise" if split in ("train", "val") else "skip")) == "skip"

    @property
    def skipped(self) -> dict[str, str]:
        """Reasons, by name, why images could not be read so far in this stage and process."""
        records = [dataset.skipped.reasons for dataset in self._datasets.values()]
        return {name: reason for reasons in records for name, reason in reasons.items()}

    def identity(self, split: str, count: int | None = None) -> dict[str, Any]:
        """Return all that decides the images of a split, as JSON types, for comparing runs.

        This is the class with its arguments, the size of the images, the class names, and the
        number of images with a hash of their names, and one of all that their source tells of them:
        also labels and sizes of files, if there are any. The arguments are those of the class and
        of its bases.

        Args:
            split: Split of the images.
            count: Number of images from the beginning of the split; None takes all.
        """
        dataset = self.dataset(split)
        # The parts of an array job differ in `shard` alone, unless only some batches are used.
        partial = count is not None and count < len(dataset)
        places = dataset.positions[:count] if partial else dataset.whole
        return {
            "class": full_name(type(self)),
            "arguments": deciding(self._arguments, self.incidental | {"image_size"}, self.test_on),
            "image_size": [int(side) for side in self.image_size],
            "class_names": [str(name) for name in self.class_names],
            "split": split,
            "images": len(places),
            "names": digest(dataset.source.names[place] for place in places),
            "hash": digest(dataset.source.identity(place) for place in places),
        }

    def setup(self, stage: str) -> None:
        """Open the splits of a stage, so that a missing file is reported before the run starts.

        If `image_size` is not given, the size and its reason are said once. Images that could not
        be read in an earlier stage are forgotten.
        """
        for known in self._datasets.values():
            known.skipped.clear()
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

    def teardown(self, stage: str) -> None:
        """Warn of the images that could not be read, unless a loader has done so.

        Raises:
            ValueError: If no image of a data set could be read by any process.
        """
        records = [dataset.skipped for dataset in self._datasets.values()]
        gather(records)
        for record in records:
            record.check()
            record.say()

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
                " (--data.init_args.batch_size)"
            )
        sampler = EpochSampler(dataset, self.seed, replicas, rank)
        return ResumableLoader(dataset, sampler=sampler, drop_last=True, **self._loading())

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of all validation images in order."""
        return ImageLoader(self.dataset("val"), **self._loading())

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of all test images in order."""
        return ImageLoader(self._selected("test"), **self._loading())

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the images to explain: test images, or all of an unsplit folder."""
        return ImageLoader(self._selected("predict"), **self._loading())

    def _selected(self, split: str) -> ImageDataset:
        """Return the data set of a split with the images of `only` and `shard`."""
        dataset = self.dataset(split)
        if self.only is not None:
            choice = self.only, self.limit, self.seed, self.judge
            places, self.chosen = select(dataset, *choice, **self._loading())
            dataset.narrow(places, self.shard)
        return dataset

    def _loading(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": one_thread,
            "collate_fn": collate,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator(),  # otherwise loaders draw from the global random state
        }
