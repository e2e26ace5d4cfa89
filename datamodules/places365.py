"""Places365: photographs of 365 kinds of places."""

import os
from pathlib import Path
from typing import Any

from torchvision.datasets import Places365 as Downloads

from datamodules.arguments import check_fraction, check_whole
from datamodules.base import ImageDataModule
from datamodules.files import FileSource, Labels, random_split
from datamodules.listing import shown

NAMES = "categories_places365.txt"
LISTS = {"train": "places365_train_standard.txt", "val": "places365_val.txt"}
FOLDERS = {  # of 256 x 256 pixels first, and relative to the root
    "train": ("data_256_standard", "data_256", "data_large_standard", "data_large", "train"),
    "val": ("val_256", "val_large", "val"),
}


class Places365(ImageDataModule):
    """Places365-Standard (Zhou et al., TPAMI 2018), one class per image.

    Card:
        - What: photographs of 365 kinds of places, such as "airfield", in files of 256 x 256 pixels
          or of their original size.
        - From: places2.csail.mit.edu; for research and education only.
        - Splits: 1,803,460 train and 36,500 val images, 100 of each class. The labels of the test
          images are not public, so that the published val images are the test split here, and
          `val_fraction` of the train images is the val split.
        - Traps: the order of the val images is that of the list. Paths of the train list begin with
          "/". The lists are downloaded separately from the images.

    The layout is the published one: `categories_places365.txt`, `places365_val.txt`,
    `places365_train_standard.txt`, and the images in `val_256` and `data_256` (`val_large` and
    `data_large`), also with the endings `_standard` that torchvision gives them.

    Args:
        root: Folder of the data.
        val_fraction: Fraction of the train images in the val split, in (0, 1).
        split_seed: Seed of the val split.
        download: Whether to download the lists and the val images of 256 x 256 pixels into `root`
            with torchvision if the list or the folder is missing.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    incidental = ImageDataModule.incidental | {"download"}

    def __init__(
        self,
        root: str = "data/Places365",
        val_fraction: float = 0.01,
        split_seed: int = 0,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_whole(0, split_seed=split_seed)
        check_fraction(val_fraction=val_fraction)
        self.root, self.download = Path(root), download
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self._names: list[str] = []

    def prepare_data(self) -> None:
        """Download the lists and the val images if `download` is set and they are missing."""
        there = (self.root / LISTS["val"]).is_file() and self._folder("val") is not None
        if self.download and not there:
            Downloads(str(self.root), split="val", small=True, download=True)

    @property
    def class_names(self) -> list[str]:
        """The 365 classes in the order of their indices, such as "abbey" or "apartment building".

        A part of a place stands behind a slash, as in "bazaar/indoor".
        """
        if not self._names:
            listed = self._listed(NAMES)
            by_index = {index: name for name, index in listed}
            if sorted(by_index) != list(range(len(listed))):
                raise ValueError(
                    f"{shown(self.root / NAMES)}: expected each index from 0 once; replace the file"
                )
            paths = [by_index[index] for index in range(len(by_index))]
            self._names = [path.lstrip("/").partition("/")[2].replace("_", " ") for path in paths]
        return list(self._names)

    @property
    def multi_label(self) -> bool:
        """False, since each image has one class."""
        return False

    def _listed(self, name: str) -> list[tuple[str, int]]:
        """Return the path and the number of each line of a list."""
        path = self.root / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{shown(path)}: no such file; set root to the folder of Places365, which holds"
                f" {NAMES} and {LISTS['val']}, or download: true"
            )
        found = []
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
        for number, line in enumerate(lines, start=1):
            place, _, index = line.rpartition(" ")
            if line.strip():
                if not (place.strip() and index.strip().isdecimal()):
                    raise ValueError(
                        f"{shown(path)}:{number}: expected a path and a number, got {shown(line)!r}"
                    )
                found.append((place.strip(), int(index)))
        return found

    def _folder(self, part: str) -> str | None:
        return next((name for name in FOLDERS[part] if (self.root / name).is_dir()), None)

    def source(self, split: str) -> FileSource:
        """Return the source of a split; "predict" contains the test images.

        Raises:
            FileNotFoundError: If a list or the images are missing.
            ValueError: If a list has another form.
        """
        part = "train" if split in ("train", "val") else "val"
        listed, count = self._listed(LISTS[part]), len(self.class_names)
        folder = self._folder(part)
        if folder is None:
            fix = "; set download: true" if part == "val" else ""
            raise FileNotFoundError(
                f"{shown(self.root)}: no folder {' or '.join(FOLDERS[part])} with the {part}"
                f" images{fix}"
            )
        if high := next((index for _, index in listed if index >= count), 0):
            raise ValueError(f"{shown(self.root / LISTS[part])}: class {high}, not below {count}")
        labels: dict[str, Labels] = {
            os.path.join(folder, place.lstrip("/")): (index,) for place, index in listed
        }
        if part == "train":
            fractions = (1.0 - self.val_fraction, self.val_fraction, 0.0)
            kept = random_split(list(labels), fractions, self.split_seed)[split]
            labels = {name: labels[name] for name in kept}
        return FileSource(self.root, labels, count)
