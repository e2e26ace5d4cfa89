"""Your own images: a folder, with or without class subfolders, or a CSV file that lists them."""

import itertools
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files import FileDataModule, Labels
from datamodules.listing import (
    SPLITS,
    clean,
    extensions,
    find_images,
    ordered_classes,
    report_ignored,
    shown,
    split_folders,
    split_of,
    subfolders,
)
from datamodules.table import Table


class ImageFolder(FileDataModule):
    """Images in class subfolders, one class per image, or unlabeled images in any subfolders.

    Folders called train, val and test are the splits, if no other folder contains images. Usual
    names such as "Training", "valid", "validation", "dev" or "test_set" count too, in any case.
    Without a test folder the val images are the test images. All other images are divided at random
    by `fractions`, in the same way every time, and the split "predict" contains all of them.

    All other subfolders are classes if every image lies in one of them; `labelled` overrides this.
    Their names are sorted, as numbers if all of them are, over the folders of all splits. An empty
    class folder stays a class, with a warning. Spaces around names are removed. The classes take
    turns in the order of the images, so that `limit` keeps them balanced.

    Symbolic links are followed. Hidden files and those of operating systems are left out, and files
    that Pillow cannot open are counted in a message.

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
        kwargs: Arguments of `FileDataModule` and `ImageDataModule`, such as `test_on`.

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
            ValueError: If there are no images, folders could be splits or classes, an image has no
                class, or a class is unknown.
        """
        found, others, broken = find_images(self.root)
        self.missing = {
            name: f"{shown(self.root / name)}: no file, or a link to nothing" for name in broken
        }
        holding = {name.partition("/")[0] for name in found if "/" in name}
        folders = split_folders(self.root, holding, self._known, self._labelled)
        listed = {
            split: [name for name in found if name.startswith(f"{folder}/")]
            for split, folder in folders.items()
        } or {"all": found}
        if beside := len(found) - sum(map(len, listed.values())):
            others["beside the split folders"] += beside
        ignored = report_ignored(self.root, others)
        if not any(listed.values()):
            kinds = ignored or ", ".join(sorted(extensions()))
            raise ValueError(f"{self.root}: no images here ({kinds}); check root")
        classes = {
            name: _class_folder(name, depth=bool(folders))
            for names in listed.values()
            for name in names
        }
        indices = self._class_indices(classes, list(folders.values()) or [""])
        labels: dict[str, dict[str, Labels]] = {
            split: {
                name: (indices[classes[name]],) if indices else ()
                for name in in_turn(names, classes)
            }
            for split, names in listed.items()
        }
        return labels if folders else self.divide(labels["all"])

    def _class_indices(self, classes: dict[str, str], bases: Sequence[str]) -> dict[str, int]:
        """Return the index of each class folder; empty if the images are unlabeled."""
        loose = [name for name, folder in classes.items() if not folder]
        if self._labelled and loose:
            raise ValueError(
                f"{shown(self.root / loose[0])}: not in a class sub-folder; move it or set"
                " labelled: false"
            )
        if self._labelled is False or len(loose) == len(classes):
            return {}
        if loose:
            rank_zero_warn(
                f"{self.root}: all {len(classes)} images are taken as unlabeled, since {len(loose)}"
                f" lie in no class folder, such as {shown(loose[0])}; move those, or set labelled:"
                " false"
            )
            return {}
        used = set(classes.values())
        present = {clean(name) for base in bases for name in subfolders(self.root / base)}
        if self._known:
            return self.index_classes(sorted(used), self.root)
        if empty := sorted(present - used):
            rank_zero_warn(
                f"{self.root}: no images in the class folders {empty}; they stay classes, so that"
                " the other indices do not change. Remove the folders, or set class_names"
            )
        names = ordered_classes(used | present, self.root)
        if names != sorted(names):
            rank_zero_warn(
                f"{self.root}: the class folders are ordered as numbers: {', '.join(names[:3])},"
                f" ... A classifier trained with torchvision's ImageFolder has the order of text:"
                f" {', '.join(sorted(names)[:3])}, ... Set class_names to the order of yours"
            )
        return self.index_classes(names, self.root)


