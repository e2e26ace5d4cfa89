"""Imagenette and Imagewoof: ten classes of ImageNet each, also as random corners of the images."""

import zlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torchvision
from torchvision.transforms.v2 import functional as F

from datamodules import synsets
from datamodules.arguments import check_choice, check_whole
from datamodules.base import ImageDataModule
from datamodules.files import FileSource, Labels
from datamodules.folder import in_turn
from datamodules.listing import find_images, shown
from datamodules.table import Table

SIZES = {"full": "", "320px": "-320", "160px": "-160"}
NOISE = (0, 1, 5, 25, 50)  # percent, the columns of the CSV file
WHOLE, CORNER = 256, 180  # sides in pixels of the image and its corners


class CornerSource(FileSource):
    """Source of one random corner of each image: 180 x 180 pixels of the image at 256 x 256.

    Args:
        root: Folder to which the paths are relative.
        labels: Class indices of each image, by path.
        num_classes: Number of classes.
        seed: Seed of the draw, which depends on nothing else but the file name.
    """

    def __init__(self, root: Path, labels: dict[str, Labels], num_classes: int, seed: int) -> None:
        super().__init__(root, labels, num_classes)
        self.seed = seed

    def load(self, index: int) -> dict[str, Any]:
        """Return the corner of an image and its target."""
        sample = super().load(index)
        name = self.names[index].rpartition("/")[2]
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode(errors="surrogateescape"))])
        top, left = (int(side) * (WHOLE - CORNER) for side in rng.integers(2, size=2))
        whole = F.resize(sample["image"], [WHOLE, WHOLE], antialias=True)
        sample["image"] = F.crop(whole, top, left, CORNER, CORNER)
        return sample


