"""Photographs that scikit-image installs with itself: real images without a download."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from datamodules.base import ImageDataModule
from datamodules.files import FileSource

# A photographer, a cat, a cup of coffee, a motor scooter and a rocket: things that ImageNet knows.
NAMES = ("camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


class Photos(ImageDataModule):
    """Unlabelled photographs, read where scikit-image keeps them; every split serves all of them.

    Licence: all but the motor scooter are CC0 or in the public domain, as `skimage.data` says image
    by image; that one belongs to the Middlebury stereo data of Scharstein et al., GCPR 2014.
    """

    def __init__(self, names: Sequence[str] = NAMES, **kwargs: Any) -> None:
        """Find the folder; the files are opened when needed.

        Args:
            names: Files in the folder `skimage.data.data_dir`; more come to it with
                `skimage.data.download_all()`.
            kwargs: See `ImageDataModule`.
        """
        super().__init__(**kwargs)
        self.root = Path(str(resources.files("skimage"))) / "data"
        self.names = list(names)

    @property
    def class_names(self) -> list[str]:
        """None: the photographs have no labels."""
        return []

    @property
    def multi_label(self) -> bool:
        """False: there are no labels."""
        return False

    def source(self, split: str) -> FileSource:
        """Return all photographs, whatever the split."""
        return FileSource(self.root, dict.fromkeys(self.names, ()), num_classes=0)
