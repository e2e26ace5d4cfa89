"""ImageNet-1k (ILSVRC2012) in the layouts in which people have it on disk."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.arguments import check_choice, check_whole
from datamodules.base import ImageDataModule
from datamodules.boxes import Box, pad_boxes, read_annotation
from datamodules.files import FileSource, Labels
from datamodules.identity import file_size
from datamodules.imagenet_folders import find_split, in_order
from datamodules.imagenet_labels import (
    FORMS,
    ValLabels,
    find_annotations,
    find_labels,
    find_table,
    image_number,
    listed_labels,
    stem,
)
from datamodules.images import Fit
from datamodules.listing import shown
from datamodules.subsets import draw_subsets
from datamodules.synsets import class_indices, class_names, reassessed_labels
from datamodules.voc import fit_boxes


class ImageNetSource(FileSource):
    """Source of images with one or more classes and, if `fit` is given, their boxes.

    Args:
        root: Folder to which the paths are relative.
        labels: Class indices of each image, by path.
        boxes: Boxes by the stem of the file name.
        annotations: Folder of XML files, for images without an entry in `boxes`.
        fit: Resizing of the images, which is applied to the boxes; None provides no boxes.
    """

    def __init__(
        self,
        root: Path,
        labels: dict[str, Labels],
        boxes: dict[str, list[Box]],
        annotations: Path | None,
        fit: Fit | None,
    ) -> None:
        super().__init__(root, labels, len(class_indices()))
        self.boxes, self.annotations, self.fit = boxes, annotations, fit

    def load(self, index: int) -> dict[str, Any]:
        """Return the image, its target and, if they are provided, its boxes."""
        sample = super().load(index)
        if self.fit is not None:
            name, size = self.names[index], sample["image"].shape[-2:]
            boxes = self.boxes.get(stem(name), [])
            if (path := self._annotation(name)) is not None:
                boxes = read_annotation(path, class_indices()).scaled(size)
            sample["boxes"] = fit_boxes(pad_boxes(boxes, name), self.fit, size)
        return sample

    def _annotation(self, name: str) -> Path | None:
        if self.annotations is None or stem(name) in self.boxes:
            return None
        path = self.annotations / f"{stem(name)}.xml"
        return path if path.is_file() else None

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return name, class indices, size of the file, and the boxes or the size of their file."""
        name, boxes = self.names[index], None
        if self.fit is not None:
            path = self._annotation(name)
            boxes = self.boxes.get(stem(name)) if path is None else file_size(str(path))
        return *super().identity(index), boxes


