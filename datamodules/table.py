"""Reading of CSV files of labels, with messages that name the file and the line."""

import csv
import io
import os
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from datamodules.listing import MISSING, clean, shown

DELIMITERS = (",", ";", "\t", "|")
FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


class Row(NamedTuple):
    """Cells of a row by column, cleaned and as they are, and the line in which the row ends."""

    line: int
    cells: dict[str, str]
    raw: dict[str, str]


class Table:
    """Rows of a CSV file in UTF-8 with a header line; rows without any entry are left out.

    The delimiter is the one of `DELIMITERS` that separates `known` from the other columns. Spaces
    around entries are removed. Columns are found in any case if no other column has that name.

    Args:
        path: CSV file.
        known: A column that the file must have, and the argument that names it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not such a table.
    """

    def __init__(self, path: Path, known: tuple[str, str]) -> None:
        self.path = path
        if not path.is_file():
            raise FileNotFoundError(f"{shown(path)}: no such file; set csv_file")
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:  # names keep their "\r"
                text = file.read()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{shown(path)}: not UTF-8 text ({error.reason}); save it as UTF-8"
            ) from None
        header = io.StringIO(text, newline="").readline()
        headers = {mark: next(csv.reader([header], delimiter=mark), []) for mark in DELIMITERS}
        name = known[0].casefold()
        mark = next(
            (
                mark
                for mark, cells in headers.items()
                if name in (clean(cell).casefold() for cell in cells)
            ),
            max(headers, key=lambda mark: len(headers[mark])),
        )
        lines = io.StringIO(text, newline="")
        reader = csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True)
        try:
            self.columns = [clean(cell) for cell in next(reader, [])]
            self.rows = [
                self._row(cells, reader.line_num)
                for cells in reader
                if any(cell.strip() for cell in cells)
            ]
        except csv.Error as error:
            raise self.fault(reader.line_num, f"not readable as CSV ({error})") from None
        twice = [name for name in self.columns if name and self.columns.count(name) > 1]
        if twice:
            raise self.fault(1, f"two columns are called {twice[0]!r}; rename one")
        self.column(*known)

    def _row(self, cells: Sequence[str], line: int) -> Row:
        extra = [cell for cell in cells[len(self.columns) :] if cell.strip()]
        if len(cells) < len(self.columns) or extra:
            raise self.fault(
                line,
                f"expected {len(self.columns)} entries as in the header, got {len(cells)}; quote"
                " entries that contain the delimiter",
            )
        raw = dict(zip(self.columns, cells, strict=False))
        return Row(line, {name: clean(cell) for name, cell in raw.items()}, raw)

    def fault(self, line: int, text: str) -> ValueError:
        """Return the error to raise for a line."""
        return ValueError(f"{shown(self.path)}:{line}: {text}")

    def column(self, name: str, argument: str) -> str:
        """Return the column called `name`, or the only one that differs from it in case.

        Raises:
            ValueError: If there is none; the message names `argument`.
        """
        similar = [column for column in self.columns if column.casefold() == name.casefold()]
        if name in self.columns or len(similar) == 1:
            return name if name in self.columns else similar[0]
        raise ValueError(
            f"{shown(self.path)}: no column {name!r}, only {self.columns}; set {argument}"
        )

    def entry(self, row: Row, column: str, allowed: Collection[str] = ()) -> str:
        """Return a cell that must not be missing, which means empty or "NaN" or the like.

        Raises:
            ValueError: If it is missing and not in `allowed`.
        """
        entry = row.cells[column]
        if entry.casefold() in MISSING and entry not in allowed:
            raise self.fault(row.line, f"no entry in column {column!r} ({entry!r}); fill it in")
        return entry

    def index(self, row: Row, column: str) -> int:
        """Return a cell that holds a whole number from 0, such as "3" or "3.0".

        Raises:
            ValueError: If it does not.
        """
        entry = self.entry(row, column)
        whole, _, rest = entry.partition(".")
        if not (whole.isdecimal() and not rest.strip("0")):
            raise self.fault(row.line, f"expected an index in {column!r}, got {entry!r}")
        return int(whole)

    def flag(self, row: Row, column: str) -> bool:
        """Return a cell that holds 0, 1, true or false.

        Raises:
            ValueError: If it does not.
        """
        entry = self.entry(row, column)
        if entry.casefold() not in FLAGS:
            raise self.fault(
                row.line,
                f"expected 0 or 1 in column {column!r}, got {entry!r}; set label_column if classes"
                " have no columns of their own, or class_names to the columns that are classes",
            )
        return FLAGS[entry.casefold()]

    def file(self, row: Row, column: str, pattern: str, root: Path) -> tuple[str, str]:
        r"""Return the path relative to `root` of the file that an entry names by a pattern.

        The entry is taken as it is, and if there is no such file, without surrounding spaces, with
        accents in either Unicode form, and with "/" in place of "\".

        Returns:
            The path and an empty text, or if there is no such file, what to say of it.

        Raises:
            ValueError: If the entry is missing or the path lies outside `root`.
        """
        entry, base = self.entry(row, column), os.path.abspath(root)
        forms = [row.raw[column], entry, unicodedata.normalize("NFD", entry)]
        paths = [pattern.replace("{}", form) for form in forms]
        paths += [path.replace("\\", "/") for path in paths if not PureWindowsPath(path).drive]
        options = [os.path.normpath(os.path.join(base, path)) for path in paths]
        full = next(filter(os.path.isfile, options), options[1])
        if not full.startswith(os.path.join(base, "")):
            raise self.fault(
                row.line,
                f"{shown(entry)} lies outside {shown(root)}; set root to a folder that contains it",
            )
        name = os.path.relpath(full, base)
        found = os.path.isfile(full)
        return name, "" if found else f"{shown(self.path)}:{row.line}: no such file {shown(full)}"
