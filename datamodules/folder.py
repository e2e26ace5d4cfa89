"""One's own images: a folder, with or without class sub-folders, or a CSV file that lists them."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.files import EXTENSIONS, SPLITS, FileDataModule, Labels, find_images


class ImageFolder(FileDataModule):
    """Images in class sub-folders, one class each, or unlabelled images in any sub-folders.

    Sub-folders train, val and test are the splits if there are no others; else the images are
    divided at random by `fractions`, always alike, and "predict" serves all of them. Without a test
    folder the val images are the test images. Other sub-folders are classes if every image lies in
    one; `labelled` decides otherwise. Images are listed class by class in turn, so `limit` keeps
    the classes balanced.
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
        """Check that the folder exists; it is searched when first needed.

        Args:
            root: The folder.
            labelled: Whether sub-folders are classes; found out by default.
            class_names: Folder names in the order of the targets; sorted folder names by default.
                With `class_indices` and one name per index: the names to show.
            class_indices: Folder name -> index in the classifier's own classes, such as ImageNet's
                1000.
            num_classes: Length of the target; by default what the names or indices need.
            fractions: Train, val and test part where there are no split folders.
            split_seed: Of the random split; apart from `seed`, so that repeated runs see the same
                data.
            kwargs: See `ImageDataModule`.

        Raises:
            FileNotFoundError: If there is no such folder.
        """
        super().__init__(
            root, class_names, class_indices, num_classes, fractions, split_seed, **kwargs
        )
        self._labelled = labelled

    @property
    def multi_label(self) -> bool:
        """False: a folder gives an image one class."""
        return False

    def read_splits(self) -> dict[str, dict[str, Labels]]:
        """Return image path -> class indices for each split, from the folders.

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
    """Reorder `names` so that classes take turns.

    Example:
        >>> in_turn(["a/1", "a/2", "b/1"], {"a/1": "a", "a/2": "a", "b/1": "b"})
        ['a/1', 'b/1', 'a/2']
    """
    groups = [list(group) for _, group in itertools.groupby(names, key=classes.__getitem__)]
    return [name for row in itertools.zip_longest(*groups) for name in row if name is not None]


class CSVFolder(FileDataModule):
    """Images listed in a CSV file: one label column, or a 0/1 column per class (multi-label).

    With neither `label_column` nor `index_column`, every column but the file's and the split's is a
    class.
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
        """Check that the folder exists; the CSV file is read when first needed.

        Args:
            root: The folder that the file names are relative to.
            csv_file: The CSV file with a header line, relative to `root`.
            name_column: Column of the image files.
            label_column: Column of one class name per image.
            index_column: Column of one class index per image, in the classifier's own classes; with
                `label_column` the labels name the indices.
            split_column: Column of train, val or test; without it the images are divided by
                `fractions`.
            file_pattern: How an entry becomes a path, such as "JPEGImages/{}.jpg".
            class_names: Class names in the order of the targets.
            class_indices: Label -> index in the classifier's own classes.
            num_classes: Length of the target; by default what the names or indices need.
            fractions: Train, val and test part where there is no split column.
            split_seed: Of the random split.
            kwargs: See `ImageDataModule`.

        Raises:
            FileNotFoundError: If there is no such folder.
        """
        super().__init__(
            root, class_names, class_indices, num_classes, fractions, split_seed, **kwargs
        )
        self.csv_file, self.file_pattern = self.root / csv_file, file_pattern
        self.name_column, self.split_column = name_column, split_column
        self.label_column, self.index_column = label_column, index_column

    @property
    def multi_label(self) -> bool:
        """Whether classes have columns of their own."""
        return self.label_column is None and self.index_column is None

    def read_splits(self) -> dict[str, dict[str, Labels]]:
        """Return image path -> class indices for each split, from the CSV file.

        Raises:
            FileNotFoundError: If there is no such CSV file.
            ValueError: If a column is missing or an entry cannot be understood.
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
            # a label may name one index only: the index itself keeps two classes of one name apart
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
