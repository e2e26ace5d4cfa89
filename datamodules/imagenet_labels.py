"""The labels of ImageNet's validation images in the forms in which people have them."""

import io
import re
import tarfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from datamodules.boxes import Box, finite, read_annotation
from datamodules.listing import extensions, shown
from datamodules.synsets import class_indices
from datamodules.table import Row, Table

NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})$")
PAIR = re.compile(r"(.*[^\s,;])[\s,;]+(\S+)")
KAGGLE = "LOC_val_solution.csv"
TRUTH, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
DEVKITS = ("ILSVRC2012_devkit_t12/data", "devkit/data", "data", "ILSVRC2012_devkit_t12", "")
ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
LISTS = ("val.txt",)
BASES = ("", "ILSVRC", "..")  # of the root; Kaggle's archive has the lists beside ILSVRC
ANNOTATIONS = (
    "Annotations/CLS-LOC/val", "annotations/val", "ILSVRC2012_bbox_val_v3/val", "bbox_val",
    "bbox/val", "val",
)  # fmt: skip
FORMS = (
    f"{KAGGLE} (Kaggle), {TRUTH} with {SYNSETS} in {', '.join(DEVKITS[:2])} or in {ARCHIVE},"
    f" meta.bin (torchvision), {LISTS[0]} (lines 'name target'), XML files in"
    f" {', '.join(ANNOTATIONS[:3])}"
)


class ValLabels(NamedTuple):
    """Class index of each image by the stem of its file name, and its boxes if the form has any."""

    path: Path
    classes: dict[str, int]
    boxes: dict[str, list[Box]]


def stem(name: str) -> str:
    """Return the name of an image file without folders and the ending of a picture.

    Example:
        >>> stem("val/ILSVRC2012_val_00000001.JPEG"), stem("photo.1")
        ('ILSVRC2012_val_00000001', 'photo.1')
    """
    file = name.replace("\\", "/").rpartition("/")[2]
    root, dot, end = file.rpartition(".")
    return root if f"{dot}{end}".lower() in extensions() else file


def image_number(name: str) -> int | None:
    """Return the number of a validation image from 1 to 50,000, or None for any other name."""
    match = NUMBER.match(stem(name))
    return int(match[1]) if match else None


def find_labels(root: Path, stems: Collection[str]) -> ValLabels | None:
    """Return the first form of labels that lies where people have it below `root`, or None.

    Args:
        root: Folder of the data set.
        stems: Stems of the images, which are read from XML files if there is nothing else.

    Raises:
        ValueError: If a file is found and cannot be understood.
    """
    bases = [root / base for base in BASES]
    devkits = [base / folder for base in bases[:2] for folder in DEVKITS]
    readers: list[tuple[Callable[[Path], ValLabels], list[Path]]] = [
        (kaggle_labels, [base / KAGGLE for base in bases]),
        (devkit_labels, [folder / TRUTH for folder in devkits]),
        (devkit_labels, [base / ARCHIVE for base in bases[:2]]),
        (torchvision_labels, [base / "meta.bin" for base in bases[:2]]),
        (listed_labels, [base / name for base in bases[:2] for name in LISTS]),
    ]
    for reader, paths in readers:
        if (path := next(filter(Path.is_file, paths), None)) is not None:
            return reader(path)
    folder = find_annotations(root)
    return None if folder is None else annotated_labels(folder, stems)


def find_table(root: Path) -> ValLabels | None:
    """Return the labels and boxes of Kaggle's table below `root`, or None without boxes.

    It is said if the boxes have been removed from the table.

    Raises:
        ValueError: If the table cannot be understood.
    """
    path = next(filter(Path.is_file, (root / base / KAGGLE for base in BASES)), None)
    if path is None:
        return None
    if not (table := kaggle_labels(path)).boxes:
        rank_zero_info(f"{shown(path)}: labels only, its boxes have been removed")
    return table if table.boxes else None


def find_annotations(root: Path) -> Path | None:
    """Return the folder of XML annotations of the validation images below `root`, or None."""
    folders = [root / base / folder for base in BASES[:2] for folder in ANNOTATIONS]
    return next((folder for folder in folders if next(folder.glob("*.xml"), None)), None)


def kaggle_labels(path: Path) -> ValLabels:
    """Return the labels and boxes of Kaggle's table of the validation images.

    Copies of which the boxes have been removed are accepted as labels, which is said.

    Raises:
        ValueError: If a row is not "wnid left top right bottom", repeated.
    """
    table = Table(path, ("ImageId", "the header"))
    name, text = (table.column(column, "the header") for column in ("ImageId", "PredictionString"))
    found = ValLabels(path, {}, {})
    for row in table.rows:
        key = stem(table.entry(row, name))
        words = table.entry(row, text).split()
        found.classes[key] = index_of(words[0], partial(table.fault, row.line))
        if len(words) > 1:
            found.boxes[key] = _kaggle_boxes(words, table, row)
    return found


