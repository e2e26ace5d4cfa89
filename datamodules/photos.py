"""Photographs that are installed with scikit-image: real images without a download."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from datamodules.arguments import check_names
from datamodules.base import ImageDataModule
from datamodules.files import FileSource

# A photographer, a cat, a cup of coffee, a motor scooter and a rocket: objects known to ImageNet.
NAMES = ("camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


class Photos(ImageDataModule):
    """Unlabeled photographs from the data folder of scikit-image; every split contains all of them.

    License: `skimage.data` documents each image. All images but the motor scooter are CC0 or in the
    public domain. The motor scooter belongs to the Middlebury stereo data of Scharstein et al.,
    GCPR 2014.

    Args:
        names: Names of files in the folder `skimage.data.data_dir`, which are opened when needed.
            `skimage.data.download_all()` adds more files to it.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, names: Sequence[str] = NAMES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_names("names", names)
        self.root = Path(str(resources.files("skimage"))) / "data"
        self.names = list(names)

    @property
    def class_names(self) -> list[str]:
        """An empty list, since the photographs have no labels."""
        return []

    @property
    def multi_label(self) -> bool:
        """False, since there are no labels."""
        return False

    def source(self, split: str) -> FileSource:
        """Return the source of all photographs, for any split."""
        return FileSource(self.root, dict.fromkeys(self.names, ()), num_classes=0)
