"""ImageNet-Segmentation: photographs of ImageNet with a mask of the object in the foreground."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from datamodules.base import ImageDataModule
from datamodules.dataset import ImageSource
from datamodules.identity import file_size
from datamodules.listing import shown

FILE = "gtsegs_ijcv.mat"


class SegmentationSource(ImageSource):
    """Source of the images and masks in the HDF5 file, which every process opens for itself.

    Args:
        path: The file.

    Raises:
        ValueError: If the file cannot be understood.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, Any] | None = None  # process and file
        try:
            count = self._file()["value/img"].shape[0]
            masks = self._file()["value/gt"].shape[0]
        except (KeyError, OSError, AttributeError) as error:
            raise ValueError(
                f"{shown(path)}: not the HDF5 file of ImageNet-Segmentation with /value/img and"
                f" /value/gt ({error}); download it again"
            ) from None
        if masks != count:
            raise ValueError(f"{shown(path)}: {count} images and {masks} masks; download it again")
        self.names = [f"{path.name}/{index:04d}" for index in range(count)]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, without the open file."""
        return self.__dict__ | {"_opened": None}

    def _file(self) -> Any:
        # A file that a process inherits shares its position with its parent.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _h5py().File(self.path, "r")
        return self._opened[1]

    def load(self, index: int) -> dict[str, Any]:
        """Return the image and the mask, at their original size.

        Raises:
            ValueError: If their form is not that of the data set.
        """
        file = self._file()
        pixels = np.asarray(file[file["value/img"][index, 0]])
        labels = np.asarray(file[file[file["value/gt"][index, 0]][0, 0]])
        if pixels.ndim != 3 or len(pixels) != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"expected an image (3, W, H) uint8, got {pixels.shape}")
        if labels.shape != pixels.shape[1:]:
            raise ValueError(f"mask {labels.shape} and image {pixels.shape[1:]} differ")
        if not np.isin(labels, (0, 1)).all():
            found = np.unique(labels)[:5].tolist()
            raise ValueError(f"expected a mask of 0 and 1, got the values {found}")
        mask = torch.from_numpy(labels.T.astype(np.uint8))  # MATLAB stores columns first
        image = torch.from_numpy(pixels.transpose(0, 2, 1).copy())
        return {"image": image, "mask": tv_tensors.Mask(mask)}

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Convert the mask to `mask` (1, H, W) bool."""
        sample["mask"] = sample["mask"][None] > 0
        return sample

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return the name, and the size of the file."""
        return self.names[index], file_size(str(self.path))


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError:
        extra = "pip install 'learned-explainers[segmentation]'"
        raise ValueError(f"reading {FILE} needs h5py: {extra}") from None


class ImageNetSegmentation(ImageDataModule):
    """ImageNet-Segmentation (Guillaumin et al., IJCV 2014): objects told from their background.

    - From: the file gtsegs_ijcv.mat of the authors' page at calvin-vision.net, about 6 GB; it must
      be downloaded by hand. Reading it needs h5py.
    - License: research, by ImageNet's terms of access.
    - Splits: all 4,276 images are the test and the val split. There is no training split.
    - Layout: gtsegs_ijcv.mat in `root`, or `root` is the file. It is MATLAB 7.3, that is, HDF5;
      every loading process opens it for itself.
    - Traps: there are no class labels here, so that `Score` explains the predicted class, as the
      protocol of Chefer et al. (CVPR 2021) does. They resize both sides to 224 and normalize with
      mean and std 0.5, also for classifiers that were trained otherwise.

    A batch has `mask` (B, 1, H, W) bool, the foreground whatever the class. Masks are resized by
    the nearest pixel.

    Args:
        root: Folder of the file, or the file.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    @property
    def class_names(self) -> list[str]:
        """An empty list, since the images have no labels."""
        return []

    @property
    def multi_label(self) -> bool:
        """False, since there are no labels."""
        return False

    def source(self, split: str) -> SegmentationSource:
        """Return the source of all images, for any split but train.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it cannot be understood, or the split is train.
        """
        if split == "train":
            raise ValueError(
                "ImageNet-Segmentation has no images to train on; train on ImageNet and test here"
            )
        root = Path(self.root)
        path = root if root.suffix == ".mat" else root / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{shown(path)}: no such file; download {FILE} from the authors' page and set"
                " data.init_args.root to its folder"
            )
        return SegmentationSource(path)
