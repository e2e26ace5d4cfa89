"""Configuration files of a command: read, merged key by key, and handed on as one."""

import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from explainers import files, naming

# Keys of the command line that decide the run folder and the rows.
GROUPS = ("model", "data", "trainer", "score", "out", "ckpt_path")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The configuration files (`-c FILE`, `--config FILE`) and the other words of a command."""
    paths: list[str] = []
    others: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word in ("-c", "--config"):
            paths.append(next(waiting, ""))
        elif word.startswith("--config="):
            paths.append(word.removeprefix("--config="))
        else:
            others.append(word)
    return paths, others


def given(flags: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
    """What flags say of some top-level keys, as a configuration file would say it.

    Example:
        >>> given(["--model.init_args.lr", "0.1", "--model.a=[1]", "--data.b", "2"], ["model"])
        {'model': {'init_args': {'lr': 0.1}, 'a': [1]}}
    """
    config: dict[str, Any] = {}
    for word, following in itertools.pairwise([*flags, "--"]):
        name, equals, value = word.removeprefix("--").partition("=")
        keys = name.split(".")
        if word.startswith("--") and keys[0] in groups and (equals or following[:2] != "--"):
            content = yaml.safe_load(value if equals else following)
            is_class = isinstance(content, str) and keys in (["model"], ["trainer", "logger"])
            keys = [*keys, "class_path"] if is_class else keys
            for key in reversed(keys):
                content = {key: content}
            config = merge(config, content)
    return config


def taken(flags: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """All values of a flag that may be repeated, and the other words.

    Example:
        >>> taken(["--trust", "a", "--x", "1", "--trust=b"], "trust")
        (['a', 'b'], ['--x', '1'])
    """
    values, others = [], []
    waiting = iter(flags)
    for flag in waiting:
        if flag == f"--{name}":
            values.append(next(waiting, ""))
        elif flag.startswith(f"--{name}="):
            values.append(flag.partition("=")[2])
        else:
            others.append(flag)
    return values, others


def compared(config: dict[str, Any], flags: Sequence[str], listed: Sequence[str]) -> dict[str, Any]:
    """A configuration with the rows of `--methods`: names in configs/methods, and checkpoints.

    If nothing else says what is under test, it is the first checkpoint, which brings its
    classifier, else the first method.

    Args:
        config: The configuration of all files.
        flags: The other words of the command.
        listed: Values of the flag, names and paths separated by commas.

    Raises:
        ValueError: If there is no such method, or a row is named twice.
    """
    names = [name.strip() for value in listed for name in value.split(",") if name.strip()]
    trained = {row_name(name): name for name in names if name.endswith(".ckpt")}
    others = [name for name in names if not name.endswith(".ckpt")]
    methods = {name: method(name) for name in others}
    if len(trained) + len(methods) < len(names):
        raise ValueError(
            f"--methods {','.join(names)} names a row twice; name checkpoints in score.checkpoints"
        )
    final = merge(config, given(flags, ("model", "ckpt_path")))
    under: dict[str, Any] = {}
    if not final.get("ckpt_path") and "class_path" not in _dict(final, "model"):
        if trained:
            under["ckpt_path"] = trained.pop(next(iter(trained)))
        elif methods:
            under["model"] = methods.pop(next(iter(methods)))
    rows = {"methods": methods, "checkpoints": trained}
    score = {group: row for group, row in rows.items() if row}
    merged: dict[str, Any] = merge({**under, "score": score}, config)
    return merged


def row_name(path: str) -> str:
    """Name of a checkpoint's row: its own, or that of its folder if it is called last or best."""
    file = Path(path)
    return file.parent.name if file.stem in ("last", "best") and file.parent.name else file.stem


def named(group: str) -> dict[str, str]:
    """Paths of the files of a folder in `configs`, by name; those in the working directory win."""
    homes = (files.PACKAGE.parent, files.PACKAGE, Path())
    found = [path for home in homes for path in sorted((home / "configs" / group).glob("*.yaml"))]
    return {path.stem: str(path) for path in found}


def method(name: str) -> dict[str, Any]:
    """Class path and arguments of a method in `configs/methods`.

    Raises:
        ValueError: If there is no such file.
    """
    known = named("methods")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"the methods are {', '.join(known)}"
        raise ValueError(f"there is no method {name!r}, nor is it a checkpoint; {advice}")
    return _dict(read(known[name]), "model")


def load(paths: Sequence[str]) -> dict[str, Any]:
    """One configuration from several files, of which later ones win; see `merge`.

    Args:
        paths: The files, each the path as given, else the packed file of this name.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is no YAML mapping, or takes out a row that is not there.
    """
    config: dict[str, Any] = {}
    for path in paths:
        content = read(path)
        for group in ("methods", "checkpoints"):
            rows = _dict(_dict(config, "score"), group)
            for name, row in _dict(_dict(content, "score"), group).items():
                if row is None and name not in rows:
                    raise ValueError(
                        f"{path} takes out the row {name!r} of score.{group}, which is not there; "
                        f"the rows are {', '.join(rows) or 'none'}"
                    )
        config = merge(config, content)
    return config


