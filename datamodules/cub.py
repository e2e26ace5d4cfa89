"""CUB-200-2011: birds of 200 species with boxes, part locations and optional masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from datamodules.arguments import check_whole
from datamodules.base import ImageDataModule
from datamodules.boxes import finite, pad_boxes
from datamodules.files import FileSource, Labels
from datamodules.identity import file_size
from datamodules.images import Fit, read_image
from datamodules.listing import shown
from datamodules.subsets import draw_subsets, of_train
from datamodules.voc import fit_boxes

FOLDER, MASKS = "CUB_200_2011", "segmentations"
AGREED = 128  # of 255: half of the people who drew a mask


class Bird(NamedTuple):
    """Box of a bird in pixels, left, top, width and height, and x, y, visible of each part."""

    box: list[float]
    parts: list[list[float]]


class CUBSource(FileSource):
    """Source of birds with their masks, boxes and parts.

    Args:
        root: Folder to which the paths are relative.
        labels: Class index of each image, by path.
        num_classes: Number of classes.
        birds: Box and parts of each image, by path.
        masks: Folder of the masks, or None.
        fit: Resizing of the images, which is applied to boxes and parts; None provides neither.
    """

    def __init__(
        self,
        root: Path,
        labels: dict[str, Labels],
        num_classes: int,
        birds: dict[str, Bird],
        masks: Path | None,
        fit: Fit | None,
    ) -> None:
        super().__init__(root, labels, num_classes)
        self.birds, self.masks, self.fit = birds, masks, fit
        if masks is not None and not all(self._mask(name).is_file() for name in self.names):
            self.masks = None

    def _mask(self, name: str) -> Path:
        below = name.partition("images/")[2]
        return Path(self.masks or "") / Path(below).with_suffix(".png")

    def load(self, index: int) -> dict[str, Any]:
        """Return the image and its target and, if they are provided, mask, boxes and parts."""
        name, sample = self.names[index], super().load(index)
        size = sample["image"].shape[-2:]
        if self.masks is not None:
            mask = read_image(str(self._mask(name)))[0]
            if mask.shape != size:
                raise ValueError(
                    f"{self._mask(name)}: mask {list(mask.shape)} and image {list(size)} differ"
                )
            sample["mask"] = tv_tensors.Mask((mask >= AGREED).byte())
        if self.fit is not None:
            (label,), bird = self.labels[name], self.birds[name]
            left, top, width, height = bird.box
            box = (float(label), left, top, left + width, top + height)
            sample["boxes"] = fit_boxes(pad_boxes([box], name), self.fit, size)
            if bird.parts:
                sample["points"] = fit_points(torch.tensor(bird.parts), self.fit, size)
        return sample

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Expand the mask to `mask` (K, H, W) bool, which is empty for all other classes."""
        if self.masks is not None:
            sample["mask"] = sample["target"][:, None, None] & (sample["mask"] > 0)
        return sample

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return name, class index, size of the file, box and parts, and the size of the mask."""
        name = self.names[index]
        mask = file_size(str(self._mask(name))) if self.masks is not None else None
        bird = self.birds[name] if self.fit is not None else None
        return *super().identity(index), bird and tuple(bird), mask


def fit_points(points: Tensor, fit: Fit, size: Any) -> Tensor:
    """Return points (P, 3), x, y and whether visible, moved like an image of size [h, w].

    Points that are not visible, or lie outside a crop, become -1, -1, 0.
    """
    seen = points[:, 2:] > 0
    pixels = torch.cat([points[:, 2:] * 0, points[:, :2], points[:, :2] + 1], dim=1)
    moved = fit_boxes(pixels.float(), fit, size)
    centers = (moved[:, 1:3] + moved[:, 3:5]) / 2
    there = seen & (moved[:, :1] >= 0)
    return torch.cat([centers.masked_fill(~there, -1.0), there.float()], dim=1)


class CUB(ImageDataModule):
    """CUB-200-2011 (Wah et al., 2011): 200 species of birds, one bird for each photograph.

    - From: https://www.vision.caltech.edu/datasets/cub_200_2011/, CUB_200_2011.tgz, and
      segmentations.tgz, a separate archive; torchvision cannot download them.
    - License: research and education, not commercial; the images belong to their photographers.
    - Splits: 5,994 images in train and 5,794 in test.
    - Layout: CUB_200_2011 in `root`, or `root` is that folder: images, images.txt, classes.txt,
      image_class_labels.txt, train_test_split.txt, bounding_boxes.txt and parts/part_locs.txt. The
      masks are in segmentations, in that folder or beside it.
    - Size: 1.2 GB, and 40 MB of masks.
    - Traps: ids of images, classes and parts count from 1, targets from 0. A few images are gray.
      Many of the images are also in ImageNet.

    All splits except train have `boxes` (64, 5): class, left, top, right and bottom in pixels of
    the resized image, with -1 in unused rows. They also have `points` (15, 3): x and y of each part
    of `part_names`, and 1 if it is visible; else -1, -1, 0. Parts are points here and have no
    masks, so that metrics of parts do not apply. All splits have `mask` (B, 200, H, W) bool if
    every image of the split has a mask: where at least half of the people who drew it saw the bird.

    Args:
        root: Folder of the data set or the folder above it.
        masks: Whether to provide masks if they are there.
        val_images: Number of training images, drawn at random, that are the val split and are not
            trained on. With None, the val images are the test images.
        split_seed: Seed of the draw.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        root: str = "data",
        masks: bool = True,
        val_images: int | None = None,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_whole(1, val_images=1 if val_images is None else val_images)
        check_whole(0, split_seed=split_seed)
        self.root, self.masks = Path(root), masks
        self.val_images, self.split_seed = val_images, split_seed
        self._read: tuple[list[str], dict[str, dict[str, Labels]], dict[str, Bird]] | None = None

    @property
    def class_names(self) -> list[str]:
        """The names of the 200 species, such as "Black footed Albatross"."""
        return list(self._scan()[0])

    @property
    def part_names(self) -> list[str]:
        """The names of the 15 parts, in the order of `points`; empty if they are not there."""
        path = self._find() / "parts" / "parts.txt"
        return [name for _, name in read_rows(path, 2, str)] if path.is_file() else []

    @property
    def multi_label(self) -> bool:
        """False, since each image shows one species."""
        return False

    def _find(self) -> Path:
        for folder in (self.root / FOLDER, self.root):
            if (folder / "images.txt").is_file():
                return folder
        raise FileNotFoundError(
            f"{shown(self.root)}: no CUB-200-2011 here; looked for {FOLDER}/images.txt and"
            " images.txt; unpack CUB_200_2011.tgz there, or set data.init_args.root"
        )

    def source(self, split: str) -> CUBSource:
        """Return the source of a split; "predict" contains the test images.

        Raises:
            FileNotFoundError: If the data set or one of its lists is missing.
            ValueError: If a list cannot be understood, or there are too few images.
        """
        names, splits, birds = self._scan()
        held = of_train("CUB", split, self.val_images)
        labels = splits["train" if held else "test"]
        if held:
            counts = {"val": self.val_images, "train": None}
            chosen = draw_subsets(list(labels), counts, self.split_seed)[split]
            labels = {name: labels[name] for name in chosen}
        root = self._find()
        places = [root / MASKS, root.parent / MASKS]
        masks = next(filter(Path.is_dir, places), None) if self.masks else None
        fit = None if split == "train" else self.fit
        return CUBSource(root, labels, len(names), birds, masks, fit)

    def _scan(self) -> tuple[list[str], dict[str, dict[str, Labels]], dict[str, Bird]]:
        if self._read is None:
            root = self._find()
            images = read_ids(root / "images.txt", 2, str)
            names = [words[0] for words in read_ids(root / "classes.txt", 2, str).values()]
            labels = read_ids(root / "image_class_labels.txt", 2, int)
            training = read_ids(root / "train_test_split.txt", 2, int)
            boxes = read_ids(root / "bounding_boxes.txt", 5, finite)
            parts = _read_parts(root / "parts" / "part_locs.txt", list(images))
            for image, (file,) in images.items():
                label = labels.get(image, [0])[0]
                if not 1 <= label <= len(names):
                    raise ValueError(
                        f"{shown(root / 'image_class_labels.txt')}: image {image} ({shown(file)})"
                        f" has class {label}, not in 1 to {len(names)}; replace the file"
                    )
                for table, name in ((training, "train_test_split"), (boxes, "bounding_boxes")):
                    if image not in table:
                        raise ValueError(
                            f"{shown(root / name)}.txt: no line for image {image} ({shown(file)});"
                            " replace the file"
                        )
            splits: dict[str, dict[str, Labels]] = {"train": {}, "test": {}}
            birds = {}
            for image, (file,) in images.items():
                split = "train" if training[image][0] else "test"
                splits[split][f"images/{file}"] = (labels[image][0] - 1,)
                birds[f"images/{file}"] = Bird(boxes[image], parts[image])
            self._read = [_species(name) for name in names], splits, birds
        return self._read