class ImageNet(ImageDataModule):
    """ImageNet-1k (Russakovsky et al., IJCV 2015): one of 1000 classes for each photograph.

    - From: https://image-net.org after registration, or Kaggle's "ImageNet Object Localization
      Challenge"; torchvision cannot download it.
    - License: research and education only, by ImageNet's terms of access.
    - Splits: 1,281,167 images in train and 50,000 in val, which are the test images too, because
      the labels of the test set are not public.
    - Size: about 138 GB and 6.3 GB.
    - Traps: the devkit's ground truth has ILSVRC2012_IDs, whose order is not that of the usual
      class indices; they are mapped here by meta.mat. Some files called .JPEG are PNG or CMYK.
      Images that cannot be read are left out by `on_error`.

    Layouts, in `root` or `root/ILSVRC`:

    - train in class folders, train/n01440764/x.JPEG, also under Data/CLS-LOC or
      ILSVRC2012_img_train
    - val in class folders in the same way
    - val as 50,000 files in one folder, with labels from Kaggle's LOC_val_solution.csv, from the
      devkit (unpacked or as .tar.gz), from torchvision's meta.bin, from val.txt with lines "name
      target", or from XML annotations

    Other subfolders are left out, which is said. The val images are sorted by their numbers, so
    that the same images are chosen in all layouts; the classes of other images take turns. Class
    names are those of timm, in the usual order of the indices 0 to 999.

    The val and test splits have `boxes` (64, 5) if there are any in Kaggle's table or in XML files:
    class, left, top, right and bottom in pixels of the resized image, with -1 in unused rows. XML
    boxes are scaled from the size that their file states. The files count pixels from 0 and
    include the last one. The train split has no boxes because its augmentation does not move them.

    Args:
        root: Folder of the data set, as above.
        labels: Text file with lines "name target", which then lists the val images to use; relative
            to `root` or to the working folder.
        real_labels: Whether to use the ReaL labels of the val images (Beyer et al., 2020), where an
            image can have several classes and those without any are left out. "several" also
            leaves out images of one class. Train keeps its labels.
        boxes: Whether to provide boxes if they are found.
        annotations: Folder of the XML files of the val images; None searches the usual places.
        train_from: Images to train on, "train" or "val". Ra-NEM trains on val images.
        train_images: Number of training images, drawn at random; None takes all that are left.
        val_images: Number of val images, drawn at random; None takes all that are left.
        test_images: Number of test images, drawn at random; None takes all that are left. Splits
            with a number never have an image in common with another split.
        split_seed: Seed of the draws. It is separate from `seed`, so that repeated runs see the
            same data.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        root: str = "data/imagenet",
        labels: str | None = None,
        real_labels: bool | Literal["several"] = False,
        boxes: bool = True,
        annotations: str | None = None,
        train_from: Literal["train", "val"] = "train",
        train_images: int | None = None,
        val_images: int | None = None,
        test_images: int | None = None,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("real_labels", real_labels, [False, True, "several"])
        check_choice("train_from", train_from, ["train", "val"])
        counts = {"test": test_images, "val": val_images, "train": train_images}
        check_whole(1, **{f"{k}_images": 1 if n is None else n for k, n in counts.items()})
        check_whole(0, split_seed=split_seed)
        if train_from == "val" and None in (train_images, test_images):
            raise ValueError(
                "train_from: val needs train_images and test_images, so that the images to train"
                " on are not tested"
            )
        self.root, self.labels, self.annotations = Path(root), labels, annotations
        self.real_labels, self.boxes, self.train_from = real_labels, boxes, train_from
        self.counts, self.split_seed = counts, split_seed
        self._train: dict[str, Labels] | None = None
        self._val: dict[str, Labels] | None = None
        self._boxes: dict[str, list[Box]] = {}
        self._annotations: Path | None = None

    @property
    def class_names(self) -> list[str]:
        """The 1000 class names in the usual order of ImageNet's indices."""
        return list(class_names())

    @property
    def multi_label(self) -> bool:
        """Whether the ReaL labels are used, which can be several for an image."""
        return bool(self.real_labels)

    def source(self, split: str) -> ImageNetSource:
        """Return the source of a split; "predict" contains the test images.

        Raises:
            FileNotFoundError: If no layout is found, or a listed image is missing.
            ValueError: If labels are missing, or there are too few images.
        """
        split = "test" if split == "predict" else split
        if split == "train" and self.train_from == "train":
            labels, counts = self._train_labels(), {"train": self.counts["train"]}
        else:
            labels, counts = self._val_labels(), dict(self.counts)
            if self.train_from == "train":
                del counts["train"]
        names = draw_subsets(list(labels), counts, self.split_seed)[split]
        boxes = split != "train" and bool(self._boxes or self._annotations)
        return ImageNetSource(
            self.root,
            {name: labels[name] for name in names},
            self._boxes,
            self._annotations,
            self.fit if boxes else None,
        )

    def _train_labels(self) -> dict[str, Labels]:
        if self._train is None:
            folder, classes, loose = find_split(self.root, "train")
            if loose:
                rank_zero_warn(
                    f"{shown(folder)}: left out {len(loose)} images in no class folder, such as"
                    f" {shown(next(iter(loose)))}"
                )
            if not classes:
                raise ValueError(
                    f"{shown(folder)}: no images in class folders such as n01440764; unpack the"
                    " archives of the classes there"
                )
            self._train = in_order(classes)
        return self._train

    def _val_labels(self) -> dict[str, Labels]:
        if self._val is None:
            folder, classes, loose = find_split(self.root, "val")
            if self.labels is not None:
                classes, found = self._listed(folder, classes, loose), None
            else:
                found = find_labels(self.root, list(loose)) if loose else None
                classes |= self._labeled(folder, classes, loose, found)
            if self.boxes:
                self._find_boxes(found)
            ordered = in_order(classes)
            self._val = self._reassess(ordered) if self.real_labels else ordered
        return self._val

    def _listed(
        self, folder: Path, classes: dict[str, Labels], loose: dict[str, str]
    ) -> dict[str, Labels]:
        """Return the classes of the images that the argument `labels` lists."""
        beside = self.root / (self.labels or "")
        listed = listed_labels(beside if beside.is_file() else Path(self.labels or ""))
        paths = {stem(name): name for name in classes} | loose
        if missing := [key for key in listed.classes if key not in paths]:
            raise FileNotFoundError(
                f"{shown(listed.path)}: {len(missing)} of {len(listed.classes)} images are not in"
                f" {shown(folder)}, such as {shown(missing[0])}; correct the list or root"
            )
        return {paths[key]: (index,) for key, index in listed.classes.items()}

    def _labeled(
        self,
        folder: Path,
        classes: dict[str, Labels],
        loose: dict[str, str],
        found: ValLabels | None,
    ) -> dict[str, Labels]:
        """Return the classes of images in no class folder."""
        known = {} if found is None else found.classes
        labeled: dict[str, Labels] = {
            path: (known[key],) for key, path in loose.items() if key in known
        }
        lost = [key for key in loose if key not in known]
        text = f"{shown(folder)}: {len(lost)} images in no class folder have no label"
        text += "" if found is None else f" in {shown(found.path)}"
        if lost and not (labeled or classes):
            raise ValueError(
                f"{text}, such as {shown(lost[0])}; add one of {FORMS}; or set labels to a list"
            )
        if lost:
            rank_zero_warn(f"{text} and are left out, such as {shown(lost[0])}")
        if found is not None:
            rank_zero_info(f"ImageNet: {len(labeled)} labels from {shown(found.path)}")
        return labeled

    def _find_boxes(self, found: ValLabels | None) -> None:
        """Look for boxes in `annotations`, Kaggle's table or XML files."""
        table = None
        if self.annotations is not None:
            self._annotations = Path(self.annotations)
            if not self._annotations.is_dir():
                raise FileNotFoundError(f"{self.annotations}: no such folder; set annotations")
        else:
            table = find_table(self.root) if found is None or found.boxes == {} else found
            self._boxes = {} if table is None else table.boxes
            self._annotations = None if self._boxes else find_annotations(self.root)
        where = self._annotations or (table.path if table is not None and table.boxes else None)
        text = f"boxes from {shown(where)}" if where else "no boxes found"
        rank_zero_info(f"ImageNet: {text}")

    def _reassess(self, labels: dict[str, Labels]) -> dict[str, Labels]:
        """Return the ReaL labels of the val images that have any, or several."""
        real, least = reassessed_labels(), 2 if self.real_labels == "several" else 1
        numbers = {name: image_number(name) or 0 for name in labels}
        if unknown := [name for name, number in numbers.items() if not 1 <= number <= len(real)]:
            raise ValueError(
                f"{shown(unknown[0])}: real_labels needs names such as"
                " ILSVRC2012_val_00000001.JPEG; rename it, or set real_labels: false"
            )
        chosen = {name: real[number - 1] for name, number in numbers.items()}
        return {name: classes for name, classes in chosen.items() if len(classes) >= least}