class TenClasses(ImageDataModule):
    """Base class of fastai's sets of ten ImageNet classes, see `Imagenette` and `Imagewoof`."""

    incidental = ImageDataModule.incidental | {"download"}
    wnids: ClassVar[tuple[str, ...]]
    folder: ClassVar[str]
    downloadable: ClassVar[bool]

    def __init__(
        self,
        root: str = "data",
        size: Literal["full", "320px", "160px"] = "full",
        corner: bool = False,
        noise: int = 0,
        imagenet_targets: bool = False,
        split_seed: int = 0,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("size", size, list(SIZES))
        check_choice("noise", noise, NOISE)
        check_whole(0, split_seed=split_seed)
        if corner and kwargs.get("resize", "squash") != "squash":
            raise ValueError("corner: true needs resize: squash, since the corner is the crop")
        if download and not self.downloadable:
            raise ValueError(
                f"torchvision has no download of {self.folder}; unpack"
                f" https://s3.amazonaws.com/fast-ai-imageclas/{self.folder}2{SIZES[size]}.tgz into"
                f" {root} and set download: false"
            )
        self.root, self.size, self.corner = root, size, corner
        self.noise, self.split_seed, self.download = noise, split_seed, download
        self.imagenet_targets = imagenet_targets
        index = synsets.class_indices()
        self.indices = {
            wnid: index[wnid] if imagenet_targets else place
            for place, wnid in enumerate(self.wnids)
        }

    @property
    def class_names(self) -> list[str]:
        """The names of timm in the order of the WordNet ids, or of all 1000 classes."""
        names, index = synsets.class_names(), synsets.class_indices()
        return list(names) if self.imagenet_targets else [names[index[w]] for w in self.wnids]

    @property
    def multi_label(self) -> bool:
        """False, since each image has one class."""
        return False

    def prepare_data(self) -> None:
        """Download the archive with torchvision if `download` is set and the folder is missing."""
        if self.download and self._find() is None:
            torchvision.datasets.Imagenette(self.root, size=self.size, download=True)

    def _folders(self) -> list[Path]:
        end = SIZES[self.size]
        names = ["", f"{self.folder}2{end}", f"{self.folder}{end}"]
        return [Path(self.root) / name for name in names]

    def _find(self) -> Path | None:
        have = (folder for folder in self._folders() if (folder / "val" / self.wnids[0]).is_dir())
        return next(have, None)

    def source(self, split: str) -> FileSource:
        """Return the source of a split; "test" and "predict" contain the val images.

        Raises:
            FileNotFoundError: If the folder or the file of noisy labels is missing.
            ValueError: If a class has no images, or a noisy label is unknown.
        """
        split = "train" if split == "train" else "val"
        root = self._find()
        if root is None:
            places = ", ".join(shown(folder / "val" / self.wnids[0]) for folder in self._folders())
            fix = "download: true, or " if self.downloadable else ""
            raise FileNotFoundError(
                f"{shown(self.root)}: no {self.folder} ({self.size}) here; looked for {places}; set"
                f" {fix}root and size to what you have"
            )
        if not (root / split).is_dir():
            raise FileNotFoundError(f"{shown(root / split)}: no such folder; unpack it again")
        found = {f"{split}/{name}": name.split("/")[0] for name in find_images(root / split)[0]}
        classes = {name: wnid for name, wnid in found.items() if wnid in self.indices}
        if missing := sorted(set(self.wnids) - set(classes.values())):
            raise ValueError(
                f"{shown(root / split)}: no images of {', '.join(missing)}; unpack it again"
            )
        if split == "train" and self.noise:
            classes = self._noisy(root, classes)
        names = in_turn(list(classes), found)
        labels: dict[str, Labels] = {name: (self.indices[classes[name]],) for name in names}
        if self.corner:
            return CornerSource(root, labels, self.num_classes, self.split_seed)
        return FileSource(root, labels, self.num_classes)

    def _noisy(self, root: Path, classes: dict[str, str]) -> dict[str, str]:
        """Return the WordNet ids of the training images with `noise` percent of wrong ones."""
        table = Table(root / f"noisy_{self.folder}.csv", ("path", "noise: 0"))
        path = table.column("path", "noise: 0")
        column = table.column(f"noisy_labels_{self.noise}", "noise: 0")
        noisy = {table.entry(row, path): table.entry(row, column) for row in table.rows}
        if lost := [name for name in classes if noisy.get(name) not in self.indices]:
            raise ValueError(
                f"{shown(table.path)}: no label of {shown(lost[0])} in {column!r}; set noise: 0"
            )
        return {name: noisy[name] for name in classes}


class Imagenette(TenClasses):
    """Imagenette (fastai): ten easily told classes of ImageNet, from tench to parachute.

    - From: https://github.com/fastai/imagenette, Apache-2.0 for the repository; the images are
      under ImageNet's terms of access. `download: true` uses torchvision.
    - Splits: 9,469 images in train and 3,925 in val, which are the test images too.
    - Layout: train/n01440764/x.JPEG and val/n01440764/x.JPEG in `root`, or in imagenette2,
      imagenette2-320 or imagenette2-160 there, or in the names of version 1 without "2".
    - Size: 1.5 GB, 330 MB (320px) and 95 MB (160px). 160px and 320px are the shorter side.
    - Traps: the val images are partly training images of ImageNet. A classifier of 1000 classes
      needs `imagenet_targets`, or the indices 0, 217, 482, 491, 497, 566, 569, 571, 574, 701 as its
      `classes`. Version 1 has other splits.

    Classes take turns in the order of the images, so that `limit` keeps them balanced.

    Args:
        root: Folder of the data set or the folder above it.
        size: Size of the images, "full", "320px" or "160px", which chooses the folder.
        corner: Whether to take a random corner of each image: one of the four of 180 x 180 pixels
            of the image at 256 x 256, resized to `image_size`. This is Imagenette-Corner of the
            masking paper (Bordt et al., 2022, appendix C), whose draw is not published.
        noise: Percentage of wrong training labels, 0, 1, 5, 25 or 50, from noisy_imagenette.csv.
        imagenet_targets: Whether targets are those of the 1000 classes of ImageNet.
        split_seed: Seed of the corners.
        download: Whether to download the archive into `root` with torchvision if it is missing.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    wnids, folder, downloadable = synsets.IMAGENETTE, "imagenette", True


class Imagewoof(TenClasses):
    """Imagewoof (fastai): ten breeds of dogs of ImageNet, harder than Imagenette.

    - From: https://github.com/fastai/imagenette, Apache-2.0 for the repository; the images are
      under ImageNet's terms of access. torchvision cannot download it.
    - Splits: 9,025 images in train and 3,929 in val, which are the test images too.
    - Layout: as `Imagenette`, in imagewoof2, imagewoof2-320 or imagewoof2-160.
    - Size: 1.3 GB, 330 MB (320px) and 90 MB (160px).
    - Traps: as `Imagenette`.

    Args:
        root: Folder of the data set or the folder above it.
        size: Size of the images, "full", "320px" or "160px", which chooses the folder.
        corner: Whether to take a random corner of each image, see `Imagenette`.
        noise: Percentage of wrong training labels, 0, 1, 5, 25 or 50, from noisy_imagewoof.csv.
        imagenet_targets: Whether targets are those of the 1000 classes of ImageNet.
        split_seed: Seed of the corners.
        download: Not possible; the error says where the archive is.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    wnids, folder, downloadable = synsets.IMAGEWOOF, "imagewoof", False
