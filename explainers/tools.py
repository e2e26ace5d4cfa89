"""Commands of `evaluate.py` that need no trainer: they work on what exists."""

import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import auto_cli

from explainers.evaluation import html
from explainers.evaluation.merging import merge
from explainers.explaining.explain import explain, parser
from explainers.trust import granting


def _export(words: Sequence[str]) -> None:
    from explainers.exporting import export  # what makes graphs takes seconds to import

    auto_cli(export, args=list(words), as_positional=False, prog="export")


def _explain(words: Sequence[str]) -> None:
    if explain(**parser().parse_args(list(words)).as_dict()):
        raise SystemExit(1)  # some images were explained, and some were not


def _report(words: Sequence[str]) -> None:
    line = ArgumentParser("report", description="Writes one page for the runs in some folders.")
    line.add_argument("runs", nargs="+", type=Path, help="folders of finished tests")
    line.add_argument("--out", type=Path, help="by default report.html in the first folder")
    line.add_argument(
        "--aggregate", action="store_true", help="also the table over the runs, which is printed"
    )
    given = line.parse_args(words)
    out = given.out or given.runs[0] / "report.html"
    if table := html.write(given.runs, out, given.aggregate):
        print(table, end="\n\n")
    print(out)


def _merge(words: Sequence[str]) -> None:
    line = ArgumentParser(
        "merge",
        description="Joins the runs of an array job, which differ in the shard of the data.",
    )
    line.add_argument("runs", nargs="+", type=Path, help="folders of finished tests, all shards")
    line.add_argument("--out", type=Path, required=True, help="folder of the whole run")
    line.add_argument("--trust", action="append", help="package whose metrics the runs may name")
    given = line.parse_args(words)
    with granting(given.trust):
        merge(given.runs, given.out, shlex.join(["python", *sys.argv]))
    print(given.out)


TOOLS: dict[str, Callable[[Sequence[str]], None]] = {
    "explain": _explain,
    "report": _report,
    "merge": _merge,
    "export": _export,
}