def _kaggle_boxes(words: list[str], table: Table, row: Row) -> list[Box]:
    index, boxes = class_indices(), []
    try:
        for start in range(0, len(words), 5):
            wnid, *corners = words[start : start + 5]
            left, top, right, bottom = map(finite, corners)
            boxes.append((float(index[wnid]), left, top, right + 1, bottom + 1))
    except (KeyError, ValueError):
        raise table.fault(
            row.line, "expected 'wnid left top right bottom', repeated, in column PredictionString"
        ) from None
    return boxes


def index_of(word: str, fault: Callable[[str], ValueError]) -> int:
    """Return the class index that a WordNet id or a number from 0 to 999 states.

    Raises:
        ValueError: If it is neither, by `fault`.
    """
    index = class_indices()
    if word in index:
        return index[word]
    if word.isdecimal() and int(word) < len(index):
        return int(word)
    if word == "1000":
        raise fault(
            "target 1000: these numbers count from 1, so that they may be ILSVRC2012_IDs, whose"
            f" order is another; use the devkit's {TRUTH} with {SYNSETS}"
        )
    raise fault(f"expected a WordNet id of the 1000 classes or an index 0 to 999, got {word!r}")


def devkit_labels(path: Path) -> ValLabels:
    """Return the labels of the devkit: its folder's ground truth, or its archive.

    The ground truth has ILSVRC2012_IDs, which are mapped by meta.mat to WordNet ids.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If they cannot be understood.
    """
    from scipy.io import loadmat

    truth, synsets = (_devkit_file(path, name) for name in (TRUTH, SYNSETS))
    try:
        rows = loadmat(synsets, squeeze_me=True)["synsets"]
        wnids = {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in rows.reshape(-1)
            if int(row["num_children"]) == 0
        }
        lines = [int(line) for line in truth.read().split()]
        classes = {
            f"ILSVRC2012_val_{place:08d}": class_indices()[wnids[number]]
            for place, number in enumerate(lines, start=1)
        }
    except Exception as error:  # a damaged .mat file can raise anything
        raise ValueError(
            f"{shown(path)}: not the devkit's ground truth with its {SYNSETS}"
            f" ({type(error).__name__}: {error}); replace it"
        ) from None
    return ValLabels(path, classes, {})


def _devkit_file(path: Path, name: str) -> IO[bytes]:
    if path.name != ARCHIVE:
        if not path.with_name(name).is_file():
            raise FileNotFoundError(
                f"{shown(path)}: its numbers are ILSVRC2012_IDs, not class indices, and"
                f" {name}, which maps them, is not beside it; add it"
            )
        return io.BytesIO(path.with_name(name).read_bytes())
    try:
        with tarfile.open(path) as archive:
            member = next(m for m in archive if m.isfile() and m.name.split("/")[-1] == name)
            content: Any = archive.extractfile(member)
            return io.BytesIO(content.read())
    except (tarfile.TarError, OSError, EOFError, StopIteration):
        raise ValueError(
            f"{shown(path)}: not a readable archive with {name}; download it again"
        ) from None


def torchvision_labels(path: Path) -> ValLabels:
    """Return the labels of the file meta.bin, which torchvision makes from the devkit.

    Raises:
        ValueError: If it cannot be understood.
    """
    import torch

    try:
        _, wnids = torch.load(path, weights_only=True)
        classes = {
            f"ILSVRC2012_val_{place:08d}": class_indices()[wnid]
            for place, wnid in enumerate(wnids, start=1)
        }
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"{shown(path)}: not torchvision's meta.bin ({type(error).__name__}); remove it"
        ) from None
    return ValLabels(path, classes, {})


def listed_labels(path: Path) -> ValLabels:
    """Return the labels of a text file with lines "name target".

    A target is an index from 0 to 999 or a WordNet id, after a space, a tab, a comma or a
    semicolon. Folders and the ending of a picture in a name do not matter.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a line is not of this form or names an image a second time.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)}: no such file; set labels")
    classes: dict[str, int] = {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{shown(path)}: not UTF-8 text; save it as UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fault = partial(_fault, path, number)
        if (match := PAIR.fullmatch(line.strip())) is None:
            raise fault(f"expected 'name target', got {shown(line)!r}")
        key, index = stem(match[1]), index_of(match[2], fault)
        if classes.setdefault(key, index) != index:
            raise fault(f"{shown(key)} is listed twice with different targets; keep one line")
    if not classes:
        raise ValueError(f"{shown(path)}: no line 'name target' in it; set labels")
    return ValLabels(path, classes, {})


def _fault(path: Path, line: int, text: str) -> ValueError:
    return ValueError(f"{shown(path)}:{line}: {text}")


def annotated_labels(folder: Path, stems: Collection[str]) -> ValLabels:
    """Return the labels of images that have an XML annotation, from its first object.

    Raises:
        ValueError: If an annotation cannot be understood.
    """
    classes: dict[str, int] = {}
    for key in stems:
        path = folder / f"{key}.xml"
        if path.is_file() and (boxes := read_annotation(path, class_indices()).boxes):
            classes[key] = int(boxes[0][0])
    return ValLabels(folder, classes, {})
