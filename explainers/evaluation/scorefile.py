"""The file scores.csv of a run, which grows after every batch and survives interruptions."""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from explainers.evaluation import scorelines, scores
from explainers.evaluation.runfolder import RunFolder, write_atomically
from explainers.evaluation.scorelines import ERROR as ERROR  # the columns that every file has
from explainers.evaluation.scorelines import IDENTITY as IDENTITY
from explainers.evaluation.scorelines import KEYS as KEYS
from explainers.evaluation.scores import Record as Record
from explainers.evaluation.scores import Scores
from explainers.evaluation.scores import read as read

SHARD = re.compile(r"scores\.rank-\d+\.csv")
PART = 1_000_000  # bytes copied at a time


class ScoreFile:
    """Rows that one process writes, and the images that are already complete.

    A single process writes `scores.csv`. Each of several processes writes `scores.rank-<i>.csv`,
    until these files are merged. The folder belongs to one run, see `RunFolder`. Names that are not
    valid UTF-8 are written as `printable` says.

    Args:
        folder: Run folder, which is created if needed.
        settings: Settings that a resumed run must share, as JSON types. They include `columns` and
            `methods`.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        ValueError: If the folder holds the scores of another run, another process writes it, or a
            file in it is damaged.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], rank: int = 0, world_size: int = 1
    ) -> None:
        self.folder = folder
        self.columns = [*KEYS, *settings["columns"], IDENTITY, ERROR]
        self.methods = list(settings["methods"])
        self.path = folder / ("scores.csv" if world_size == 1 else f"scores.rank-{rank}.csv")
        self._run = RunFolder(folder, settings, any(map(_holds_rows, shards(folder))), rank=rank)
        try:
            _drop_partial_line(self.path)
            found = self._read(values=False)
            self.done, self.identities = found.complete(len(self.methods))
        except BaseException:
            self.close()
            raise

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Writes all rows of some images. Missing values and NaN become empty fields."""
        rows = [[_text(record.get(name)) for name in self.columns] for record in records]
        text = _lines(rows if self.path.exists() else [self.columns, *rows])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(text)
        self.done |= {row[1]: int(row[0]) for row in rows}

    def merge(self, unread: Mapping[str, str] | None = None, others: Sequence[Path] = ()) -> Scores:
        """Merges the files of all processes into a sorted `scores.csv` that has each row once.

        The errors among the rows also go to `errors.csv`, if there are any.

        Args:
            unread: Images that could not be read, and why; they go to `errors.csv` without a
                method.
            others: Files of other folders whose rows are taken over.

        Returns:
            The rows of the merged file.
        """
        merged = shards(self.folder)
        rows = self._read(others=others)
        rows = rows.take(_sorted(rows, self.methods))
        path = self.folder / "scores.csv"
        _copy(rows, _lines([self.columns]).encode(), path)
        for shard in merged:
            if shard != path:
                shard.unlink()
        failed = [
            {"image": name, "method": "", ERROR: reason} for name, reason in (unread or {}).items()
        ] + [
            {"image": rows.name.of(row), "method": rows.method.of(row), ERROR: rows.error.of(row)}
            for row in np.flatnonzero(rows.failed)
        ]
        write_errors(self.folder, failed)
        return rows

    def close(self) -> None:
        """Lets other runs write the folder."""
        self._run.release()

    def _read(self, values: bool = True, others: Sequence[Path] = ()) -> Scores:
        return scores.gather(self._blocks([*shards(self.folder), *others]), values)

    def _blocks(self, paths: Iterable[Path]) -> Iterator[tuple[Path, scorelines.Block]]:
        known = set(self.methods)
        for path in paths:
            for block in scorelines.blocks(path):
                if block.header != self.columns:
                    raise ValueError(f"{path}, line 1 is not the header of this run: move it away")
                for row, name in enumerate(block.words["method"]):
                    if name not in known:
                        raise scorelines.damaged(path, block.lines[row], "it is not of this run")
                yield path, block


def _sorted(rows: Scores, methods: Sequence[str]) -> scorelines.Integers:
    """The rows that hold, by method, image and target."""
    order = np.array([methods.index(name) for name in rows.method.known], np.int64)
    ranks = np.empty(len(rows.target.known), np.int64)
    ranks[np.argsort(np.array(rows.target.known, object), kind="stable")] = np.arange(len(ranks))
    own = rows.last()
    keys = ranks[rows.target.codes[own]], rows.index[own], order[rows.method.codes[own]]
    return own[np.lexsort(keys)]


def _copy(rows: Scores, header: bytes, path: Path) -> None:
    """Writes rows as they stand in their files, which may be the same file."""
    temporary = path.with_name(f"{path.name}.tmp")
    sources = [os.open(file, os.O_RDONLY) for file in rows.files]
    try:
        with temporary.open("wb") as file:
            file.write(header)
            for source, start, stop in _runs(rows.places):
                while start < stop:
                    file.write(os.pread(sources[source], min(stop - start, PART), start))
                    start += PART
    finally:
        for source in sources:
            os.close(source)
    os.replace(temporary, path)


def _runs(places: scorelines.Integers) -> Iterator[tuple[int, int, int]]:
    """Parts of the files that rows take up, where those that follow each other are one part."""
    if not len(places):
        return
    source, starts, stops = places.T
    new = (source[1:] != source[:-1]) | (starts[1:] != stops[:-1])
    first = np.concatenate([[0], np.flatnonzero(new) + 1])
    last = np.concatenate([first[1:] - 1, [len(places) - 1]])
    parts = (source[first].tolist(), starts[first].tolist(), stops[last].tolist())
    yield from zip(*parts, strict=True)


def write_errors(folder: Path, errors: Sequence[dict[str, str]]) -> None:
    """Writes the errors of a run to `errors.csv`: `image`, `method`, `error`; none, no file."""
    path = folder / "errors.csv"
    if errors:
        write_rows(path, ("image", "method", ERROR), errors)
    else:
        path.unlink(missing_ok=True)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, str]]) -> None:
    """Writes a whole CSV file at once."""
    fields = [[_text(row[name]) for name in columns] for row in rows]
    write_atomically(path, _lines([columns, *fields]))


def _lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # csv does not quote a carriage return that is not part of its own line end.
        (quoting if any("\r" in field for field in row) else plain).writerow(row)
    return text.getvalue()


def shards(folder: Path) -> list[Path]:
    """Files with scores in a run folder: the merged one, and those of single processes."""
    found = [path for path in folder.glob("scores.rank-*.csv") if SHARD.fullmatch(path.name)]
    return sorted([*folder.glob("scores.csv"), *found])


def _holds_rows(path: Path) -> bool:
    first = next(scorelines.whole_lines(path), b"")
    return len(first) > first.find(b"\n") + 1


def _drop_partial_line(path: Path) -> None:
    if path.exists():
        if not _holds_rows(path):
            path.unlink()
        else:
            os.truncate(path, sum(map(len, scorelines.whole_lines(path))))


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return printable(str(value))


def printable(name: str) -> str:
    r"""A name as valid UTF-8, in which bytes that are none are written as `\udc80` to `\udcff`."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
