"""All tables of the papers: trainings first, then the tests, each a command of `configs/papers`.

    python benchmarks/papers.py --list
    python benchmarks/papers.py
    python benchmarks/papers.py --only ra_nem sloc/table_1.yaml -- --data.init_args.limit 25

Words after `--` are added to each command. The outcome of a command is noted at once, so that the
same call goes on where it stopped: what ended well is not run again, and a test that ended in its
middle goes on with its next image. A command that fails does not stop the others. Commands that
need a file of your own ("...") are named at the end.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAPERS = ROOT / "configs" / "papers"
COMMAND = re.compile(r"^# python ((?:train|evaluate)\.py (?:fit|test|report) .*)$", re.M)


def order(words: Sequence[str]) -> int:
    """Place of a command: classifiers, explainers, tests, means of several tests.

    Example:
        >>> order(["train.py", "fit", "-c", "configs/classifiers/voc_vgg16.yaml"])
        0
        >>> order(["evaluate.py", "test", "-c", "configs/papers/sloc/base.yaml"])
        2
    """
    if words[0] == "train.py":
        return int(not any("configs/classifiers/" in word for word in words))
    return 3 if words[1] == "report" else 2


def commands(only: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Words of the commands, in the order in which they can run, and of those of your own.

    Args:
        only: Parts of the paths of files whose commands are wanted. Empty wants all.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(PAPERS.rglob("*.yaml")):
        if not only or any(part in path.as_posix() for part in only):
            for text in COMMAND.findall(path.read_text(encoding="utf-8")):
                words = shlex.split(text.partition(" # ")[0])
                found[shlex.join(words)] = words
    own = [each for each in found.values() if any(w.endswith(("...", "FOLDER")) for w in each)]
    return sorted((each for each in found.values() if each not in own), key=order), own


def run(todo: Sequence[Sequence[str]], more: Sequence[str], noted: Path) -> dict[str, int]:
    """Run what has not ended well yet; returns the exit status of each command.

    Args:
        todo: Words of each command.
        more: Words that are added to each.
        noted: JSON file of the exit statuses.
    """
    noted.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, int] = json.loads(noted.read_text()) if noted.is_file() else {}
    outcome: dict[str, int] = {}
    for number, each in enumerate(todo, 1):
        words = [*each, *([] if each[1] == "report" else more)]
        text = shlex.join(words)
        if known.get(text) != 0:
            print(f"{number} of {len(todo)}: python {text}", flush=True)
            known[text] = subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode
            noted.write_text(json.dumps(known, indent=1) + "\n")
        outcome[text] = known[text]
    return outcome


def main(given: Sequence[str] | None = None) -> None:
    """Runs the commands, and ends with status 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="parts of paths of configurations")
    parser.add_argument("--list", action="store_true", help="print the commands and end")
    parser.add_argument("--out", type=Path, default=Path("runs/papers.json"), help="outcomes")
    parser.add_argument("more", nargs="*", help="words for each command, after --")
    chosen = parser.parse_args(given)
    todo, own = commands(chosen.only)
    if not todo and not own:
        parser.error(f"no file of configs/papers has {' or '.join(chosen.only)} in its path")
    failed: list[str] = []
    if chosen.list:
        print("\n".join(f"python {shlex.join(words)}" for words in todo))
    else:
        outcome = run(todo, chosen.more, chosen.out)
        failed = [text for text, status in outcome.items() if status != 0]
        print(f"{len(outcome) - len(failed)} of {len(outcome)} commands ended well")
        for text in failed:
            print(f"failed: python {text}")
    for words in own:
        print(f"not run, needs a file of your own: python {shlex.join(words)}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