def _class_folder(name: str, depth: int) -> str:
    parts = name.split("/")[depth:]
    return clean(parts[0]) if len(parts) > 1 else ""


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
    the split is a class, and an image may have no class at all. The delimiter may be a comma, a
    semicolon, a tab or "|". Spaces around entries are removed, columns are found in any case, and a
    missing entry is an error. Class names are sorted, as numbers if all of them are.

    Args:
        root: Folder to which the file names are relative.
        csv_file: CSV file with a header line, relative to `root`. It is read when first needed.
        name_column: Column of the image files.
        label_column: Column of the class name of each image.
        index_column: Column of the class index of each image in the classifier's classes. If
            `label_column` is given too, it names the indices.
        split_column: Column with the split, "train", "val" or "test" or another usual name as in
            `ImageFolder`; None divides the images by `fractions`.
        file_pattern: Pattern that turns an entry into a path, such as "JPEGImages/{}.jpg".
        class_names: Class names in the order of the targets.
        class_indices: Index of each label in the classifier's classes.
        num_classes: Length of the target; None derives it from the names or indices.
        fractions: Fractions of the images in train, val and test if there is no split column.
        split_seed: Seed of the random split.
        kwargs: Arguments of `FileDataModule` and `ImageDataModule`, such as `test_on`.

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
        if "{}" not in file_pattern:
            raise ValueError(f"file_pattern must contain {{}} for the entry, got {file_pattern!r}")
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
            FileNotFoundError: If the CSV file or an image does not exist.
            ValueError: If a column is missing or an entry is invalid.
        """
        table = Table(self.csv_file, (self.name_column, "name_column"))
        key = table.column(self.name_column, "name_column")
        split_key = self.split_column and table.column(self.split_column, "split_column")
        labels = self._labels(table, {key, split_key})
        lines: dict[str, int] = {}
        splits: dict[str, dict[str, Labels]] = {}
        for row, own in zip(table.rows, labels, strict=True):
            name, missing = table.file(row, key, self.file_pattern, self.root)
            if missing:
                self.missing[name] = missing
            if lines.setdefault(name, row.line) != row.line:
                raise table.fault(
                    row.line,
                    f"{shown(name)} is listed twice, first in line {lines[name]}; keep one line (an"
                    " image of several classes needs one 0/1 column per class)",
                )
            split = split_of(row.cells[split_key]) if split_key else "all"
            if split is None:
                raise table.fault(
                    row.line,
                    f"unknown split {row.cells[split_key or '']!r}; expected {list(SPLITS)}",
                )
            splits.setdefault(split, {})[name] = own
        return splits if split_key else self.divide(splits.get("all", {}))

    def _labels(self, table: Table, reserved: set[str | None]) -> list[Labels]:
        if self.index_column is not None:
            return self._numbered(table, table.column(self.index_column, "index_column"))
        if self.label_column is not None:
            column = table.column(self.label_column, "label_column")
            labels = [table.entry(row, column, self._known) for row in table.rows]
            found = sorted(set(labels))
            if not self._known:
                found = ordered_classes(found, self.csv_file)
            by_name = self.index_classes(found, self.csv_file)
            return [(by_name[label],) for label in labels]
        rest = self.given_names or [column for column in table.columns if column not in reserved]
        unnamed = [name for name in rest if not name or name.startswith("Unnamed:")]
        if unnamed:
            raise table.fault(
                1,
                f"a column is called {unnamed[0]!r}; remove it, or set class_names or label_column",
            )
        columns = {name: table.column(name, "class_names") for name in rest}
        by_name = self.index_classes(rest, self.csv_file)
        return [
            tuple(place for name, place in by_name.items() if table.flag(row, columns[name]))
            for row in table.rows
        ]

    def _numbered(self, table: Table, column: str) -> list[Labels]:
        named = table.column(self.label_column, "label_column") if self.label_column else None
        names: dict[int, str] = {}
        indices = [table.index(row, column) for row in table.rows]
        for row, index in zip(table.rows, indices, strict=True):
            name = str(index) if named is None else table.entry(row, named, self._known)
            # The index identifies the class, so that two classes of the same name stay apart.
            if names.setdefault(index, name) != name:
                raise table.fault(
                    row.line, f"index {index} is called {name!r}, and {names[index]!r} above"
                )
        self.set_names(names, self.csv_file)
        return [(index,) for index in indices]
