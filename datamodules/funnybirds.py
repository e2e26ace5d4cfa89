"""FunnyBirds: rendered birds whose parts can be removed, a benchmark of explanations."""

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from datamodules.arguments import check_fraction, check_whole
from datamodules.base import ImageDataModule
from datamodules.dataset import ImageSource
from datamodules.files import multi_hot, random_split
from datamodules.funnybirds_maps import (
    BODY_LABEL,
    MOST_OBJECTS,
    PARTS,
    object_masks,
    part_labels,
    subsets,
)
from datamodules.identity import file_size
from datamodules.images import read_image
from datamodules.listing import shown

FILES = ("classes.json", "dataset_train.json", "dataset_test.json")


class FunnyBirdsSource(ImageSource):
    """Source of the images of one split.

    Args:
        root: Folder of the data.
        split: "train" or "test", which names the folders.
        scenes: Position and class of each image.
        designs: Index of the design of each part of each class, (K, 5) int64.
        maps: Whether samples contain `mask` and `parts`.
        objects: Largest number of objects in a background, if samples contain what the images show
            without parts and objects; else None.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        scenes: list[tuple[int, int]],
        designs: Tensor,
        maps: bool,
        objects: int | None,
    ) -> None:
        self.root, self.split, self.scenes, self.designs = root, split, scenes, designs
        self.maps, self.objects = maps, objects
        self.names = [f"{split}/{label}/{place:06d}.png" for place, label in scenes]

    def _path(self, index: int, suffix: str) -> Path:
        place, label = self.scenes[index]
        return self.root / f"{self.split}{suffix}" / str(label) / f"{place:06d}"

    def load(self, index: int) -> dict[str, Any]:
        """Return image, target and, if asked for, part labels and the images without parts."""
        label = self.scenes[index][1]
        image = read_image(str(self.root / self.names[index]))
        sample = {"image": image, "target": multi_hot([label], len(self.designs))}
        if self.maps or self.objects is not None:
            path = self._path(index, "_part_map").with_suffix(".png")
            colors = read_image(str(path))
            _check_size(path, colors, image)
            sample["mask"] = tv_tensors.Mask(part_labels(colors))
        if self.objects is not None:
            folder = self._path(index, "_interventions")
            birds = [f"body_{'_'.join(kept)}.png" for kept in subsets()]
            sample["interventions"] = _images([folder / name for name in birds], image)
            sample["objects"] = tv_tensors.Mask(object_masks(colors, self.objects))
            there = sample["objects"].flatten(1).any(1).tolist()
            files = [folder / "background_interventions" / f"{n}.png" for n in range(self.objects)]
            without = {n: read_image(str(files[n])) for n, seen in enumerate(there) if seen}
            for n, other in without.items():
                _check_size(files[n], other, image)
            others = [without.get(n, image) for n in range(self.objects)]
            sample["backgrounds"] = tv_tensors.Image(torch.stack(others))
            sample["shared"] = self.designs == self.designs[label]
        return sample

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return the name and the sizes of the image and its part map."""
        part_map = str(self._path(index, "_part_map").with_suffix(".png"))
        image = str(self.root / self.names[index])
        return self.names[index], file_size(image), file_size(part_map) if self.maps else None

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Expand the part labels to `mask` (K, H, W) and `parts` (K, P, H, W), both bool."""
        if "mask" in sample:
            labels, there = sample["mask"], sample["target"]
            numbers = torch.arange(1, BODY_LABEL, dtype=labels.dtype)
            parts = labels == numbers[:, None, None]
            sample["mask"] = (labels > 0) & there[:, None, None]
            sample["parts"] = parts & there[:, None, None, None]
        if "objects" in sample:
            sample["objects"] = sample["objects"].bool()
        return sample


def _images(paths: list[Path], like: Tensor) -> Tensor:
    images = [read_image(str(path)) for path in paths]
    for path, image in zip(paths, images, strict=True):
        _check_size(path, image, like)
    stacked: Tensor = tv_tensors.Image(torch.stack(images))
    return stacked


def _check_size(path: Path, pixels: Tensor, image: Tensor) -> None:
    if pixels.shape != image.shape or pixels.dtype != image.dtype:
        raise ValueError(
            f"{shown(path)}: {list(pixels.shape[1:])} pixels, the image has {list(image.shape[1:])}"
        )


class FunnyBirds(ImageDataModule):
    """FunnyBirds (Hesse, Schaub-Meyer and Roth, ICCV 2023): rendered birds of five parts each.

    Card:
        - What: 50 classes, each a combination of a beak, eyes, feet, a tail and wings; one bird in
          front of up to 34 objects, 256 x 256 pixels. Of each test image there are all 32
          renderings with some of the parts, and those without each object of the background.
        - From: github.com/visinf/funnybirds, which also draws new ones; Apache-2.0.
        - Splits: 50,000 train and 500 test images. A tenth of the train images are the val split.
        - Traps: the alpha channel is to be dropped. Files are numbered through all classes. A train
          image lacks a random number of parts in half of all cases. Edges of parts have mixed
          colors, which belong to no part. Objects can lie outside the image.

    The layout is the published one: `classes.json`, `dataset_train.json` and `dataset_test.json`;
    `train` and `test` with a folder of images for each class, `train_part_map` and `test_part_map`
    with the same names, and `test_interventions/CLASS/NUMBER/` with `body_beak_eye.png`, named by
    the parts that are kept, and `background_interventions/0.png`.

    With `parts`, batches of val, test and predict contain `mask` (B, K, H, W) bool, the bird, and
    `parts` (B, K, 5, H, W) bool, in the order beak, eye, foot, tail, wing. With `interventions`,
    those of test and predict contain what the metric `RenderedParts` needs:

    - `interventions` (B, 32, 3, H, W) uint8: the image with every set of parts, see `subsets`
    - `backgrounds` (B, M, 3, H, W) uint8: the image without each object of the background
    - `objects` (B, M, H, W) bool: these objects, empty for those that cannot be seen
    - `shared` (B, K, 5) bool: the parts that each class has in common with that of the image

    Args:
        root: Folder of the data.
        parts: Whether batches contain masks of the bird and its parts.
        interventions: Whether test batches contain the images without parts and objects. An image
            of 256 x 256 pixels takes 7 to 13 MB.
        val_fraction: Fraction of the train images in the val split, in (0, 1).
        split_seed: Seed of the val split.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        root: str = "data/FunnyBirds",
        parts: bool = True,
        interventions: bool = False,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_whole(0, split_seed=split_seed)
        check_fraction(val_fraction=val_fraction)
        self.root, self.parts, self.interventions = Path(root), parts, interventions
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self._classes: Tensor | None = None

    @property
    def class_names(self) -> list[str]:
        """The classes by number: "class_0", "class_1", ..."""
        return [f"class_{number}" for number in range(len(self.designs))]

    @property
    def multi_label(self) -> bool:
        """False, since each image shows one bird."""
        return False

    @property
    def part_names(self) -> list[str]:
        """The parts of every class, in the order of `parts`."""
        return list(PARTS)

    @property
    def designs(self) -> Tensor:
        """Index of the design of each part of each class, (K, 5) int64."""
        if self._classes is None:
            path = self.root / "classes.json"
            classes = self._read("classes.json")
            try:
                by_class = {int(own["class_idx"]): own["parts"] for own in classes}
                rows = [[int(by_class[k][part]) for part in PARTS] for k in range(len(by_class))]
                self._classes = torch.tensor(rows).view(len(rows), len(PARTS))
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{shown(path)}: expected a list of class_idx 0, 1, ... with parts {PARTS};"
                    " not a file of FunnyBirds"
                ) from None
        return self._classes

    def _read(self, name: str) -> Any:
        path = self.root / name
        if not path.is_file():
            wanted = ", ".join(FILES)
            raise FileNotFoundError(
                f"{shown(path)}: no such file; set root to the folder of FunnyBirds, which holds"
                f" {wanted}, train and test"
            )
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{shown(path)}: not readable as JSON ({error}); replace it") from None

    def _scenes(self, folder: str) -> tuple[list[tuple[int, int]], int]:
        """Return position and class of each image, and the largest number of objects."""
        name = f"dataset_{folder}.json"
        scenes = self._read(name)
        try:
            labels = [int(scene["class_idx"]) for scene in scenes]
            objects = [len(str(scene["bg_objects"]).split(",")) - 1 for scene in scenes]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{shown(self.root / name)}: expected a list of scenes with class_idx and"
                " bg_objects; not a file of FunnyBirds"
            ) from None
        if outside := {label for label in labels if not 0 <= label < len(self.designs)}:
            raise ValueError(
                f"{shown(self.root / name)}: class {min(outside)} is not in classes.json, which has"
                f" {len(self.designs)}"
            )
        return list(enumerate(labels)), min(max([1, *objects]), MOST_OBJECTS)

    def source(self, split: str) -> FunnyBirdsSource:
        """Return the source of a split; "predict" contains the test images.

        The classes take turns in the order of the images, so that `limit` keeps them balanced.

        Raises:
            FileNotFoundError: If a file or a folder is missing.
            ValueError: If a file is not one of FunnyBirds.
        """
        folder = "train" if split in ("train", "val") else "test"
        scenes, objects = self._scenes(folder)
        if folder == "train":
            fractions = (1.0 - self.val_fraction, self.val_fraction, 0.0)
            parts = random_split([str(place) for place, _ in scenes], fractions, self.split_seed)
            kept = {int(place) for place in parts[split]}
            scenes = [scene for scene in scenes if scene[0] in kept]
        maps, renderings = self.parts and split != "train", self.interventions and folder == "test"
        folders = {folder: True, f"{folder}_part_map": maps or renderings}
        folders[f"{folder}_interventions"] = renderings
        for name, needed in folders.items():
            if needed and not (self.root / name).is_dir():
                off = {"_part_map": "parts", "_interventions": "interventions"}
                option = next((value for end, value in off.items() if name.endswith(end)), "")
                fix = f"; add it, or set {option}: false" if option else "; set root"
                raise FileNotFoundError(f"{shown(self.root / name)}: no such folder{fix}")
        by_class = [[scene for scene in scenes if scene[1] == k] for k in range(len(self.designs))]
        rows = itertools.zip_longest(*by_class)
        turns = [scene for row in rows for scene in row if scene is not None]
        return FunnyBirdsSource(
            self.root, folder, turns, self.designs, maps, objects if renderings else None
        )
