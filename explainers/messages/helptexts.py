"""Help texts of the command line: examples first, then the methods and data sets by name."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from explainers import files
from explainers.messages.near import config_files

SHAPES = "-c configs/explananda/shapes.yaml -c configs/data/shapes.yaml"
EXAMPLES = {
    "fit": (
        "fit -c configs/quickstart.yaml",
        f"fit -c configs/trainer.yaml -c configs/methods/nem_u.yaml {SHAPES}",
        "fit -c configs/recipes/shapes.yaml --model.init_args.seed 1",
    ),
    "test": (
        "test -c configs/quickstart.yaml --ckpt_path runs/quickstart/last.ckpt",
        f"test -c configs/evaluate.yaml -c configs/methods/grad_cam.yaml {SHAPES}",
        f"test -c configs/evaluate.yaml -c configs/methods/rise.yaml {SHAPES} --score.target label",
    ),
    "predict": (
        f"predict -c configs/evaluate.yaml -c configs/methods/grad_cam.yaml {SHAPES}",
        "predict -c configs/evaluate.yaml -c configs/data/imagefolder.yaml "
        "--data.init_args.root FOLDER --ckpt_path runs/quickstart/last.ckpt",
    ),
    "validate": (
        "validate -c configs/quickstart.yaml --ckpt_path runs/quickstart/last.ckpt",
        f"validate {SHAPES}",
    ),
}


class Formatter(DefaultHelpFormatter):
    """The parser's formatter, which keeps the lines of texts that are tables."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n  " in text else super()._fill_text(text, width, indent)


def parser_options(program: str, commands: tuple[str, ...]) -> dict[str, Any]:
    """`parser_kwargs` of LightningCLI: what `--help` of the program and its commands begins with.

    Args:
        program: Name of the program.
        commands: Its commands.
    """
    call = f"python {program}" if program.endswith(".py") else program
    options: dict[str, Any] = {}
    for name in commands:
        examples = "\n       ".join(f"{call} {example}" for example in EXAMPLES[name])
        options[name] = {"usage": examples, "description": listed(name)}
    examples = "\n       ".join(f"{call} {EXAMPLES[name][0]}" for name in commands)
    more = f"All options of a command: {call} COMMAND --help"
    options |= {"usage": examples, "description": f"{more}\n\n{listed()}"}
    for each in (options, *(options[name] for name in commands)):
        each["formatter_class"] = Formatter
    return options


def listed(command: str = "") -> str:
    """The methods and data sets of the folder `configs`, by the names of their files.

    Args:
        command: Command to list them for: "fit" leaves out the methods that need no training.
    """
    groups: dict[str, list[tuple[str, str]]] = {"fit": [], "test": [], "data": []}
    for path in config_files():
        folder = Path(path).parent.as_posix()
        if folder not in ("configs/methods", "configs/data"):
            continue
        text = Path(files.find(path)).read_text(encoding="utf-8")
        found = re.search(r"^(?:model|data):\s+class_path: ([\w.]+)", text, re.MULTILINE)
        trained = "fit" if "train.py fit" in text else "test"
        key = "data" if folder == "configs/data" else trained
        groups[key].append((Path(path).stem, found[1] if found else ""))
    if command == "fit":
        del groups["test"]
    titles = {
        "fit": "Methods that are trained by fit: -c configs/methods/NAME.yaml",
        "test": "Methods that need no training: -c configs/methods/NAME.yaml",
        "data": "Data sets: -c configs/data/NAME.yaml",
    }
    tables = (
        "\n".join([titles[key], *(f"  {name:<22}{path}" for name, path in rows)])
        for key, rows in groups.items()
    )
    return "\n\n".join(tables)


def hide(parser: ArgumentParser, group: str) -> None:
    """Leave a group of options, such as `score`, out of the parser's help; it goes on to read it.

    Args:
        parser: Parser of a command.
        group: Name of the group.
    """
    for action in parser._actions:
        if action.dest == group or action.dest.startswith(f"{group}."):
            action.help = argparse.SUPPRESS
    for titled in parser._action_groups:
        if all(each.help == argparse.SUPPRESS for each in titled._group_actions):
            titled.title = titled.description = None


def check_groups(flags: Sequence[str], command: str, groups: Mapping[str, str]) -> None:
    """Refuses options that another command has, which would change nothing.

    Files may have them, because a file may serve several commands.

    Args:
        flags: Words of the command line.
        command: The command.
        groups: The only command that uses each group of options.

    Raises:
        ValueError: If there is such an option.
    """
    for word in flags:
        user = groups.get(word.removeprefix("--").partition(".")[0])
        if word.startswith("--") and user not in (None, command):
            raise ValueError(
                f"{word.partition('=')[0]} is an option of `{user}`, and {command} has no use for "
                "it: leave it out"
            )