def _read_parts(path: Path, images: list[int]) -> dict[int, list[list[float]]]:
    """Return x, y and visible of each part of each image; nothing if there is no such file."""
    if not path.is_file():
        return {image: [] for image in images}
    parts: dict[int, dict[int, list[float]]] = {image: {} for image in images}
    for image, part, *place in read_rows(path, 5, finite):
        parts.setdefault(image, {})[int(part)] = place
    count = max(map(len, parts.values()), default=0)
    if lost := [image for image in images if sorted(parts[image]) != list(range(1, count + 1))]:
        raise ValueError(
            f"{shown(path)}: image {lost[0]} has not the parts 1 to {count}; replace the file"
        )
    return {image: [own[part] for part in sorted(own)] for image, own in parts.items()}


def _species(name: str) -> str:
    """Return "Black footed Albatross" for "001.Black_footed_Albatross"."""
    number, dot, rest = name.partition(".")
    return (rest if dot and number.isdecimal() else name).replace("_", " ")


def read_rows(path: Path, columns: int, kind: Callable[[str], Any]) -> list[list[Any]]:
    """Return the words of each line, of which all but the first are converted by `kind`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a line has another number of words, or one cannot be converted.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)}: no such file; unpack CUB_200_2011.tgz again")
    rows = []
    for number, line in enumerate(path.read_text("utf-8", "surrogateescape").splitlines(), 1):
        words = line.split(maxsplit=columns - 1)
        try:
            if len(words) not in (0, columns):
                raise ValueError(f"{len(words)} words")
            if words:
                rows.append([int(words[0]), *map(kind, words[1:])])
        except ValueError:
            raise ValueError(
                f"{shown(path)}:{number}: expected an id and {columns - 1} entries, got"
                f" {shown(line)!r}"
            ) from None
    return rows


def read_ids(path: Path, columns: int, kind: Callable[[str], Any]) -> dict[int, list[Any]]:
    """Return the entries of each id, in the order of the ids; errors as in `read_rows`."""
    return {first: rest for first, *rest in sorted(read_rows(path, columns, kind))}
