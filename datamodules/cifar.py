"""CIFAR-10 and CIFAR-100: small images of 32 x 32 pixels, from the files for Python."""

import io
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision

from datamodules.arguments import check_whole
from datamodules.base import ImageDataModule
from datamodules.dataset import ImageSource
from datamodules.files import multi_hot
from datamodules.listing import shown
from datamodules.subsets import draw_subsets, of_train

SIDE = 32
# What numpy's arrays in these files are made of; numpy has since moved the first.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler that makes plain values and arrays, and runs no other code of a file."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class or function that arrays need.

        Raises:
            pickle.UnpicklingError: If it is another one.
        """
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it contains {module}.{name}")
        return super().find_class(*ALLOWED[module, name])


def read_pickle(path: Path) -> dict[str, Any]:
    """Return the dict in a file of CIFAR.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it does not contain a dict of plain values and arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)}: no such file; unpack the archive again")
    try:
        content = ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"{shown(path)}: not a file of CIFAR ({error}); unpack the archive again"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{shown(path)}: expected a dict, got {type(content).__name__}")
    return content


class ArraySource(ImageSource):
    """Source of images in an array.

    Args:
        names: Names of the images.
        pixels: Values (N, 3072) uint8 of the images, of which `rows` are used.
        classes: Class index of each of the N images.
        rows: Row of each name.
        num_classes: Number of classes.
    """

    def __init__(
        self,
        names: Sequence[str],
        pixels: np.ndarray[Any, Any],
        classes: Sequence[int],
        rows: Sequence[int],
        num_classes: int,
    ) -> None:
        self.names, self.pixels, self.classes = list(names), pixels, classes
        self.rows, self.num_classes = rows, num_classes

    def load(self, index: int) -> dict[str, Any]:
        """Return the image (3, 32, 32) and its target."""
        row = self.rows[index]
        image = torch.from_numpy(self.pixels[row].reshape(3, SIDE, SIDE).copy())
        return {"image": image, "target": multi_hot([self.classes[row]], self.num_classes)}

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return name, class index and a checksum of the pixels."""
        row = self.rows[index]
        return self.names[index], self.classes[row], zlib.crc32(self.pixels[row].tobytes())


class CIFAR(ImageDataModule):
    """Base class of the two sets, see `CIFAR10` and `CIFAR100`."""

    incidental = ImageDataModule.incidental | {"download"}
    folder: ClassVar[str]
    batches: ClassVar[dict[str, tuple[str, ...]]]
    meta: ClassVar[tuple[str, str]]  # file and key of the class names
    labels: ClassVar[str]  # key of the class indices
    count: ClassVar[int]
    archive: ClassVar[type[torchvision.datasets.CIFAR10]]

    def __init__(
        self,
        root: str = "data",
        val_images: int | None = None,
        split_seed: int = 0,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_whole(1, val_images=1 if val_images is None else val_images)
        check_whole(0, split_seed=split_seed)
        self.root, self.val_images = root, val_images
        self.split_seed, self.download = split_seed, download
        self._names: list[str] | None = None

    @property
    def class_names(self) -> list[str]:
        """The class names in the order of their indices, from the files."""
        if self._names is None:
            file, key = self.meta
            path = self._find() / file
            names = read_pickle(path).get(key)
            if not isinstance(names, list) or len(names) != self.count:
                raise ValueError(f"{shown(path)}: expected {self.count} names in {key!r}")
            self._names = [str(name) for name in names]
        return list(self._names)

    @property
    def multi_label(self) -> bool:
        """False, since each image has one class."""
        return False

    def prepare_data(self) -> None:
        """Download and unpack the archive if `download` is set and the folder is missing."""
        if self.download and not any((folder / self.meta[0]).is_file() for folder in self._places):
            type(self).archive(self.root, download=True)

    @property
    def _places(self) -> list[Path]:
        return [Path(self.root) / self.folder, Path(self.root)]

    def _find(self) -> Path:
        for folder in self._places:
            if (folder / self.meta[0]).is_file():
                return folder
        files = ", ".join(shown(folder / self.meta[0]) for folder in self._places)
        raise FileNotFoundError(
            f"{shown(self.root)}: no {self.archive.__name__} for Python; looked for {files}; set"
            " root, or download: true, which also unpacks an archive in root"
        )

    def source(self, split: str) -> ArraySource:
        """Return the source of a split; "predict" contains the test images.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file cannot be understood, or there are too few images.
        """
        held = of_train(type(self).__name__, split, self.val_images)
        names, pixels, classes = self._read("train" if held else "test")
        counts = {"val": self.val_images, "train": None}
        chosen = draw_subsets(names, counts, self.split_seed)[split] if held else names
        place = {name: row for row, name in enumerate(names)}
        return ArraySource(chosen, pixels, classes, [place[name] for name in chosen], self.count)

    def _read(self, part: str) -> tuple[list[str], np.ndarray[Any, Any], list[int]]:
        folder = self._find()
        names: list[str] = []
        classes: list[int] = []
        arrays = []
        for file in self.batches[part]:
            path = folder / file
            content = read_pickle(path)
            pixels: Any = content.get("data")
            own = content.get(self.labels)
            good = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
            if not good or pixels.shape[1:] != (3 * SIDE * SIDE,) or not isinstance(own, list):
                raise ValueError(
                    f"{shown(path)}: expected 'data' (N, 3072) uint8 and a list {self.labels!r}"
                )
            if len(own) != len(pixels) or not all(label in range(self.count) for label in own):
                raise ValueError(
                    f"{shown(path)}: expected {len(pixels)} indices 0 to {self.count - 1} in"
                    f" {self.labels!r}"
                )
            arrays.append(pixels)
            classes += own
            names += [f"{file}/{row:05d}" for row in range(len(own))]
        return names, np.concatenate(arrays), classes


class CIFAR10(CIFAR):
    """CIFAR-10 (Krizhevsky, 2009): ten classes of animals and vehicles at 32 x 32 pixels.

    - From: https://www.cs.toronto.edu/~kriz/cifar.html, "CIFAR-10 python version"; `download: true`
      uses torchvision. The authors state no license; the images come from 80 Million Tiny Images.
    - Splits: 50,000 images in train and 10,000 in test, 6,000 of each class in all.
    - Layout: cifar-10-batches-py in `root`, or `root` is that folder: data_batch_1 to 5, test_batch
      and batches.meta. Images in class folders are read by `ImageFolder` instead.
    - Size: 180 MB.
    - Traps: classifiers differ in mean and std. Without `image_size`, the images are enlarged to
      the classifier's input; CIFAR networks need [32, 32]. The files are pickles, of which only
      arrays and plain values are read.

    Args:
        root: Folder of the data set or the folder above it.
        val_images: Number of training images, drawn at random, that are the val split and are not
            trained on. With None, the val images are the test images.
        split_seed: Seed of the draw.
        download: Whether to download the archive into `root` with torchvision if it is missing.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    folder, count, labels = "cifar-10-batches-py", 10, "labels"
    batches: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{part}" for part in range(1, 6)),
        "test": ("test_batch",),
    }
    meta, archive = ("batches.meta", "label_names"), torchvision.datasets.CIFAR10


class CIFAR100(CIFAR):
    """CIFAR-100 (Krizhevsky, 2009): 100 fine classes at 32 x 32 pixels.

    - From: https://www.cs.toronto.edu/~kriz/cifar.html, "CIFAR-100 python version"; `download:
      true` uses torchvision. The authors state no license.
    - Splits: 50,000 images in train and 10,000 in test, 600 of each class in all.
    - Layout: cifar-100-python in `root`, or `root` is that folder: train, test and meta.
    - Size: 180 MB.
    - Traps: as `CIFAR10`. The 20 coarse classes are not used.

    Args:
        root: Folder of the data set or the folder above it.
        val_images: Number of training images, drawn at random, that are the val split and are not
            trained on. With None, the val images are the test images.
        split_seed: Seed of the draw.
        download: Whether to download the archive into `root` with torchvision if it is missing.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    folder, count, labels = "cifar-100-python", 100, "fine_labels"
    batches: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
    meta, archive = ("meta", "fine_label_names"), torchvision.datasets.CIFAR100