def settle(config: dict[str, Any], flags: Sequence[str], command: str) -> dict[str, Any]:
    """The configuration of a run, with its rows and its folder.

    A row of `score.methods` that names no class is the method under test with other arguments; a
    row that is null is taken out. The run folder is `out`, else `trainer.default_root_dir`, else it
    is named after what runs, see `naming.run_folder`. Loggers, checkpoints, pictures and scores
    without a folder of their own go there. A test that names the folder of a fit goes below it, and
    leaves out the loggers, which are the fit's.

    Args:
        config: The configuration of all files.
        flags: The other words of the command, which change the result later. The run folder and the
            rows that are the method under test must know them already.
        command: The subcommand.

    Raises:
        ValueError: If a group holds no keys.
    """
    final = merge(config, given(flags, GROUPS))
    for group in ("score", "save", "trainer"):
        if not isinstance(config.get(group, {}), dict):
            raise ValueError(f"{group} must hold keys and values, got {config[group]!r}")
    listed = _entries(_dict(config, "trainer").get("callbacks"))
    held = [_dict(entry, "init_args") for entry in listed if _kind(entry) == "Score"]
    for score in [_dict(config, "score"), *held]:
        _complete_rows(score, _dict(final, "model"))
    chosen = final.get("out") or _dict(final, "trainer").get("default_root_dir")
    root = str(chosen or naming.run_folder(command, final, final.get("ckpt_path")))
    below = naming.below_fit(root, command, final)
    trainer = {**_dict(config, "trainer"), "default_root_dir": below}
    if below != root:  # the configuration is the fit's, and so are its loggers
        trainer["logger"] = False
    named = _dict(_dict(given(flags, GROUPS), "trainer"), "logger").get("class_path")
    if named is not None:  # the logger of a flag has no folder yet
        trainer["logger"] = {"class_path": named}
    config, root = {**config, "trainer": trainer}, below
    _place(config, root)
    return config


def _dict(config: dict[str, Any], key: str) -> dict[str, Any]:
    """The dict of a key, or an empty one where the key is missing or holds something else."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _complete_rows(score: dict[str, Any], model: dict[str, Any]) -> None:
    """Take out rows that are null; give those without a class the class under test."""
    arguments = _dict(model, "init_args")
    own = {**model, "init_args": {n: v for n, v in arguments.items() if n != "explanandum"}}
    for group in ("methods", "checkpoints"):
        if isinstance(rows := score.get(group), dict):
            score[group] = {
                name: row if not isinstance(row, dict) or "class_path" in row else merge(own, row)
                for name, row in rows.items()
                if row is not None
            }


def _place(config: dict[str, Any], root: str) -> None:
    """Send what has no folder of its own to the run folder."""
    trainer = _dict(config, "trainer")
    entries = [*_entries(trainer.get("callbacks")), *_entries(trainer.get("logger"))]
    for entry in entries:
        kind, arguments = _kind(entry), _dict(entry, "init_args")
        if kind == "ModelCheckpoint":
            arguments.setdefault("dirpath", root)
        elif kind.endswith("Logger"):
            arguments.setdefault("save_dir", root)
        elif kind == "LogMaps":
            arguments.setdefault("output_dir", f"{root}/maps")
        elif kind == "Score":
            arguments.setdefault("output_dir", root)
        entry["init_args"] = arguments
    for group in ("score", "save"):
        config[group] = {"output_dir": root, **_dict(config, group)}


def _kind(entry: dict[str, Any]) -> str:
    return str(entry["class_path"]).rpartition(".")[2]


def _entries(listed: Any) -> list[dict[str, Any]]:
    several = listed if isinstance(listed, list) else [listed]
    return [entry for entry in several if isinstance(entry, dict) and "class_path" in entry]


def read(path: str) -> dict[str, Any]:
    """The content of a configuration file, under today's names of classes and arguments.

    A value that names another `.yaml` file, relative to this one, is replaced by its content.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is no YAML mapping.
    """
    found = Path(files.find(path))
    if not found.is_file():
        raise FileNotFoundError(f"configuration file {path!r} does not exist")
    try:
        content = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys such as model, data or trainer, got {content!r}")
    nested: dict[str, Any] = files.renew(_included(content, found.parent))
    return nested


def _included(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _included(each, folder) for key, each in value.items()}
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        return read(str(folder / value)) if (folder / value).is_file() else value
    return value


def merge(old: Any, new: Any) -> Any:
    """Two values of one key: dicts are merged key by key, anything else is replaced.

    Where `new` names another class than `old`, its arguments begin anew, except for the
    explanandum, which any method takes.

    Example:
        >>> merge({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": 4})
        {'a': {'b': 1, 'c': [3]}, 'd': 4}
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    replaced = {old.get("class_path"), new.get("class_path")} - {None}
    if len(replaced) == 2:
        arguments = old.get("init_args") or {}
        kept = {name: arguments[name] for name in ("explanandum",) if name in arguments}
        old = {"init_args": kept} if kept else {}
    merged = {key: merge(old[key], value) if key in old else value for key, value in new.items()}
    return {**old, **merged}
