"""The lines of scores.csv: whole rows, some at a time, and errors that name a line."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KEYS = ("index", "name", "target", "method")
IDENTITY = "identity"  # column with a hash of what tells an image from others of its name
ERROR = "error"  # column with the error of a method that failed for an image
WRONG = "it has {} fields of {}, or no index"
BLOCK = 4_000_000  # bytes read at a time, to bound the memory

Integers = NDArray[np.int64]


class Block(NamedTuple):
    """Some consecutive rows of a file.

    Attributes:
        header: Names of the columns.
        words: The keys and, if they are there, the identity and the error, by name.
        figures: The fields between these, joined by commas, of each row.
        lines: Line in which each row ends.
        places: First byte of each row and first byte behind it, (N, 2).
    """

    header: list[str]
    words: Mapping[str, Sequence[str]]
    figures: Sequence[str]
    lines: Sequence[int]
    places: Integers


def blocks(path: Path) -> Iterator[Block]:
    """Whole rows of a scores file, some at a time.

    Raises:
        ValueError: If a line is damaged. The message names it.
    """
    header: list[str] = []
    line = place = 0  # before the block
    for content in whole_lines(path):
        if not header:
            first, content = content[: content.find(b"\n") + 1], content[content.find(b"\n") + 1 :]
            header = first.decode("utf-8", "replace").strip().split(",")
            if tuple(header[: len(KEYS)]) != KEYS:
                what = f"it must name {', '.join(KEYS)}, ..."
                raise ValueError(f"{path}, line 1 is damaged: {what}")
            line, place = 1, len(first)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line += content[: error.start].count(b"\n") + 1
            raise damaged(path, line, "it is no UTF-8 text") from None
        if not text:
            continue
        count = len(figures(header))
        plain = count and not any(each in text for each in '"\r\0')
        rows, lines = (_plain if plain else _quoted)(text, count, len(header), path, line)
        columns = list(zip(*rows, strict=True))
        for row, index in enumerate(columns[0]):
            if not index.isdecimal():
                raise damaged(path, line + lines[row], WRONG.format(len(header), len(header)))
        names, texts = [*KEYS, *header[len(KEYS) + count :]], [*columns[:4], *columns[5:]]
        words = dict(zip(names, texts, strict=True))
        ends = place + 1 + np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        stops = ends[np.asarray(lines) - 1]
        places = np.stack([np.concatenate([[place], stops[:-1]]), stops], axis=1)
        yield Block(header, words, columns[4], [line + number for number in lines], places)
        line, place = line + len(ends), place + len(content)


def _plain(
    text: str, figures: int, width: int, path: Path, before: int
) -> tuple[list[list[str]], Sequence[int]]:
    """Rows without quotes, as in `_quoted`."""
    rows = []
    tail = width - len(KEYS) - figures
    for number, line in enumerate(text[:-1].split("\n"), 1):
        if line.count(",") != width - 1:
            raise damaged(path, before + number, WRONG.format(line.count(",") + 1, width))
        row = line.split(",", len(KEYS))
        row[len(KEYS) :] = row[len(KEYS)].rsplit(",", tail)
        rows.append(row)
    return rows, range(1, len(rows) + 1)


def _quoted(
    text: str, figures: int, width: int, path: Path, before: int
) -> tuple[list[list[str]], Sequence[int]]:
    """Rows, each as its keys, its figures joined by commas, and the rest; and their last lines."""
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    rows, lines = [], []
    start, stop = len(KEYS), len(KEYS) + figures
    try:
        for fields in reader:
            if len(fields) != width:
                raise damaged(path, before + reader.line_num, WRONG.format(len(fields), width))
            rows.append([*fields[:start], ",".join(fields[start:stop]), *fields[stop:]])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise damaged(path, before + reader.line_num, str(error)) from None
    return rows, lines


def figures(header: Sequence[str]) -> list[str]:
    """Columns that are numbers, which stand between the keys and the rest."""
    return [name for name in header if name not in (*KEYS, IDENTITY, ERROR)]


def damaged(path: Path, line: int, what: str) -> ValueError:
    """The error of a line that cannot be read."""
    return ValueError(
        f"{path}, line {line} is damaged ({what}): delete that line, and its image is scored again"
    )


def whole_lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file, some at a time. A line break within quotes ends no line."""
    rest, size = b"", BLOCK
    with path.open("rb") as file:
        while data := file.read(size):
            rest += data
            if end := _end(rest):
                yield rest[:end]
                rest, size = rest[end:], BLOCK
            else:
                size = len(rest)  # doubled while no line ends, as after a quote that is not closed


def _end(content: bytes) -> int:
    stop = len(content)
    while True:
        end = content.rfind(b"\n", 0, stop) + 1
        if not end or content.count(b'"', 0, end) % 2 == 0:
            return end
        stop = content.rfind(b'"', 0, end)
