"""The file scores.csv of a run, which grows after every batch and survives interruptions."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

KEYS = ("index", "name", "target", "method")

Record = dict[str, str]


class ScoreFile:
    """Rows that one process writes, and the images that are already complete.

    A single process writes `scores.csv`. Each of several processes writes `scores-<rank>.csv`,
    until these files are merged. The settings of the run are stored in `settings.json`, so that
    scores of another run cannot be mixed in unnoticed.

    Args:
        folder: Run folder, which is created if needed.
        settings: Settings that a resumed run must share, as JSON types. They include `columns` and
            `methods`.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        ValueError: If the folder holds the scores of a run with other settings, or without
            settings.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], rank: int = 0, world_size: int = 1
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.columns = [*KEYS, *settings["columns"]]
        self.methods = list(settings["methods"])
        self.path = folder / ("scores.csv" if world_size == 1 else f"scores-{rank}.csv")
        self._check(json.loads(json.dumps(settings)), rank)
        _drop_partial_line(self.path)
        self.done = complete(self._read(), self.methods)

    def _check(self, settings: dict[str, Any], rank: int) -> None:
        path = self.folder / "settings.json"
        if not _shards(self.folder):
            write_atomically(path, json.dumps(settings, indent=2), suffix=f".{rank}")
            return
        if not path.exists():
            raise ValueError(
                f"{self.folder} holds scores but no settings.json: choose another output_dir"
            )
        if found := differences(json.loads(path.read_text()), settings):
            raise ValueError(
                f"{self.folder} holds the scores of another run: {'; '.join(found[:3])}. "
                "Delete that folder, or choose another output_dir: --score.output_dir FOLDER"
            )

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Writes all rows of some images. Missing values and NaN become empty fields."""
        rows = [[_text(record.get(name)) for name in self.columns] for record in records]
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([self.columns, *rows] if new else rows)
        self.done |= {int(row[0]) for row in rows}

    def merge(self) -> list[Record]:
        """Merges the files of all processes into a sorted `scores.csv` that has each row once.

        Returns:
            The rows of the merged file.
        """
        shards = list(_shards(self.folder))
        kept = {(row["method"], int(row["index"]), row["target"]): row for row in self._read()}
        order = {name: rank for rank, name in enumerate(self.methods)}
        rows = [kept[key] for key in sorted(kept, key=lambda key: (order[key[0]], *key[1:]))]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.folder / "scores.csv", text.getvalue())
        for shard in shards:
            if shard.name != "scores.csv":
                shard.unlink()
        return rows

    def _read(self) -> list[Record]:
        return [row for path in _shards(self.folder) for row in read(path)]


def read(path: Path) -> list[Record]:
    """Rows of a scores file, with all fields as text. An incomplete last line is left out."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))


def complete(rows: Sequence[Record], methods: Sequence[str]) -> set[int]:
    """Indices of the images that have a row of every method for each of their targets."""
    found: dict[int, set[tuple[str, str]]] = {}
    for row in rows:
        found.setdefault(int(row["index"]), set()).add((row["target"], row["method"]))
    return {
        index
        for index, pairs in found.items()
        if {method for _, method in pairs} == set(methods)
        and len(pairs) == len({target for target, _ in pairs}) * len(methods)
    }


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Differences between two JSON values, in words."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} was {old}, is {new}"]
    found = []
    for key in {**old, **new}:
        place = f"{where}.{key}" if where else key
        if key in old and key in new:
            found += differences(old[key], new[key], place)
        else:
            was, now = (_presence(values, key) for values in (old, new))
            found.append(f"{place} was {was}, is {now}")
    return found


def _presence(values: dict[str, Any], key: str) -> Any:
    value = values.get(key, "not there")
    return "there" if isinstance(value, dict) else value


def write_atomically(path: Path, text: str, suffix: str = "") -> None:
    """Writes a file so that no reader sees it incomplete, not even after an interruption."""
    temporary = path.with_name(f"{path.name}{suffix}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    os.replace(temporary, path)


def _shards(folder: Path) -> list[Path]:
    return sorted([*folder.glob("scores.csv"), *folder.glob("scores-*.csv")])


def _drop_partial_line(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end == 0:
            path.unlink()
        elif end < len(content):
            os.truncate(path, end)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)
