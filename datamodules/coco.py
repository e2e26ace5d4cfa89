"""COCO 2014 and 2017: multi-label photographs with a mask of every object."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchvision import tv_tensors

from datamodules.arguments import check_choice, check_fraction, check_whole
from datamodules.base import ImageDataModule
from datamodules.coco_annotations import CATEGORIES, Picture, Thing, read_annotations
from datamodules.coco_masks import instance_mask
from datamodules.dataset import ImageSource
from datamodules.files import multi_hot, random_split
from datamodules.identity import digest, file_size
from datamodules.images import Fit, read_image
from datamodules.listing import shown
from datamodules.voc import fit_boxes

MOST_BOXES = 128  # objects per image, a fixed number so that they can be batched; the most are 93
HIGHEST_ID = 90


class COCOSource(ImageSource):
    """Source of the images of one split.

    Args:
        root: Folder to which the paths are relative.
        folder: Folder of the images in `root`.
        pictures: The images with their objects.
        indices: Class index of each category id.
        num_classes: Number of classes.
        masks: Whether to provide masks.
        crowd: Treatment of crowds, see `COCO`.
        fit: Resizing of the images, which is applied to the boxes; None provides no boxes.
    """

    def __init__(
        self,
        root: Path,
        folder: str,
        pictures: list[Picture],
        indices: dict[int, int],
        num_classes: int,
        masks: bool,
        crowd: str,
        fit: Fit | None,
    ) -> None:
        self.root, self.pictures, self.indices = root, pictures, indices
        self.names = [f"{folder}/{picture.name}" for picture in pictures]
        self.num_classes, self.masks, self.crowd, self.fit = num_classes, masks, crowd, fit

    def _classes(self, picture: Picture) -> list[int]:
        return sorted({self.indices[thing.category] for thing in picture.things})

    def load(self, index: int) -> dict[str, Any]:
        """Return image, target, boxes and one mask for each class in the image."""
        picture, path = self.pictures[index], self.root / self.names[index]
        image = read_image(str(path))
        if list(image.shape[1:]) != [picture.height, picture.width]:
            raise ValueError(
                f"{shown(path)}: {list(image.shape[1:])} pixels, the annotations say"
                f" {[picture.height, picture.width]}; replace the file"
            )
        classes = self._classes(picture)
        sample = {"image": image, "target": multi_hot(classes, self.num_classes)}
        if self.fit is not None:
            boxes = self._boxes(picture.things, shown(path))
            sample["boxes"] = fit_boxes(boxes, self.fit, image.shape[-2:])
        if self.masks:
            planes = np.zeros((len(classes) + 1, picture.height, picture.width), np.uint8)
            for thing in picture.things:
                try:
                    mask = instance_mask(thing.outline, picture.height, picture.width)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{shown(path)}: an object has {error}") from None
                ignored = thing.crowd and self.crowd == "ignore"
                row = len(classes) if ignored else classes.index(self.indices[thing.category])
                planes[row] |= mask
            sample["mask"] = tv_tensors.Mask(torch.from_numpy(planes))
        return sample

    def _boxes(self, things: Sequence[Thing], name: str) -> Tensor:
        found = [(thing, thing.box) for thing in things if thing.box is not None]
        if len(found) > MOST_BOXES:
            raise ValueError(f"{name}: {len(found)} boxes, expected at most {MOST_BOXES}")
        boxes = torch.full((MOST_BOXES, 5), -1.0)
        for row, (thing, (left, top, width, height)) in enumerate(found):
            if not (thing.crowd and self.crowd == "ignore"):
                corners = [left, top, left + width, top + height]
                boxes[row] = torch.tensor([self.indices[thing.category], *corners])
        return boxes

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return the name, the file size, the classes, and a hash of the objects."""
        picture = self.pictures[index]
        things = digest((t.category, t.crowd, t.box) for t in picture.things)
        size = file_size(f"{self.root}/{self.names[index]}")
        return self.names[index], size, *self._classes(picture), things

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Expand the masks to `mask` (K, H, W) and, if crowds are ignored, `void` (H, W)."""
        if self.masks:
            planes = sample["mask"].bool()
            mask = torch.zeros(self.num_classes, *planes.shape[1:], dtype=torch.bool)
            mask[sample["target"]] = planes[:-1]
            sample["mask"] = mask
            if self.crowd == "ignore":
                sample["void"] = planes[-1] & ~mask.any(dim=0)
        return sample


class COCO(ImageDataModule):
    """COCO 2014 or 2017 (Lin et al., ECCV 2014), multi-label with object masks.

    Card:
        - What: photographs of everyday scenes with 80 classes of objects, each outlined.
        - From: cocodataset.org; annotations CC BY 4.0, images under Flickr's terms of use.
        - Splits: 82,783 train and 40,504 val images in 2014, 118,287 and 5,000 in 2017, the same
          images otherwise divided. The labels of the test images are not public, so that the
          published val images are the test split here, and a tenth of the published train images
          is the val split, as in NN-Explainer.
        - Traps: category ids go to 90, without 11 numbers. Images without objects (48 of the val
          images of 2017) are left out. Some images are gray. Small objects can have no pixel in the
          mask of a small image. Crowds of objects are outlined as one.

    The layout is the published one: `train2017` and `val2017` with the images, also in a folder
    `images`, and `annotations/instances_train2017.json` and `instances_val2017.json`. Reading the
    train annotations of 2017 takes about 20 seconds and 3 GB of memory.

    A batch of val, test and predict contains `boxes` (128, 5): class, left, top, right and bottom
    in pixels of the resized image, with -1 in unused rows. With `masks`, all batches contain `mask`
    (B, K, H, W) bool, the union of the objects of each class.

    Args:
        root: Folder of the data.
        year: Year of the data set, "2014" or "2017".
        classes: Order of the targets: "contiguous", the 80 classes, or "ids", 91 numbers of which
            each category has that of its id, as the classifiers of NN-Explainer and of torchvision.
        masks: Whether to provide masks.
        crowd: Treatment of the pixels and boxes of crowds. "object" takes them as objects of their
            class, as NN-Explainer does; "ignore" provides the pixels as `void`. They count in the
            targets either way.
        allow_empty: Whether to keep images without objects.
        val_fraction: Fraction of the published train images in the val split, in (0, 1).
        split_seed: Seed of the val split.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        root: str = "data/COCO",
        year: Literal["2014", "2017"] = "2017",
        classes: Literal["contiguous", "ids"] = "contiguous",
        masks: bool = True,
        crowd: Literal["object", "ignore"] = "object",
        allow_empty: bool = False,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("year", year, ["2014", "2017"])
        check_choice("classes", classes, ["contiguous", "ids"])
        check_choice("crowd", crowd, ["object", "ignore"])
        check_whole(0, split_seed=split_seed)
        check_fraction(val_fraction=val_fraction)
        self.root, self.year, self.by_id = Path(root), year, classes == "ids"
        self.masks, self.crowd, self.allow_empty = masks, crowd, allow_empty
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self._read: dict[str, list[Picture]] = {}

    @property
    def class_names(self) -> list[str]:
        """The 80 classes, or 91 of which those without a class have their number as name."""
        if self.by_id:
            return [CATEGORIES.get(number, str(number)) for number in range(HIGHEST_ID + 1)]
        return list(CATEGORIES.values())

    @property
    def multi_label(self) -> bool:
        """True, since a photograph can show several classes."""
        return True

    def _pictures(self, part: str) -> list[Picture]:
        if part not in self._read:
            name = f"instances_{part}{self.year}.json"
            paths = [self.root / "annotations" / name, self.root / name]
            path = next((path for path in paths if path.is_file()), paths[0])
            pictures = read_annotations(path, self.masks)
            if not self.allow_empty:
                kept = [picture for picture in pictures if picture.things]
                if empty := len(pictures) - len(kept):
                    rank_zero_info(f"{path}: {empty} images without objects are left out")
                pictures = kept
            self._read[part] = pictures
        return self._read[part]

    def source(self, split: str) -> COCOSource:
        """Return the source of a split; "predict" contains the test images.

        Raises:
            FileNotFoundError: If the images or the annotations are missing.
            ValueError: If the annotations are not those of COCO.
        """
        part = "train" if split in ("train", "val") else "val"
        folders = [f"{part}{self.year}", f"images/{part}{self.year}"]
        folder = next((name for name in folders if (self.root / name).is_dir()), None)
        if folder is None:
            raise FileNotFoundError(
                f"{shown(self.root)}: no folder {' or '.join(folders)}; set root to the folder of"
                " COCO, or year"
            )
        pictures = self._pictures(part)
        if part == "train":
            fractions = (1.0 - self.val_fraction, self.val_fraction, 0.0)
            places = [str(place) for place in range(len(pictures))]
            kept = random_split(places, fractions, self.split_seed)[split]
            pictures = [pictures[int(place)] for place in kept]
        ids = {number: number if self.by_id else i for i, number in enumerate(CATEGORIES)}
        fit = None if split == "train" else self.fit
        options = (self.masks, self.crowd, fit)
        return COCOSource(self.root, folder, pictures, ids, self.num_classes, *options)
