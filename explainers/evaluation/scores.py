"""The rows of scores.csv, as columns."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from explainers.evaluation.scorelines import (
    ERROR,
    IDENTITY,
    KEYS,
    Block,
    Integers,
    blocks,
    damaged,
    figures,
)
from explainers.metrics.statistics import Array

WORDS = (*KEYS[1:], IDENTITY, ERROR)

Record = dict[str, str]


class Words(NamedTuple):
    """A column of text, whose entries are mostly repeated.

    Attributes:
        known: The distinct entries, in the order of their first row.
        codes: Position in `known` of the entry of each row, (N,).
    """

    known: list[str]
    codes: Integers

    def of(self, row: SupportsIndex) -> str:
        """The entry of a row."""
        return self.known[int(self.codes[row])]

    def where(self, entry: str) -> NDArray[np.bool_]:
        """Which rows (N,) have an entry."""
        code = self.known.index(entry) if entry in self.known else -1
        return np.asarray(self.codes == code)


class Scores:
    """Rows of scores files as columns.

    Args:
        index: Position in the data set of the image of each row, (N,).
        words: The columns of `WORDS`; all of them are there, if need be empty.
        values: The other columns by name, (N,), NaN where missing.
        files: Files of the rows.
        places: File, first byte and first byte behind it of each row, (N, 3).
    """

    def __init__(
        self,
        index: Integers,
        words: Mapping[str, Words],
        values: Mapping[str, Array],
        files: Sequence[Path] = (),
        places: Integers | None = None,
    ) -> None:
        self.index, self.words, self.values = index, dict(words), dict(values)
        self.name, self.target, self.method = (self.words[key] for key in KEYS[1:])
        self.identity, self.error = self.words[IDENTITY], self.words[ERROR]
        self.files = list(files)
        self.places = np.empty((len(index), 3), np.int64) if places is None else places

    def __len__(self) -> int:
        return len(self.index)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which rows (N,) tell an error instead of values."""
        return ~self.error.where("")

    def take(self, rows: Integers) -> "Scores":
        """Some rows, in a new order. The columns of this object are emptied, to save memory."""
        words = {key: Words(own.known, own.codes[rows]) for key, own in self.words.items()}
        values = {name: self.values.pop(name)[rows] for name in list(self.values)}
        return Scores(self.index[rows], words, values, self.files, self.places[rows])

    def last(self) -> Integers:
        """Rows that hold: the last ones of each image, target and method.

        They are ordered by the first row of their image.
        """
        counts = len(self.target.known), len(self.method.known)
        keys = (self.name.codes * counts[0] + self.target.codes) * counts[1] + self.method.codes
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        newest = np.zeros(len(first), np.int64)
        np.maximum.at(newest, inverse, np.arange(len(keys)))
        return newest[np.lexsort((first, self.name.codes[first]))]

    def complete(self, methods: int) -> tuple[dict[str, int], dict[str, str]]:
        """Index and identity of each image that has all rows and no error, by name.

        Args:
            methods: Number of methods, each of which has a row for each target of an image.
        """
        rows = self.last()
        name, count = self.name.codes[rows], len(self.name.known)
        pairs = np.unique(name * len(self.target.known) + self.target.codes[rows])
        targets = np.bincount(pairs // max(1, len(self.target.known)), minlength=count)
        found = np.bincount(name, minlength=count)
        errors = np.bincount(name, weights=self.failed[rows], minlength=count)
        whole = (found == targets * methods) & (errors == 0)
        images, first = np.unique(name, return_index=True)
        places = rows[first[whole[images]]]
        names = [self.name.of(row) for row in places]
        done = dict(zip(names, self.index[places].tolist(), strict=True))
        return done, {n: self.identity.of(row) for n, row in zip(names, places, strict=True)}


def gather(parts: Iterable[tuple[Path, Block]], values: bool = True) -> Scores:
    """The rows of some blocks as columns.

    Args:
        parts: Blocks and the files that they are of. All have the same columns.
        values: Whether to convert the columns of values, which takes most of the time.

    Raises:
        ValueError: If a value is no number. The message names the line.
    """
    known: dict[str, defaultdict[str, int]] = {key: defaultdict() for key in WORDS}
    for words in known.values():
        words.default_factory = words.__len__  # a new entry gets the next code
    codes: dict[str, list[Integers]] = {key: [] for key in WORDS}
    tables: list[Array] = []
    index, places, files, names = [], [], list[Path](), list[str]()
    for path, block in parts:
        files += [] if path in files else [path]
        count, names = len(block.lines), figures(block.header)
        index.append(np.fromiter(map(int, block.words["index"]), np.int64, count))
        owner = np.full((count, 1), files.index(path))
        places.append(np.concatenate([owner, block.places], axis=1))
        for key in WORDS:
            found = map(known[key].__getitem__, block.words.get(key, ("",) * count))
            codes[key].append(np.fromiter(found, np.int64, count))
        if values and names:
            tables.append(_numbers(block, names, path))
    table = np.concatenate(tables) if tables else np.empty((0, len(names)))
    tables.clear()
    return Scores(
        _joined(index),
        {key: Words(list(known[key]), _joined(codes.pop(key))) for key in WORDS},
        dict(zip(names, table.T, strict=True)) if values else {},
        files,
        np.concatenate(places) if places else None,
    )


def of_records(rows: Sequence[Mapping[str, str]]) -> Scores:
    """Rows as columns, from those of `read`."""
    header = list(rows[0]) if rows else []
    words = {key: [row[key] for row in rows] for key in ("index", *WORDS) if key in header}
    values = [",".join(row[name] for name in figures(header)) for row in rows]
    places = np.zeros((len(rows), 2), np.int64)
    block = Block(header, words, values, range(2, len(rows) + 2), places)
    return gather([(Path("scores.csv"), block)] if rows else [])


def load(path: Path) -> Scores:
    """Rows of a scores file as columns. An incomplete last line is left out.

    Raises:
        ValueError: If a line is damaged. The message names it.
    """
    return gather((path, block) for block in blocks(path))


def read(path: Path) -> list[Record]:
    """Rows of a scores file, with all fields as text. An incomplete last line is left out.

    Raises:
        ValueError: If a line is damaged. The message names it.
    """
    rows = []
    for block in blocks(path):
        names = figures(block.header)
        for row, fields in enumerate(block.figures):
            values = dict(zip(names, fields.split(","), strict=True)) if names else {}
            values |= {key: column[row] for key, column in block.words.items()}
            rows.append({name: values[name] for name in block.header})
    return rows


def _numbers(block: Block, names: Sequence[str], path: Path) -> Array:
    """The figures of a block, (N, C)."""
    text = f",{','.join(block.figures)},"
    if ",," in text:
        text = text.replace(",,", ",nan,").replace(",,", ",nan,")
    shape = (len(block.lines), len(names))
    try:
        with warnings.catch_warnings(action="error"):
            return np.fromstring(text[1:-1], np.float64, sep=",").reshape(shape)
    except (ValueError, DeprecationWarning):  # something that is no number, or no plain one
        table = np.full(shape, np.nan)
    for row, fields in enumerate(block.figures):
        for column, value in enumerate(fields.split(",")):
            try:
                table[row, column] = float(value or "nan")
            except (ValueError, IndexError) as error:
                what = f"its {names[min(column, len(names) - 1)]} is no number: {error}"
                raise damaged(path, block.lines[row], what) from None
    return table


def _joined(parts: Sequence[Integers]) -> Integers:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
