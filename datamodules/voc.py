"""PASCAL VOC 2007 and 2012: multi-label photographs, some with segmentation masks."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets import VOCDetection

from datamodules.arguments import check_choice
from datamodules.base import ImageDataModule
from datamodules.dataset import ImageSource
from datamodules.identity import file_size
from datamodules.images import Fit, read_image, read_labels

CLASS_NAMES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
]  # fmt: skip
VOID = 255
MOST_BOXES = 64  # boxes per image, a fixed number so that they can be batched
SPLITS = {
    "2007": {"train": "train", "val": "val", "test": "test"},
    "2012": {
        "train": "train",
        "val": "val",
        "test": "val",
    },  # the 2012 test annotations are not public
}


class VOCSource(ImageSource):
    """Source of the images of one image-set file.

    Args:
        folder: Folder with JPEGImages and Annotations.
        ids: Names of the images.
        masks: Whether to provide masks, if every image has a segmentation PNG.
        difficult: Whether to include objects that are marked difficult.
        void_as: Treatment of the border around objects, see `VOC`.
        fit: Resizing of the images, which is applied to the boxes; None provides no boxes.
    """

    def __init__(
        self,
        folder: Path,
        ids: list[str],
        masks: bool,
        difficult: bool,
        void_as: str,
        fit: Fit | None = None,
    ) -> None:
        self.folder, self.ids = folder, ids
        self.names = [f"JPEGImages/{image}.jpg" for image in ids]
        self.difficult, self.void_as, self.fit = difficult, void_as, fit
        self.masks = masks and all(self._segmentation(image).is_file() for image in ids)

    def _segmentation(self, image: str) -> Path:
        return self.folder / "SegmentationClass" / f"{image}.png"

    def load(self, index: int) -> dict[str, Any]:
        """Return image, target and, if available, boxes and the mask of class indices."""
        image = read_image(str(self.folder / self.names[index]))
        path = self.folder / "Annotations" / f"{self.ids[index]}.xml"
        target, boxes = read_objects(path, self.difficult)
        sample = {"image": image, "target": target}
        if self.fit is not None:
            sample["boxes"] = fit_boxes(boxes, self.fit, image.shape[-2:])
        if self.masks:
            path = self._segmentation(self.ids[index])
            labels = read_labels(str(path))
            if labels.shape != image.shape[-2:]:
                raise ValueError(
                    f"{path}: mask {list(labels.shape)} and image {list(image.shape[-2:])} differ"
                )
            if bool(((labels > len(CLASS_NAMES)) & (labels != VOID)).any()):
                raise ValueError(
                    f"{path}: expected indices 0 to 20 or {VOID}; not a VOC class mask"
                )
            sample["mask"] = tv_tensors.Mask(labels)
        return sample

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return the name, the annotation, and the sizes of the image and mask files."""
        image = self.ids[index]
        annotation = self.folder / "Annotations" / f"{image}.xml"
        objects = annotation.read_bytes() if annotation.is_file() else None
        mask = file_size(str(self._segmentation(image))) if self.masks else None
        return self.names[index], objects, file_size(f"{self.folder}/{self.names[index]}"), mask

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Expand the mask of class indices to `mask` (20, H, W) and `void` (H, W), both bool."""
        if self.masks:
            labels = sample["mask"]
            void = labels == VOID
            classes = torch.arange(1, len(CLASS_NAMES) + 1, dtype=labels.dtype)
            sample["mask"] = labels == classes[:, None, None]
            if self.void_as == "foreground":
                sample["mask"] = sample["mask"] | (void & sample["target"][:, None, None])
            if self.void_as == "ignore":
                sample["void"] = void
        return sample


def read_objects(path: Path, difficult: bool) -> tuple[Tensor, Tensor]:
    """Return the classes of an annotation, (20,) bool, and its boxes (64, 5).

    A box is (class, left, top, right, bottom) in pixels, where right and bottom are the first
    column and row outside the box. Unused rows are -1.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not XML, names an unknown class or has more than 64 boxes.
    """
    try:
        objects = ElementTree.parse(path).getroot().iter("object")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such annotation; check root and image set") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not readable as XML ({error}); replace the file") from None
    target = torch.zeros(len(CLASS_NAMES), dtype=torch.bool)
    boxes = []
    for thing in objects:
        name = thing.findtext("name", "").strip()
        if name not in CLASS_NAMES:
            raise ValueError(f"{path}: unknown class {name!r}; expected one of {CLASS_NAMES}")
        if difficult or thing.findtext("difficult", "0").strip() != "1":
            label = CLASS_NAMES.index(name)
            target[label] = True
            if (box := thing.find("bndbox")) is not None:
                left, top, right, bottom = (
                    float(box.findtext(side, "nan")) for side in ("xmin", "ymin", "xmax", "ymax")
                )
                boxes.append([label, left - 1, top - 1, right, bottom])  # VOC counts from 1
    if len(boxes) > MOST_BOXES:
        raise ValueError(f"{path}: {len(boxes)} boxes, expected at most {MOST_BOXES}")
    padding = [[-1.0] * 5] * (MOST_BOXES - len(boxes))
    return target, torch.tensor(boxes + padding, dtype=torch.float32)


def fit_boxes(boxes: Tensor, fit: Fit, size: Sequence[int]) -> Tensor:
    """Return boxes (M, 5) of an image of size [h, w], scaled and cropped like the image.

    Boxes are clipped to the cropped image. Boxes that lie outside it become -1.
    """
    scaled = fit.size
    if fit.how == "crop":  # as `Fit` does for the pixels
        sides = list(zip(fit.size, size, strict=True))
        scale = max(math.floor(goal / fit.crop_pct) / have for goal, have in sides)
        scaled = [max(goal, round(have * scale)) for goal, have in sides]
    steps = zip(scaled, size, fit.size, strict=True)
    (sy, oy), (sx, ox) = ((s / have, round((s - goal) / 2)) for s, have, goal in steps)
    moved = boxes[:, 1:] * torch.tensor([sx, sy, sx, sy]) - torch.tensor([ox, oy, ox, oy])
    moved = moved.clamp(torch.zeros(4), torch.tensor([*fit.size[::-1]] * 2))
    left = (moved[:, 2:] > moved[:, :2]).all(dim=1) & (boxes[:, 0] >= 0)
    return torch.cat([boxes[:, :1], moved], dim=1).masked_fill(~left[:, None], -1.0)


class VOC(ImageDataModule):
    """PASCAL VOC 2007 or 2012 (Everingham et al., IJCV 2010); images under Flickr's terms of use.

    All splits except train contain `boxes` (64, 5): class, left, top, right and bottom in pixels of
    the resized image, with -1 in unused rows. The train split has none because its augmentation
    does not move boxes.

    A split contains `mask` and `void` only if every image in it has a segmentation PNG, since
    batches must be complete. To get them, use `image_sets: Segmentation`, or `require_masks` for
    the test split. Targets come from the boxes in the XML files, so that a class may have no pixels
    in the mask of a small image.

    Args:
        root: Folder with JPEGImages, Annotations and ImageSets, or a folder above it with VOC{year}
            or VOCdevkit/VOC{year}.
        year: Year of the data set, "2007" or "2012".
        train_set: Image-set file of the train split, without ".txt"; None stands for "train".
        val_set: Image-set file of the val split; None stands for "val".
        test_set: Image-set file of the test split; None stands for "test" in 2007 and "val" in
            2012.
        image_sets: Folder of the image-set files in ImageSets, "Main" or "Segmentation".
        difficult: Whether to include objects that are marked difficult, as NN-Explainer does.
        masks: Whether to provide masks for splits in which every image has one.
        require_masks: Whether to restrict the test split to images with a segmentation PNG.
        void_as: Treatment of the border around objects, which has index 255. "ignore" provides it
            as `void`. "background" excludes it from every mask. "foreground" adds it to the mask of
            every class in the target; the merged mask of an image in its own size is then that of
            NN-Explainer, whose code takes all non-black pixels. It does so after resizing
            bilinearly, where objects grow by about one pixel on each side.
        download: Whether to download the archives into `root` with torchvision if the folder is
            missing.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If `year` or `void_as` is unknown.
    """

    incidental = ImageDataModule.incidental | {"download"}

    def __init__(
        self,
        root: str = "data",
        year: str = "2012",
        train_set: str | None = None,
        val_set: str | None = None,
        test_set: str | None = None,
        image_sets: str = "Main",
        difficult: bool = True,
        masks: bool = True,
        require_masks: bool = False,
        void_as: str = "ignore",
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("year", year, list(SPLITS))
        check_choice("void_as", void_as, ["ignore", "foreground", "background"])
        given = {"train": train_set, "val": val_set, "test": test_set}
        self.sets = {split: name or SPLITS[year][split] for split, name in given.items()}
        self.root, self.year, self.image_sets = root, year, image_sets
        self.difficult, self.void_as, self.download = difficult, void_as, download
        self.masks, self.require_masks = masks, require_masks

    @property
    def class_names(self) -> list[str]:
        """The 20 classes in alphabetical order."""
        return list(CLASS_NAMES)

    @property
    def multi_label(self) -> bool:
        """True, since a photograph can show several classes."""
        return True

    def prepare_data(self) -> None:
        """Download the archives if `download` is set and the folder is missing."""
        if self.download and self._find() is None:
            for image_set in ["trainval", "test"] if self.year == "2007" else ["trainval"]:
                VOCDetection(self.root, year=self.year, image_set=image_set, download=True)

    def _find(self) -> Path | None:
        root = Path(self.root)
        folders = [root, root / f"VOC{self.year}", root / "VOCdevkit" / f"VOC{self.year}"]
        return next((folder for folder in folders if (folder / "JPEGImages").is_dir()), None)

    def source(self, split: str) -> VOCSource:
        """Return the source of a split; "predict" contains the test images.

        Raises:
            FileNotFoundError: If the data set or the image-set file is missing.
            ValueError: If masks are required and no image has one.
        """
        folder = self._find()
        if folder is None:
            raise FileNotFoundError(
                f"{self.root}: no JPEGImages in it or VOCdevkit/VOC{self.year}; set download: true"
            )
        split = "test" if split == "predict" else split
        listing = folder / "ImageSets" / self.image_sets / f"{self.sets[split]}.txt"
        if not listing.is_file():
            raise FileNotFoundError(f"{listing}: no such image set; set {split}_set or image_sets")
        lines = listing.read_text("utf-8", "surrogateescape").splitlines()
        ids = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
        if split == "test" and self.require_masks:
            ids = [
                image for image in ids if (folder / "SegmentationClass" / f"{image}.png").is_file()
            ]
            if not ids:
                raise ValueError(
                    f"{listing}: no image has a mask in SegmentationClass; set require_masks: false"
                )
        fit = None if split == "train" else self.fit
        return VOCSource(folder, ids, self.masks, self.difficult, self.void_as, fit)
