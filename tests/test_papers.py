"""Every table of the papers is a command, which its config names and which parses."""

import importlib
import inspect
import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from explainers import configfiles
from explainers.cli import EvaluateCLI, main
from explainers.evaluation import published
from tests.test_configs import EvaluateOnly, TrainOnly, build

PAPERS = sorted(Path("configs/papers").rglob("*.yaml"))
PUBLISHED = [path for path in PAPERS if path.name == "published.yaml"]
CONFIGS = [path for path in PAPERS if path not in PUBLISHED]
COMMAND = re.compile(r"^# python (train|evaluate)\.py (fit|test) (.*)$", re.M)
pytestmark = pytest.mark.filterwarnings("ignore:.*tensorboardX.*:UserWarning")


def commands(path):
    """Program, subcommand and words of each command in the comments of a config."""
    for program, command, rest in COMMAND.findall(path.read_text()):
        words = shlex.split(rest.partition(" # ")[0])
        if not any(word.endswith("...") for word in words):  # a file of your own
            yield program, command, words


def files_of(words):
    return [word for flag, word in itertools.pairwise(words) if flag == "-c"]


CASES = {
    " ".join([path.parent.name, path.stem, str(number)]): (path, *case)
    for path in CONFIGS
    for number, case in enumerate(commands(path))
}
# The others differ from one of these in a file: they are parsed with `-m slow`.
QUICK = {
    "sloc table_2 0",
    "sloc table_14 0",
    "ra_nem table_2 0",
    "ra_nem table_2 3",
    "nn_explainer on_voc_vgg16 3",
    "generative_removal imagenet 0",
    "masking_explanations cifar10_table_4 0",
    "masking_explanations imagenet_figure_14 0",
}


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_names_its_command_whose_files_exist(path):
    text = path.read_text()
    own = list(commands(path))
    assert own or "..." in text  # needs a classifier or data of your own
    named = [file for _, _, words in own for file in files_of(words)]
    assert not own or str(path) in named
    assert [file for file in named if not Path(file).is_file()] == []
    assert "/work" not in text


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_what_a_config_sets_beside_its_figures_exists(path):
    for source in re.findall(r"published: (configs/\S+)", path.read_text()):
        assert published.read(source)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CASES],
)
def test_a_command_parses_and_its_trainer_is_built(name, tmp_path, monkeypatch):
    _, program, command, words = CASES[name]
    cli = TrainOnly if program == "train" else EvaluateOnly
    flags = [w for w in words if w != "-c" and w not in files_of(words)]
    built = build(cli, command, files_of(words), tmp_path, monkeypatch, flags)
    assert ("Score" in built) == (command == "test")


def arguments(path):
    """Names of the arguments of a class, also those that it hands to its base."""
    module, _, name = path.rpartition(".")
    names = {"explanandum"}
    for base in getattr(importlib.import_module(module), name).__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {each.name for each in parameters}
            if all(each.kind != each.VAR_KEYWORD for each in parameters):
                break
    return names


def entries(value):
    """All entries of a configuration that name a class."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [entry for each in inner for entry in entries(each)]
    return [value, *found] if isinstance(value, dict) and "class_path" in value else found


def test_the_classes_and_arguments_of_all_commands_exist():
    wrong, known = [], {}
    for name, (_, _, command, words) in CASES.items():
        paths, flags = configfiles.split(words)
        given = configfiles.given(flags, ("model", "data", "score"))
        merged = configfiles.merge(configfiles.load(paths), given)
        for entry in entries(configfiles.settle(merged, flags, command)):
            path = entry["class_path"]
            known[path] = known.get(path) or arguments(path)
            wrong += [
                f"{name}: {path} {a}" for a in entry.get("init_args", {}) if a not in known[path]
            ]
    assert wrong == []


@pytest.mark.parametrize("path", PUBLISHED, ids=str)
def test_published_figures_are_read(path):
    content = yaml.safe_load(path.read_text())
    for name in content["tables"]:
        (table,) = published.read(f"{path}#{name}")
        assert table.what != "not stated"
        assert table.rows


def test_differences_of_the_published_figures_add_up():
    # A check of the copying: NPD is NEG - POS and IDD is INS - DEL, but for rounding.
    for name in yaml.safe_load(PUBLISHED_SLOC.read_text())["tables"]:
        (table,) = published.read(f"{PUBLISHED_SLOC}#{name}")
        if "NPD" not in table.columns:
            continue
        for row, values in table.rows.items():
            value = dict(zip(table.columns, values, strict=True))
            for whole, more, less in (("NPD", "NEG", "POS"), ("IDD", "INS", "DEL")):
                gap = abs(value[more] - value[less] - value[whole])
                printed = f"{row} {whole} {value[whole]}"
                assert gap < 0.021 or any(printed in words for words in table.differs)


PUBLISHED_SLOC = Path("configs/papers/sloc/published.yaml")


@pytest.mark.slow
def test_a_table_of_sloc_runs_on_shapes_and_shows_the_published_figures(tmp_path, capsys):
    files = [f"configs/papers/sloc/{name}.yaml" for name in ("base", "table_14")]
    files += ["configs/explananda/shapes.yaml", "configs/data/shapes.yaml"]
    flags = ["--data.init_args.test_images", "2", "--data.init_args.num_workers", "0"]
    flags += ["--model.init_args.masks", "60", "--model.init_args.solver.steps", "40"]
    words = ["test", *(word for file in files for word in ("-c", file)), *flags]
    assert main(EvaluateCLI, [*words, "--out", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "table.md").read_text()
    assert "table 14. Faithfulness without the L1 and TV terms" in text
    assert "here / published" in text
    assert " / 15.35 |" in text
