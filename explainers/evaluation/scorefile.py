"""The file scores.csv of a run, which grows after every batch and survives interruptions."""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from explainers.evaluation.runfolder import RunFolder, write_atomically

KEYS = ("index", "name", "target", "method")
IDENTITY = "identity"  # column with a hash of what tells an image from others of its name
ERROR = "error"  # column with the error of a method that failed for an image
SHARD = re.compile(r"scores\.rank-\d+\.csv")

Record = dict[str, str]


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
            rows = self._read()
            self.done = complete(rows, self.methods)
            self.identities = {
                row["name"]: row[IDENTITY] for row in rows if row["name"] in self.done
            }
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

    def merge(self, unread: Mapping[str, str] | None = None) -> list[Record]:
        """Merges the files of all processes into a sorted `scores.csv` that has each row once.

        The errors among the rows also go to `errors.csv`, if there are any.

        Args:
            unread: Images that could not be read, and why; they go to `errors.csv` without a
                method.

        Returns:
            The rows of the merged file.
        """
        merged = shards(self.folder)
        order = {name: rank for rank, name in enumerate(self.methods)}
        rows = sorted(
            (row for image in by_image(self._read()).values() for row in image),
            key=lambda row: (order[row["method"]], int(row["index"]), row["target"]),
        )
        write_rows(self.folder / "scores.csv", self.columns, rows)
        for shard in merged:
            if shard.name != "scores.csv":
                shard.unlink()
        failed = [
            {"image": name, "method": "", ERROR: reason} for name, reason in (unread or {}).items()
        ] + [
            {"image": row["name"], "method": row["method"], ERROR: row[ERROR]}
            for row in rows
            if row[ERROR]
        ]
        write_errors(self.folder, failed)
        return rows

    def close(self) -> None:
        """Lets other runs write the folder."""
        self._run.release()

    def _read(self) -> list[Record]:
        rows = []
        for path in shards(self.folder):
            for line, row in _numbered(path):
                if list(row) != self.columns:
                    raise ValueError(f"{path}, line 1 is not the header of this run: move it away")
                if row["method"] not in self.methods:
                    raise _damaged(path, line, "it is not of this run")
                rows.append(row)
        return rows


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


def read(path: Path) -> list[Record]:
    """Rows of a scores file, with all fields as text. An incomplete last line is left out.

    Raises:
        ValueError: If a line is damaged. The message names it.
    """
    return [row for _, row in _numbered(path)]


def _numbered(path: Path) -> list[tuple[int, Record]]:
    """Rows and the lines in which they end."""
    content = path.read_bytes()
    try:
        text = content[: _end(content)].decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _damaged(path, line, "it is no UTF-8 text") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        columns = next(reader, [])
        if text and tuple(columns[: len(KEYS)]) != KEYS:
            raise ValueError(f"{path}, line 1 is damaged: it must name {', '.join(KEYS)}, ...")
        for fields in reader:
            row = dict(zip(columns, fields, strict=False))
            if len(fields) != len(columns) or not row.get("index", "").isdecimal():
                what = f"it has {len(fields)} fields of {len(columns)}, or no index"
                raise _damaged(path, reader.line_num, what)
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise _damaged(path, reader.line_num, str(error)) from None
    return rows


def _damaged(path: Path, line: int, what: str) -> ValueError:
    return ValueError(
        f"{path}, line {line} is damaged ({what}): delete that line, and its image is scored again"
    )


def by_image(rows: Sequence[Record]) -> dict[str, list[Record]]:
    """Rows of each image by its name. Of an image that was scored again, the last rows."""
    found: dict[str, dict[tuple[str, str], Record]] = {}
    for row in rows:
        found.setdefault(row["name"], {})[row["target"], row["method"]] = row
    return {name: list(own.values()) for name, own in found.items()}


def complete(rows: Sequence[Record], methods: Sequence[str]) -> dict[str, int]:
    """Index of each image that has a row of every method for each of its targets, and no error."""
    done = {}
    for name, own in by_image(rows).items():
        targets = {row["target"] for row in own}
        whole = len(own) == len(targets) * len(methods)
        if whole and not any(row.get(ERROR) for row in own):
            done[name] = int(own[0]["index"])
    return done


def shards(folder: Path) -> list[Path]:
    """Files with scores in a run folder: the merged one, and those of single processes."""
    found = [path for path in folder.glob("scores.rank-*.csv") if SHARD.fullmatch(path.name)]
    return sorted([*folder.glob("scores.csv"), *found])


def _end(content: bytes) -> int:
    """Length of the whole lines. A line break within quotes ends no line."""
    end = content.rfind(b"\n") + 1
    while end and content[:end].count(b'"') % 2:
        end = content.rfind(b"\n", 0, end - 1) + 1
    return end


def _holds_rows(path: Path) -> bool:
    content = path.read_bytes()
    return _end(content) > content.find(b"\n") + 1


def _drop_partial_line(path: Path) -> None:
    if path.exists():
        if not _holds_rows(path):
            path.unlink()
        else:
            os.truncate(path, _end(path.read_bytes()))


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return printable(str(value))


def printable(name: str) -> str:
    r"""A name as valid UTF-8, in which bytes that are none are written as `\udc80` to `\udcff`."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
