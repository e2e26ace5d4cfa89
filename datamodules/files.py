"""Base class of data sets of image files: their source, class indices and random splits."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import check_choice, check_names, check_whole
from datamodules.base import ImageDataModule
from datamodules.dataset import ImageSource
from datamodules.identity import file_size
from datamodules.images import read_image
from datamodules.listing import SPLITS, clean, shown

Labels = tuple[int, ...]


class FileSource(ImageSource):
    """Source of image files with class indices.

    Args:
        root: Folder to which the paths are relative.
        labels: Class indices of each image, by path.
        num_classes: Number of classes; 0 means unlabeled.
    """

    def __init__(self, root: Path, labels: dict[str, Labels], num_classes: int) -> None:
        self.root, self.names, self.labels = root, list(labels), labels
        self.num_classes = num_classes

    def load(self, index: int) -> dict[str, Any]:
        """Return the image and, unless the data are unlabeled, its target."""
        name = self.names[index]
        sample = {"image": read_image(str(self.root / name))}
        if self.num_classes:
            sample["target"] = multi_hot(self.labels[name], self.num_classes)
        return sample

    def identity(self, index: int) -> tuple[Any, ...]:
        """Return name, class indices and file size of an image."""
        name = self.names[index]
        return name, *self.labels[name], file_size(f"{self.root}/{name}")


def multi_hot(classes: Sequence[int], num_classes: int) -> Tensor:
    """Return the target (num_classes,) bool that is true at `classes`.

    Example:
        >>> multi_hot([2], 3)
        tensor([False, False,  True])
    """
    target = torch.zeros(num_classes, dtype=torch.bool)
    target[list(classes)] = True
    return target


def random_split(
    names: Sequence[str], fractions: Sequence[float], seed: int
) -> dict[str, list[str]]:
    """Divide names into train, val and test at random; each split keeps the given order.

    Raises:
        ValueError: Unless there are three fractions >= 0 with sum 1.
    """
    numbers = [part for part in fractions if isinstance(part, int | float) and part >= 0]
    if len(fractions) != 3 or len(numbers) != 3 or not abs(sum(numbers) - 1.0) <= 1e-6:
        raise ValueError(f"fractions must be three numbers >= 0 with sum 1, got {list(fractions)}")
    rank = np.random.default_rng(seed).permutation(len(names))
    ends = [round(sum(fractions[: split + 1]) * len(names)) for split in range(3)]
    return {
        split: [name for name, place in zip(names, rank, strict=True) if start <= place < end]
        for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False)
    }


class FileDataModule(ImageDataModule):
    """Base class of data sets of image files, which `read_splits` finds and labels.

    Args:
        root: Folder of the images.
        class_names: Class names in the order of the targets, or None.
        class_indices: Index of each class name in the classifier's classes, or None.
        num_classes: Length of the target; None derives it from the names or indices.
        fractions: Fractions of the images in train, val and test for random splits.
        split_seed: Seed of the random splits.
        test_on: Images that are tested: "test", the test split, or "all", the images of all splits.
            None stands for "test"; the command line then tests all images where they are split at
            random and nothing under test is learned.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        class_names: Sequence[str] | None,
        class_indices: dict[str, int] | None,
        num_classes: int | None,
        fractions: Sequence[float],
        split_seed: int,
        test_on: Literal["test", "all"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("test_on", test_on, [None, "test", "all"])
        check_whole(0, split_seed=split_seed)
        check_whole(1, num_classes=1 if num_classes is None else num_classes)
        if class_names is not None:
            check_names("class_names", class_names)
        if class_indices is not None:
            check_names("class_indices", list(class_indices))
            check_whole(0, **{f"class_indices[{key!r}]": i for key, i in class_indices.items()})
        if not (root and Path(root).is_dir()):
            raise FileNotFoundError(f"{root}: no such folder; set data.init_args.root")
        self.root, self.fractions, self.split_seed = Path(root), list(fractions), split_seed
        self.given_names = None if class_names is None else [clean(name) for name in class_names]
        self.class_indices = class_indices and {clean(key): i for key, i in class_indices.items()}
        self.count, self.test_on = num_classes, test_on
        self._divided = False
        self._names: list[str] = []
        self._splits: dict[str, dict[str, Labels]] | None = None
        self.missing: dict[str, str] = {}  # what to say of images without a file, by name

    @property
    def class_names(self) -> list[str]:
        """The class names; a class index that no image uses has its number as name."""
        self._scan()
        return list(self._names)

    @property
    def splits_at_random(self) -> bool:
        """Whether the splits are random parts of one set of images."""
        self._scan()
        return self._divided

    @property
    def _known(self) -> set[str]:
        """The class names that the user gives, which may then look like splits or each other."""
        return {*(self.class_indices or self.given_names or ())}

    def source(self, split: str) -> FileSource:
        """Return the source of a split; "test" falls back to "val", and "predict" to "test".

        Raises:
            ValueError: If the data have no such split, or a random split is empty.
            FileNotFoundError: If images without a file may not be left out, or all have none.
        """
        splits = self._scan()
        order = {"test": ("test", "val"), "predict": ("predict", "test", "val")}.get(
            split, (split,)
        )
        chosen = next((name for name in order if name in splits), None)
        if split == "test" and self.test_on == "all":
            parts = ["predict"] if self._divided else [part for part in SPLITS if part in splits]
            labels = {name: own for part in parts for name, own in splits[part].items()}
        elif chosen is None:
            raise ValueError(
                f"{self.root}: no split {split!r}, only {sorted(splits)}; add it or use those"
                + ("; test_on: all tests their images" if split == "test" else "")
            )
        else:
            labels = splits[chosen]
        if self._divided and splits["predict"] and not labels:
            raise ValueError(
                f"{self.root}: none of {len(splits['predict'])} images falls into split {split!r}"
                f" with fractions {self.fractions}; give it more, or set test_on: all"
            )
        absent = [name for name in labels if name in self.missing]
        if absent and not (self.skips_errors(split) and len(absent) < len(labels)):
            rest = ", ".join(map(shown, absent[1:3]))
            more = f" ({len(absent)} of {len(labels)} images are missing, also {rest})"
            raise FileNotFoundError(
                f"{self.missing[absent[0]]}{more if rest else ''}; correct the list, the files or"
                " root"
            )
        return FileSource(self.root, labels, len(self._names))

    def _scan(self) -> dict[str, dict[str, Labels]]:
        if self._splits is None:
            self._splits = self.read_splits()
        return self._splits

    @abstractmethod
    def read_splits(self) -> dict[str, dict[str, Labels]]:
        """Return the class indices of each image by split and path, and set the class names."""

    def index_classes(self, found: Sequence[str], where: Path) -> dict[str, int]:
        """Return the index of each class name, and set the class names.

        Args:
            found: Names of the classes that the data contain.
            where: Path that error messages name.

        Raises:
            ValueError: If a class is unknown or named twice, an index is out of range, or there is
                only one class.
        """
        names = self.given_names or []
        if not self.class_indices and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"class_names lists {twice!r} twice; name each class once")
        indices = self.class_indices or {
            name: place for place, name in enumerate(self.given_names or found)
        }
        unknown = sorted(set(found) - set(indices))
        if unknown:
            raise ValueError(
                f"{where}: unknown class {unknown[0]!r}, expected one of {list(indices)[:10]};"
                " correct it, or class_names or class_indices"
            )
        self.set_names({place: name for name, place in indices.items()}, where)
        return indices

    def set_names(self, names: dict[int, str], where: Path) -> None:
        """Set the class names; `class_names` has priority if it names every class.

        Args:
            names: Class names by index.
            where: Path that error messages name.

        Raises:
            ValueError: If an index is out of range.
        """
        given = self.given_names or []
        if not (self.multi_label or self.count or self._known) and set(names) == {0}:
            raise ValueError(
                f"{where}: {names[0]!r} is the only class, but a classifier has two or more; set"
                " class_names to all of them, or root to the folder with all of them"
            )
        count = self.count or max(len(given), max(names, default=-1) + 1)
        outside = [place for place in names if not 0 <= place < count]
        if outside:
            raise ValueError(
                f"{where}: class {names[outside[0]]!r} has index {outside[0]},"
                f" not in 0 to {count - 1}; set num_classes"
            )
        self._names = (
            given
            if len(given) == count
            else [names.get(place, str(place)) for place in range(count)]
        )

    def divide(self, labels: dict[str, Labels]) -> dict[str, dict[str, Labels]]:
        """Split the images at random by `fractions`; the split "predict" contains all of them."""
        self._divided = True
        parts = random_split(list(labels), self.fractions, self.split_seed)
        splits = {split: {name: labels[name] for name in names} for split, names in parts.items()}
        return {**splits, "predict": labels}
