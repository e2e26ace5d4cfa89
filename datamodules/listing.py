"""The images of a folder, and the names of splits and classes as people write them."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image

from datamodules import listing_cache

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Formats of Pillow that hold pictures; "HEIF" and "JXL" exist if a plugin adds them.
FORMATS = {
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "JXL", "MPO", "PCX", "PNG",
    "PPM", "PSD", "QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP",
}  # fmt: skip
# Endings of pictures that Pillow cannot open, or not in every installation.
UNREADABLE = {
    ".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".hdr", ".heic", ".heif", ".hif",
    ".jxl", ".nef", ".npy", ".raw", ".svg", ".webp",
}  # fmt: skip
# Files and folders that systems add, besides the hidden ones.
SYSTEM = {
    "$recycle.bin", "@eadir", "__macosx", "__pycache__", "desktop.ini", "lost+found",
    "system volume information", "thumbs.db",
}  # fmt: skip
MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "null"}
INTEGER = re.compile(r"[+-]?\d+(\.0*)?")


def shown(path: object) -> str:
    r"""Return a path for a message of one line that every terminal can print.

    Line breaks, other control characters and bytes that are not UTF-8 are escaped.

    Example:
        >>> print(shown("cats/a\n1.jpg"))
        cats/a\n1.jpg
    """
    text = str(path)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def split_of(name: str) -> str | None:
    """Return the split that a folder or a CSV cell names, or None.

    The names are those of `SPLIT_NAMES` in any case, also with an ending such as "_set".

    Example:
        >>> split_of("Validation"), split_of("test_set"), split_of("cats")
        ('val', 'test', None)
    """
    word = re.sub(r"[ _-]?(set|split|data|images)$", "", name.strip().casefold())
    return SPLIT_NAMES.get(word)


def resembles_split(name: str) -> bool:
    """Return whether one word of a name is that of a split, as in "seg_train" or "eval"."""
    words = re.findall("[a-z]+", name.casefold())
    return any(split_of(word) or word in ("eval", "evaluation", "pred") for word in words)


@cache
def extensions() -> frozenset[str]:
    """Return the file endings, in lower case, of pictures that the installed Pillow can open."""
    kinds = Image.registered_extensions()  # fills Image.OPEN
    opened = {*Image.OPEN, "MPO"}  # the plugin of JPEG opens MPO
    return frozenset(end for end, kind in kinds.items() if kind in FORMATS & opened)


def ending(name: str) -> str:
    r"""Return the ending of a file name, in lower case and without the "\r" of a bad script."""
    return Path(name).suffix.lower().strip()


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the subfolders, including links.

    Hidden and system folders are left out, and those called like an image, such as "x.jpg".
    """
    return [e.name for e in _entries(folder) if _is_dir(e) and ending(e.name) not in extensions()]


def _is_dir(entry: os.DirEntry[str]) -> bool:
    # `os.path` answers for links in a circle, where an entry raises.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_file(entry: os.DirEntry[str]) -> bool:
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.name.casefold() not in SYSTEM
            ]
    except OSError as error:
        raise ValueError(
            f"{shown(folder)}: cannot be read ({error.strerror}); mend or remove"
        ) from None
    return sorted(visible, key=lambda entry: entry.name)


def find_images(root: Path) -> tuple[list[str], Counter[str], list[str]]:
    """Return the images below `root` as sorted relative paths, and the endings of other files.

    Symbolic links are followed. A link to a folder that contains it is not, so that cycles end.
    Hidden files and those of `SYSTEM` are left out. Links that are called like images but lead
    nowhere are among the images, and are listed once more at the end.

    The listing of a large folder without links is kept for later runs, see `listing_cache`.

    Raises:
        ValueError: If a folder cannot be read or any other link leads nowhere.
    """
    if known := listing_cache.read(root, extensions()):
        return *known, []
    images: list[str] = []
    broken: list[str] = []
    others: Counter[str] = Counter()
    folders: listing_cache.Folders = {}
    linked = False
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, above = pending.pop()
        inode = os.stat(root / folder)
        within = above | {(inode.st_dev, inode.st_ino)}
        if len(within) == len(above):
            continue  # a link back to a folder that contains it
        folders[folder] = listing_cache.stamp(inode)
        for entry in _entries(root / folder):
            linked = linked or entry.is_symlink()
            path = f"{folder}{entry.name}"
            if _is_dir(entry):
                pending.append((f"{path}/", within))
            elif (kind := ending(entry.name)) in extensions():
                images.append(path)
                if not _is_file(entry):
                    broken.append(path)
            elif not _is_file(entry):
                raise ValueError(f"{shown(root / path)}: a link to nothing; mend or remove it")
            else:
                others[shown(kind) or "without ending"] += 1
    images.sort()
    if linked:
        _warn_of_repeats(root, set(images).difference(broken))
    elif not broken:
        listing_cache.write(root, extensions(), images, others, folders)
    return images, others, sorted(broken)


