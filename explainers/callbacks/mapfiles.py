"""Names and contents of the files of maps: each image has its own, and none is half written."""

import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from explainers.evaluation.drawing import Picture
from explainers.evaluation.scorefile import printable, write_rows

NAME_MAX = 255  # bytes of a file's name
ENDINGS = (".npy", ".classes.txt", ".heat.png", ".overlay.png")
LONGEST = NAME_MAX - max(map(len, ENDINGS))
FILES = ("image", "file", "identity")  # columns of files.csv
CONTROL = "\x00-\x1f\x7f-\x9f\u2028\u2029"
# Encoded in names: control characters, bytes that are no UTF-8, and what an encoded name looks like
# itself: "%" before two hexadecimal digits, or the hash of a long name.
ODD = re.compile(rf"[{CONTROL}\ud800-\udfff]|%(?=[0-9A-Fa-f]{{2}})|~(?=[0-9a-f]{{16}}$)")
FILE_LIKE = re.compile(r"\.(?=(npy|txt|png|csv|json|lock|tmp)$)")  # no name of a folder


def file_name(name: str) -> str:
    """Path of an image's files in their folder, without the endings: its name, wherever possible.

    Different images have different paths, and none leads out of the folder. Steps such as ".." and
    characters that a file name should not have are percent-encoded. The end of a name that is too
    long is replaced by a hash.

    Example:
        >>> file_name("cats/1.jpg"), file_name("../cats/1.jpg"), file_name("cats/1%2F.jpg")
        ('cats/1.jpg', '%2E%2E/cats/1.jpg', 'cats/1%252F.jpg')
    """
    *folders, last = (_step(step) for step in name.split("/"))
    folders = [_shortened(FILE_LIKE.sub("%2E", step), NAME_MAX) for step in folders]
    return "/".join([*folders, _shortened(last, LONGEST)])


def class_label(name: str) -> str:
    """A class's name as a part of a file name, in which dots only separate the parts.

    Example:
        >>> class_label("tench"), class_label("St. Bernard"), class_label("and/or")
        ('tench', 'St%2E Bernard', 'and%2For')
    """
    return re.sub(r"[/.]", _percent, ODD.sub(_percent, name))


def one_line(name: str) -> str:
    r"""A class's name on a line of its own: line breaks and other control characters as `\n`."""
    return printable(re.sub(f"[{CONTROL}]", lambda found: repr(found[0])[1:-1], name))


def _step(step: str) -> str:
    if step in ("", ".", ".."):
        return "%2E" * len(step) or "%2F"
    return ODD.sub(_percent, step)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


def _shortened(text: str, limit: int) -> str:
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return raw[: limit - 17].decode(errors="ignore") + "~" + hashlib.sha256(raw).hexdigest()[:16]


class MapFiles:
    """The files of maps in a folder, as one process writes them.

    Each file is written under a temporary name at the top of the folder and then moved to its
    place. `clear` removes the temporary files of a run that was killed. Each map has a line in
    `files.csv`: its image, its file without the ending, and the identity of the image.

    Args:
        folder: Folder of the files.
        rank: Rank of this process.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self._rank = folder, rank
        self._errors, self._index = folder / "errors.csv", folder / "files.csv"

    def hold_maps(self) -> bool:
        """Whether the folder holds a map."""
        maps = self.folder.rglob("*.npy")
        return any(path.with_suffix(".classes.txt").exists() for path in maps)

    def identities(self) -> dict[str, str]:
        """Identities of the images that have a map, by the path of their files."""
        return {file: row["identity"] for file, row in self._rows().items()}

    def _rows(self) -> dict[str, dict[str, str]]:
        """Whole lines of `files.csv` by the path of the files, for images that have a map."""
        if not self._index.exists():
            return {}
        text = self._index.read_bytes().decode("utf-8", "replace")
        lines = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        next(lines, None)  # the columns
        rows = [dict(zip(FILES, line, strict=True)) for line in lines if len(line) == len(FILES)]
        known = {row["file"]: row for row in rows}
        return {name: row for name, row in known.items() if (self.folder / f"{name}.npy").exists()}

    def clear(self) -> None:
        """Removes what is left of earlier runs: temporary files, errors, and lines without maps."""
        for path in self.folder.glob(".maps-*.tmp"):
            path.unlink()
        self._errors.unlink(missing_ok=True)
        if self._index.exists():
            write_rows(self._index, FILES, self._rows().values())

    def path(self, name: str, ending: str, label: str | None = None) -> Path:
        """Path of a file of an image, or of one of its classes."""
        path = self.folder / file_name(name)
        if label is not None:
            path = path.with_name(_shortened(f"{path.name}.{label}", LONGEST))
        return path.with_name(path.name + ending)

    def has(self, name: str) -> bool:
        """Whether an image has a map."""
        return self.path(name, ".npy").exists()

    @contextmanager
    def array(self, path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[Tensor], None]]:
        """A function that takes the parts of an array one after the other; the file comes last."""
        temporary = self.folder / f".maps-{self._rank}-array.tmp"
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        try:
            with temporary.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)

                def add(values: Tensor) -> None:
                    file.write(values.detach().cpu().numpy().astype("<f4").tobytes())

                yield add
            _move(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def picture(self, path: Path, shown: Picture) -> None:
        """Writes a PNG file."""
        file = io.BytesIO()
        Image.fromarray(shown).save(file, "PNG")
        self._write(path, file.getvalue())

    def classes(self, path: Path, names: Sequence[str]) -> None:
        """Writes names of classes, one per line."""
        self._write(path, "".join(f"{one_line(name)}\n" for name in names).encode())

    def enter(self, image: str, identity: str) -> None:
        """Adds the line of an image to `files.csv`."""
        _add_line(self._index, dict(zip(FILES, (image, file_name(image), identity), strict=True)))

    def error(self, image: str, method: str, error: str) -> None:
        """Adds a line to `errors.csv`."""
        _add_line(self._errors, {"image": image, "method": method, "error": error})

    def _write(self, path: Path, content: bytes) -> None:
        temporary = self.folder / f".maps-{self._rank}.tmp"
        temporary.write_bytes(content)
        _move(temporary, path)


def _add_line(path: Path, row: dict[str, str]) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        if file.tell() == 0:
            writer.writerow(row)
        writer.writerow(map(printable, row.values()))


def _move(temporary: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, path)
