"""The figures that a paper printed, beside those of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from explainers import files
from explainers.evaluation.table import aligned

Printed = float | list[float] | None


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    Attributes:
        paper: Authors and title.
        name: Name of the table in its file, such as "table_14".
        what: What it shows.
        classifier: The classifier it is about.
        images: The images it is about.
        columns: Names of its columns, those of our figures where they are the same.
        rows: Values of each row; a pair is a value and what follows "±", None a missing value.
        differs: Where a run differs from the paper, a phrase each.
    """

    paper: str
    name: str
    what: str
    classifier: str
    images: str
    columns: list[str]
    rows: dict[str, list[Printed]]
    differs: list[str]

    def beside(self, summary: Mapping[str, Any]) -> str:
        """Markdown of the figures of a run beside the published ones, for what both have.

        Args:
            summary: Result of `summary.summarize`, with the entries `explanandum` and `data`.
        """
        methods: Mapping[str, Mapping[str, Any]] = summary["methods"]
        figures = {name: figure for row in methods.values() for name, figure in row.items()}
        columns = [name for name in self.columns if name in figures]
        rows = [name for name in self.rows if name in methods]
        title = (
            f"published: {self.paper}, {self.name.replace('_', ' ')}. {self.what}. "
            f"Classifier: {self.classifier}. Images: {self.images}. "
            f"Here: {summary['images']} images, {summary['explanandum']}, {summary['data']}."
        )
        parts = [title]
        if columns and rows:
            arrows = {name: "↑" if figures[name]["higher_is_better"] else "↓" for name in columns}
            head = ["here / published", *(f"{name} {arrows[name]}" for name in columns)]
            body = [
                [row, *(self._cell(methods[row], row, column) for column in columns)]
                for row in rows
            ]
            parts.append(aligned([head, *body]))
        others = [name for name in self.rows if name not in methods]
        unknown = [name for name in self.columns if name not in figures]
        lacking = [
            f"{kind}: {', '.join(names)}"
            for kind, names in (("rows", others), ("columns", unknown))
            if names
        ]
        if lacking:
            parts.append(f"published, not in this run: {'; '.join(lacking)}")
        if self.differs:
            parts.append("differs: " + "; ".join(self.differs))
        return "\n\n".join(parts)

    def _cell(self, figures: Mapping[str, Any], row: str, column: str) -> str:
        mean = figures[column]["mean"] if column in figures else None
        return f"{_short(mean)} / {_short(self.rows[row][self.columns.index(column)])}"


def read(source: str) -> list[PublishedTable]:
    """The tables that a source names.

    Args:
        source: A file and the tables in it, such as
            "configs/papers/sloc/published.yaml#table_15,table_17".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source names no table, or one that the file lacks, or the file holds no
            such tables.
    """
    path, _, listed = source.partition("#")
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if not names:
        raise ValueError(f"published must name a file and a table, FILE#TABLE, got {source!r}")
    found = Path(files.find(path))
    if not found.is_file():
        raise FileNotFoundError(f"the file of published figures {path!r} does not exist")
    try:
        content = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    tables = content.get("tables") if isinstance(content, dict) else None
    if not isinstance(tables, dict):
        raise ValueError(f"{path} must hold `tables`, each with columns and rows")
    if unknown := [name for name in names if name not in tables]:
        raise ValueError(f"{path} has no {unknown[0]!r}; its tables are {', '.join(tables)}")
    return [_table(content, name, path) for name in names]


def beside(tables: Sequence[PublishedTable], summary: Mapping[str, Any]) -> str:
    """Markdown of all tables, see `PublishedTable.beside`, as the end of a page; empty without any.

    Args:
        tables: The published tables.
        summary: Result of `summary.summarize`, with the entries `explanandum` and `data`.
    """
    return "".join(f"\n{table.beside(summary)}\n" for table in tables)


def _table(content: Mapping[str, Any], name: str, path: str) -> PublishedTable:
    given = content["tables"][name]
    where = f"{path}#{name}"
    if not isinstance(given, dict) or not {"columns", "rows"} <= set(given):
        raise ValueError(f"{where} must have columns and rows, got {given!r}")
    columns, rows = given["columns"], given["rows"]
    if not isinstance(columns, list) or not isinstance(rows, dict):
        raise ValueError(f"{where}: columns must be a list and rows a mapping")
    for row, values in rows.items():
        if not isinstance(values, list) or len(values) != len(columns):
            raise ValueError(
                f"{where}: row {row!r} must have {len(columns)} values, got {values!r}"
            )
        if wrong := [value for value in values if not _is_printed(value)]:
            raise ValueError(
                f"{where}: {row!r} holds {wrong[0]!r}; "
                "expected a number, a pair [value, ±], or null"
            )
    texts = {key: str(given.get(key, "not stated")) for key in ("what", "classifier", "images")}
    differs = [str(each) for each in (*content.get("differs", ()), *given.get("differs", ()))]
    paper = str(content.get("paper", path))
    return PublishedTable(
        paper,
        name,
        columns=columns,
        rows={str(r): v for r, v in rows.items()},
        differs=differs,
        **texts,
    )


def _is_printed(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and all(_is_printed(each) and each is not None for each in value)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _short(value: Printed) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{_short(value[0])} ± {_short(value[1])}"
    return (
        f"{value:.3f}".rstrip("0").rstrip(".")
        if abs(value) >= 0.001 or value == 0
        else f"{value:.0e}"
    )
