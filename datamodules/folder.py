"""Your own images: a folder, with or without class subfolders, or a CSV file that lists them."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.files import EXTENSIONS, SPLITS, FileDataModule, Labels, find_images


class ImageFolder(FileDataModule):
    """Images in class subfolders, one class per image, or unlabeled images in any subfolders.

    If train, val and test are the only subfolders, they are the splits, and without a test folder
    the val images are the test images. Otherwise the images are divided at random by `fractions`,
    in the same way every time, and the split "predict" contains all of them.

    All other subfolders are classes if every image lies in one of them; `labelled` overrides this.
    The classes take turns in the order of the images, so that `limit` keeps them balanced.

    Args:
        root: Folder of the images, which is searched when it is first needed.
        labelled: Whether subfolders are classes; None decides as described above.
        class_names: Folder names in the order of the targets; None sorts the folder names. With
            `class_indices` and one name for each index, the names to display.
        class_indices: Index of each folder name in the classifier's classes, such as the 1000
            classes of ImageNet.
        num_classes: Length of the target; None derives it from the names or indices.
        fractions: Fractions of the images in train, val and test if there are no split folders.
        split_seed: Seed of the random split. It is separate from `seed`, so that repeated runs see
            the same data.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """

    def __init__(
        self,
        root: str = "data/images",
        labelled: bool | None = None,
        class_names: Sequence[str] | None = None,
        class_indices: dict[str, int] | None = None,
        num_classes: int | None = None,
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, class_names, class_indices, num_classes, fractions, split_seed, **kwargs
        )
        self._labelled = labelled

    @property
    def multi_label(self) -> bool:
        """False, since each image lies in one class folder."""
        return False

    def read_splits(self) -> dict[str, dict[str, Labels]]:
        """Return the class indices of each image by split and path, from the folders.

        Raises:
            ValueError: If there are no images, an image without a class, or an unknown class.
        """
        folders = {path.name: path for path in self.root.iterdir() if path.is_dir()}
        split_by_folder = bool(folders) and set(folders) <= set(SPLITS)
        bases = folders if split_by_folder else {"all": self.root}
        names = {split: find_images(self.root, base) for split, base in bases.items()}
        if not any(names.values()):
            raise ValueError(
                f"{self.root}: no images here ({', '.join(sorted(EXTENSIONS))}); check root"
            )
        classes = {
            name: _first_folder(name, base, self.root)
            for split, base in bases.items()
            for name in names[split]
        }
        labelled = self._labelled if self._labelled is not None else all(classes.values())
        loose = [name for name, folder in classes.items() if not folder]
        if labelled and loose:
            raise ValueError(
                f"{self.root / loose[0]}: not in a class sub-folder; move it or set labelled: false"
            )
        indices = self.index_classes(sorted(set(classes.values())), self.root) if labelled else {}
        labels: dict[str, dict[str, Labels]] = {
            split: {
                name: (indices[classes[name]],) if labelled else ()
                for name in in_turn(listed, classes)
            }
            for split, listed in names.items()
        }
        return labels if split_by_folder else self.divide(labels["all"])


def _first_folder(name: str, base: Path, root: Path) -> str:
    parts = (root / name).relative_to(base).parts
    return parts[0] if len(parts) > 1 else ""


def in_turn(names: Sequence[str], classes: dict[str, str]) -> list[str]:
    """Reorder names so that the classes take turns.

    Example:
        >>> in_turn(["a/1", "a/2", "b/1"], {"a/1": "a", "a/2": "a", "b/1": "b"})
        ['a/1', 'b/1', 'a/2']
    """
    groups = [list(group) for _, group in itertools.groupby(names, key=classes.__getitem__)]
    return [name for row in itertools.zip_longest(*groups) for name in row if name is not None]


class CSVFolder(FileDataModule):
    """Images listed in a CSV file with one label column, or one 0/1 column per class (multi-label).

    With neither `label_column` nor `index_column`, every column except those of the file name and
    the split is a class.

    Args:
        root: Folder to which the file names are relative.
        csv_file: CSV file with a header line, relative to `root`. It is read when first needed.
        name_column: Column of the image files.
        label_column: Column of the class name of each image.
        index_column: Column of the class index of each image in the classifier's classes. If
            `label_column` is given too, it names the indices.
        split_column: Column with the split, "train", "val" or "test"; None divides the images by
            `fractions`.
        file_pattern: Pattern that turns an entry into a path, such as "JPEGImages/{}.jpg".
        class_names: Class names in the order of the targets.
        class_indices: Index of each label in the classifier's classes.
        num_classes: Length of the target; None derives it from the names or indices.
        fractions: Fractions of the images in train, val and test if there is no split column.
        split_seed: Seed of the random split.
        kwargs: Arguments of `ImageDataModule`.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """

    def __init__(
        self,
        root: str = "data/images",
        csv_file: str = "labels.csv",
        name_column: str = "filename",
        label_column: str | None = None,
        index_column: str | None = None,
        split_column: str | None = None,
        file_pattern: str = "{}",
        class_names: Sequence[str] | None = None,
        class_indices: dict[str, int] | None = None,
        num_classes: int | None = None,
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, class_names, class_indices, num_classes, fractions, split_seed, **kwargs
        )
        self.csv_file, self.file_pattern = self.root / csv_file, file_pattern
        self.name_column, self.split_column = name_column, split_column
        self.label_column, self.index_column = label_column, index_column

    @property
    def multi_label(self) -> bool:
        """Whether each class has its own column."""
        return self.label_column is None and self.index_column is None

    def read_splits(self) -> dict[str, dict[str, Labels]]:
        """Return the class indices of each image by split and path, from the CSV file.

        Raises:
            FileNotFoundError: If the CSV file does not exist.
            ValueError: If a column is missing or an entry is invalid.
        """
        if not self.csv_file.is_file():
            raise FileNotFoundError(f"{self.csv_file}: no such file; set csv_file")
        with self.csv_file.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
        self._check_columns(columns)
        names = [self.file_pattern.format(row[self.name_column]) for row in rows]
        if len(set(names)) < len(names):
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise ValueError(f"{self.csv_file}: {twice} is listed twice; keep one line")
        labels = dict(zip(names, self._labels(rows, columns), strict=True))
        if self.split_column is None:
            return self.divide(labels)
        splits: dict[str, dict[str, Labels]] = {}
        for line, (row, name) in enumerate(zip(rows, names, strict=True), start=2):
            split = row[self.split_column]
            if split not in SPLITS:
                raise ValueError(
                    f"{self.csv_file}:{line}: unknown split {split!r}; expected {list(SPLITS)}"
                )
            splits.setdefault(split, {})[name] = labels[name]
        return splits

    def _check_columns(self, columns: Sequence[str]) -> None:
        wanted = [self.name_column, self.label_column, self.index_column, self.split_column]
        if self.multi_label:
            wanted += self.given_names or []
        missing = [column for column in wanted if column is not None and column not in columns]
        if missing:
            raise ValueError(
                f"{self.csv_file}: no column {missing[0]!r}, only {list(columns)}; correct it"
            )

    def _labels(self, rows: Sequence[dict[str, str]], columns: Sequence[str]) -> list[Labels]:
        if self.index_column is not None:
            indices = [
                self._number(row[self.index_column], line) for line, row in enumerate(rows, start=2)
            ]
            named = self.label_column or self.index_column
            # The index identifies the class, so that two classes of the same name stay apart.
            self.set_names(
                {index: row[named] for index, row in zip(indices, rows, strict=True)}, self.csv_file
            )
            return [(index,) for index in indices]
        if self.label_column is not None:
            labels = [row[self.label_column] for row in rows]
            by_name = self.index_classes(sorted(set(labels)), self.csv_file)
            return [(by_name[label],) for label in labels]
        rest = [column for column in columns if column not in (self.name_column, self.split_column)]
        by_name = self.index_classes(self.given_names or rest, self.csv_file)
        return [
            tuple(place for name, place in by_name.items() if self._flag(row[name], name, line))
            for line, row in enumerate(rows, start=2)
        ]

    def _number(self, entry: str, line: int) -> int:
        if not entry.isdecimal():
            raise ValueError(
                f"{self.csv_file}:{line}: expected an index in {self.index_column!r}, got {entry!r}"
            )
        return int(entry)

    def _flag(self, entry: str, column: str, line: int) -> bool:
        if entry not in ("0", "1", "0.0", "1.0"):
            raise ValueError(
                f"{self.csv_file}:{line}: expected 0 or 1 in column {column!r}, got {entry!r};"
                " set label_column if classes have no columns of their own"
            )
        return float(entry) == 1.0
