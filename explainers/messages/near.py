"""What was probably meant: the nearest of the options, classes and configuration files."""

import difflib
import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from explainers import files

GROUPS = {
    "trainer": "lightning.pytorch.Trainer",
    "score": "explainers.callbacks.score.Score",
    "save": "explainers.callbacks.save.SaveMaps",
}
TOP = [
    *GROUPS,
    "model",
    "data",
    "seed_everything",
    "ckpt_path",
    "config",
    "out",
    "methods",
    "trust",
    "untrained",
]


def nearest(word: str, options: Sequence[str]) -> str:
    """`; did you mean 'a'?`, or all the options if none is near.

    Example:
        >>> nearest("pannels", ["panels", "name"])
        "; did you mean 'panels'?"
    """
    near = difflib.get_close_matches(word, options, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; its options are {', '.join(options)}"


def find_class(class_path: str) -> Any:
    """The class of this path."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def options_of(class_path: str) -> list[str]:
    """Arguments of a class, with those of the base classes that it hands keyword arguments to."""
    names: list[str] = []
    for kind in inspect.getmro(find_class(class_path)):
        if "__init__" in vars(kind):
            parameters = inspect.signature(kind).parameters.values()
            names += [each.name for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD]
            names += [each.name for each in parameters if each.kind == each.KEYWORD_ONLY]
            if all(each.kind != each.VAR_KEYWORD for each in parameters):
                break
    return list(dict.fromkeys(names))


def nearest_option(option: str) -> str:
    """What a key or flag such as `score.pannels` may have meant: an option of its group, or a key.

    Example:
        >>> nearest_option("trainer.max_step")
        "; did you mean 'max_steps'?"
    """
    group, dot, name = option.partition(".")
    if dot and group in GROUPS:
        return nearest(name, options_of(GROUPS[group]))
    return nearest(group, TOP)


def config_files() -> list[str]:
    """Files of the folder `configs`: the one in the working directory, or the packed one."""
    for home in (Path(), files.PACKAGE, files.PACKAGE.parent):
        if found := sorted((home / "configs").rglob("*.yaml")):
            return [path.relative_to(home).as_posix() for path in found]
    return []


def nearest_config(path: str) -> str:
    """A file of `configs` or of the same folder that is called about the same."""
    beside = [each.as_posix() for each in Path(path).parent.glob("*.y*ml")]
    stems: dict[str, list[str]] = {}
    for known in dict.fromkeys([*beside, *config_files()]):
        stems.setdefault(Path(known).stem, []).append(known)
    near = difflib.get_close_matches(Path(path).stem, stems, n=1, cutoff=0.75)
    if not near:
        return "; --help lists the methods and data sets"
    best = difflib.get_close_matches(path, stems[near[0]], n=1, cutoff=0)
    return f"; did you mean {best[0]}?"


def nearest_class(class_path: str) -> str:
    """A class that is called about the same: of the module that is named, or of any config file."""
    module = class_path.rpartition(".")[0]
    known = set()
    for path in config_files():
        text = Path(files.find(path)).read_text(encoding="utf-8")
        known.update(re.findall(r"class_path: (\w+(?:\.\w+)+)", text))
    try:
        there = vars(importlib.import_module(module)) if module else {}
        own = [each for each in there.values() if getattr(each, "__module__", "") == module]
        known.update(f"{module}.{each.__name__}" for each in own if inspect.isclass(each))
    except Exception:  # whatever a module does when it is imported
        pass
    # Without a module, the name alone is compared.
    names = {
        (each if module else each.rpartition(".")[2]).lower(): each
        for each in sorted(known - {class_path})
    }
    near = difflib.get_close_matches(class_path.lower(), names, n=1, cutoff=0.8)
    return f"; did you mean {names[near[0]]}?" if near else ""