def _warn_of_repeats(root: Path, images: Iterable[str]) -> None:
    first: dict[tuple[int, int], str] = {}
    repeats = []
    for image in sorted(images):
        inode = os.stat(root / image)
        known = first.setdefault((inode.st_dev, inode.st_ino), image)
        if known != image:
            repeats.append((known, image))
    if repeats:
        rank_zero_warn(
            f"{root}: links lead to {len(repeats)} images a second time, such as"
            f" {shown(repeats[0][0])} and {shown(repeats[0][1])}; each path counts as an image of"
            " its own"
        )


def report_ignored(root: Path, others: Counter[str]) -> str:
    """Say once how many files are ignored, by ending; a warning if pictures are among them.

    Returns:
        The line, such as "12 files ignored: 10 .heic, 2 .txt", or an empty text.
    """
    if not others:
        return ""
    kinds = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
    text = f"{others.total()} file{'s' * (others.total() > 1)} ignored: {kinds}"
    if pictures := UNREADABLE & set(others):
        rank_zero_warn(f"{root}: {text}; convert {', '.join(sorted(pictures))} to .png or .jpg")
    else:
        rank_zero_info(f"{root}: {text}")
    return text


def split_folders(
    root: Path, holding: Collection[str], known: Collection[str], labelled: bool | None
) -> dict[str, str]:
    """Return the subfolder of each split, or nothing if the subfolders are no splits.

    Args:
        root: Folder of the images.
        holding: The subfolders that contain images.
        known: Class names that the user gives; they may be those of splits.
        labelled: Whether the user says that subfolders are classes, or None.

    Raises:
        ValueError: If it is not clear whether the subfolders are splits.
    """
    splits = {name: split for name in subfolders(root) if (split := split_of(name))}
    rest = sorted(set(holding) - set(splits))
    if not splits or (rest and set(splits) <= set(known)):
        if labelled is None and not known:
            _check_classes(root, sorted(holding))
        return {}
    if rest:
        raise ValueError(
            f"{root}: {next(iter(splits))!r} looks like a split, {rest[0]!r} beside it does not;"
            " rename them train, val and test, move one of them away, or list all classes in"
            " class_names"
        )
    by_split: dict[str, str] = {}
    for name, split in splits.items():
        if by_split.setdefault(split, name) != name:
            raise ValueError(
                f"{root}: the folders {by_split[split]!r} and {name!r} are both the {split} split;"
                " rename or merge them"
            )
    return by_split


def _check_classes(root: Path, folders: Collection[str]) -> None:
    """Refuse folders that are not called like splits but seem to be some."""
    inside = [set(subfolders(root / name)) for name in folders]
    shared = set.intersection(*inside) if len(inside) > 1 else set()
    if (
        (folders and all(map(resembles_split, folders)))
        or len(shared) > 1
        or any(map(split_of, shared))
    ):
        also = f" All of them contain {sorted(shared)[:3]}." if shared else ""
        raise ValueError(
            f"{root}: are the folders {sorted(folders)[:3]} splits or classes?{also} Rename splits"
            " train, val and test, with class folders inside; if they are classes, set labelled:"
            " true"
        )


def clean(name: str) -> str:
    """Return a class name without surrounding spaces, in the composed Unicode form.

    macOS writes accents decomposed, so that the same name would otherwise be two classes.
    """
    return unicodedata.normalize("NFC", name).strip()


def ordered_classes(names: Collection[str], where: Path) -> list[str]:
    """Return class names in the order of their indices: numbers as numbers, all else as text.

    Raises:
        ValueError: If two names differ only in case, quotes or spaces, or are the same number.

    Example:
        >>> ordered_classes({"10", "2", "0"}, Path("labels.csv"))
        ['0', '2', '10']
    """
    numeric = all(INTEGER.fullmatch(name) for name in names)
    alike: dict[object, str] = {}
    for name in sorted(names):
        key = float(name) if numeric else " ".join(re.sub("[\"'`]", "", name).casefold().split())
        if (other := alike.setdefault(key, name)) != name:
            raise ValueError(
                f"{where}: classes {other!r} and {name!r} look like one class; write them alike,"
                " or list both in class_names"
            )
    return sorted(names, key=float) if numeric else sorted(names)
