"""Imports go one way: a module imports what lies below it, and nothing beside it."""

import ast
from pathlib import Path

RANKS = [
    {"trainingstate", "mapstore", "arrays", "tracing", "memory"},
    {"functional", "optimizers", "files", "options", "naming", "finite", "resuming", "cost"},
    {"trust", "monitor"},
    {"reading"},
    {"explanandum", "configfiles", "messages"},
    {"networks", "perturbation", "door", "frozenpart"},
    {"base", "inpainter"},
    {"learned", "optimization", "metrics", "checkpoint"},
    {"methods", "publishing"},
    {"evaluation", "graphs"},
    {"callbacks", "exporting"},
    {"explaining"},
    {"tools", "demo"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
SOURCES = [path for path in Path("explainers").rglob("*.py") if path.name != "__init__.py"]
# A method's `plot` is the door to what draws it, which knows all methods: imported in the call.
DOORS = {"explainers/base.py imports explainers.explaining.explain.show"}
# Libraries of explanations and loggers, and the only places that may know them.
ADAPTERS = {"captum": "explainers/methods/captum_methods.py", "wandb": "explainers/callbacks"}


def imported(path):
    """Full names of everything a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name):
    """explainers.metrics.base.exact -> metrics."""
    return name.split(".")[1]


def test_every_module_has_a_rank():
    names = {path.relative_to("explainers").parts[0].removesuffix(".py") for path in SOURCES}
    assert names == set(RANK)


def test_modules_import_only_what_lies_below_them():
    wrong = []
    for path in SOURCES:
        own = path.relative_to("explainers").parts[0].removesuffix(".py")
        for name in imported(path):
            foreign = name.startswith("explainers.") and part(name) != own
            if foreign and RANK[part(name)] >= RANK[own]:
                wrong.append(f"{path} imports {name}")
    assert set(wrong) == DOORS


def test_no_method_imports_another():
    methods = Path("explainers/methods").glob("*.py")
    wrong = [
        f"{path} imports {name}"
        for path in methods
        for name in imported(path)
        if name.startswith("explainers.methods.")
    ]
    assert wrong == []


def test_data_and_explainers_do_not_know_each_other():
    pairs = [("explainers", "datamodules"), ("datamodules", "explainers")]
    wrong = [
        f"{path} imports {name}"
        for folder, other in pairs
        for path in Path(folder).rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] == other
    ]
    assert wrong == []


def test_libraries_of_explanations_stay_in_their_adapters():
    wrong = [
        f"{path} imports {name}"
        for path in [*SOURCES, *Path("datamodules").glob("*.py")]
        for name in imported(path)
        for library, place in ADAPTERS.items()
        if name.split(".")[0] == library and not str(path).startswith(place)
    ]
    assert wrong == []
