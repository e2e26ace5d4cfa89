"""What went wrong, in one line: the account of the command line's parser, made short.

The parser (jsonargparse) tells errors of nested arguments as indented paragraphs. Each form that is
known here has a test; an unknown form is told as it is, on one line.
"""

import ast
import difflib
import importlib
import inspect
import re
from typing import Any, get_args, get_type_hints, is_typeddict

from lightning.pytorch import Trainer

from explainers.files import GROUPED

# A value of a wrong type, for one type or for several.
WRONG_TYPE = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\s+(?:'
    r"Expected a (?P<type>(?:<class|typing).*?)\. Got value: (?P<got>.*?)(?:\. Got value: .*)?$"
    r"|Does not validate .*\s+Subtypes: \[(?P<types>.*)\]\s+"
    r"Errors:(?P<errors>(?:\s+- (?:Expected a (?:<class|typing)|Unexpected keys).*)+)\s+"
    r"Given value type: .*\s+Given value: (?P<given>.*))",
    re.MULTILINE,
)
NOISE = (
    "Does not validate",
    "Subtypes",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
    "Parser key",
)
TOP = ["trainer", "model", "data", "score", "save", "seed_everything", "ckpt_path"]


def one_line(error: Exception, program: str) -> str:
    """What is wrong and where, and what to do about it, as far as that is known.

    Args:
        error: What a command raised.
        program: Name of the program, for advice.
    """
    text = str(error)
    if "in DataLoader worker process" in text:
        text = text.strip().splitlines()[-1]
    if wrong := WRONG_TYPE.search(text):
        return _wrong_type(text, wrong)
    lines = [line.strip(" -") for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(NOISE)]
    message = " ".join(told or lines)
    if 'expected "subcommand"' in message:
        message += f" Try: python {program} <subcommand> -c configs/quickstart.yaml; or --help"
    elif "'lightning.LightningModule'" in message:
        message = "no method given: add -c configs/methods/<name>.yaml, or --ckpt_path FILE"
    elif found := re.search(r".*class_path '([\w.]+)'.*Option '(\w+)' is not accepted", message):
        message += _moved(found[1], found[2]) or _nearest(found[2], _parameters(found[1]))
    elif "required: explanandum" in message:
        message += " (the classifier to explain: add a file of configs/explananda)"
    elif message.endswith(".model"):
        message += " (give --ckpt_path FILE, or a file of configs/methods)"
    elif found := re.search(r"does not accept option 'trainer\.(\w+)", message):
        message += _nearest(found[1], list(inspect.signature(Trainer).parameters))
    elif found := re.search(r"does not accept option '(\w+)", message):
        message += _nearest(found[1], TOP)
    return message


def _wrong_type(text: str, found: re.Match[str]) -> str:
    """`model.RISE.masks must be int, got abc`: keys and classes down to the value."""
    path = r"Parser key \"([\w.]+)\"|class_path '((?:\w+\.)*\w+)'"
    steps = re.findall(path, text[: found.end("key") + 1])
    places = [key or name.rpartition(".")[2] for key, name in steps]
    owner = next((name for _, name in reversed(steps) if name), "")
    errors, given = found["errors"] or "", found["given"] or ""
    if group := _group(owner, places[-1]):
        if unknown := re.search(r"Unexpected keys: \{'(\w+)'", errors):
            near = _nearest(unknown[1], list(group))
            return f"{'.'.join(places)} has no option {unknown[1]!r}{near}"
        for name, value in _options(given).items():
            if name in group and _is_wrong(value, errors):
                place = ".".join([*places, name])
                return f"{place} must be {_words(str(group[name]))}, got {value}"
    return (
        f"{'.'.join(places)} must be {_words(found['types'] or found['type'])}, "
        f"got {found['given'] or found['got']}"
    )


def _options(given: str) -> dict[str, Any]:
    """The options that the parser was given: a dict, or one of them from a flag."""
    flag = re.fullmatch(r"NestedArg\(key='(\w+)', val=(.*)\)", given)
    try:
        value = ast.literal_eval(flag[2] if flag else given)
    except (ValueError, SyntaxError):
        return {}
    if flag:
        return {flag[1]: value}
    return value if isinstance(value, dict) else {}


def _is_wrong(value: Any, errors: str) -> bool:
    told = re.search(r"Got value: (.*?)(?:\. Got value|$)", errors, re.MULTILINE)
    inner = value if isinstance(value, list) else [value]
    return told is not None and told[1] in (str(value), *map(str, inner))


def _words(types: str) -> str:
    """Type hints as a reader knows them: `int or null`."""
    types = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    types = re.sub(r"(?:\w+\.)+(\w+)", r"\1", types).replace("Literal", "one of ")
    types = types.replace(" | ", ", ").replace("None", "null").replace("nullType", "null")
    # In a fixed order: Python makes one of `int | float` and `float | int`, whichever came first.
    named = re.split(r", (?![^\[]*\])", types)
    return " or ".join(sorted(named, key=lambda name: (name == "null", name)))


def _group(class_path: str, argument: str) -> dict[str, Any]:
    """Type hints of the options that make up an argument of a class; {} if it is no such group."""
    try:
        hint = get_type_hints(_class(class_path).__init__).get(argument)
    except (ImportError, AttributeError, ValueError):
        return {}
    kinds = [kind for kind in (hint, *get_args(hint)) if kind is not None and is_typeddict(kind)]
    return get_type_hints(kinds[0]) if kinds else {}


def _class(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _parameters(class_path: str) -> list[str]:
    return list(inspect.signature(_class(class_path)).parameters)


def _moved(class_path: str, option: str) -> str:
    """Where an argument of earlier versions is today."""
    groups = GROUPED.get(class_path, {})
    group = next((group for group, names in groups.items() if option in names), None)
    return "" if group is None else f"; it is {group}.{option} now"


def _nearest(option: str, options: list[str]) -> str:
    near = difflib.get_close_matches(option, options, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; its options are {', '.join(options)}"
