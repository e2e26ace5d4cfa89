"""What the pages say works: their code runs, their files and error messages exist."""

import ast
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from explainers import Explanandum, configfiles
from explainers.cli import EvaluateCLI, main
from tests import planted

DOCS = Path("docs").resolve()
PAGES = {path.stem: path.read_text() for path in sorted(DOCS.glob("*.md"))}
SMALL = ["--data.init_args.image_size", "[32, 32]", "--trainer.accelerator", "cpu"]
GAP = "…"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def package(folder, name, code, monkeypatch):
    """Writes a module as its page says, and finds it as a user would."""
    package, _, module = name.rpartition(".")
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("")
    (folder / package / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    for each in (package, name):
        monkeypatch.delitem(sys.modules, each, raising=False)


def run_tests(code):
    """Runs a block of tests, and says how many it has."""
    names = {}
    exec(code, names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


def command(page, word):
    """The arguments of the first command of a page that has a word, after the program."""
    line = next(line for text in blocks(page, "bash") for line in text.splitlines() if word in line)
    return line.split()[2:]


def test_the_method_of_its_page_runs(tmp_path, monkeypatch):
    method, test = blocks("own-method", "python")
    package(tmp_path, "my_methods.hidden", method, monkeypatch)
    assert run_tests(test) == 1
    config = yaml.safe_load(blocks("own-method", "yaml")[0])["model"]
    module = importlib.import_module("my_methods.hidden")
    kind = getattr(module, config["class_path"].rpartition(".")[2])
    subject = Explanandum(planted.PlantedCNN(), mean=[0.5] * 3, std=[1] * 3, input_size=[16, 16])
    images, targets = planted.scenes(4, (16, 16))
    maps = kind(subject, **config["init_args"]).attribute(images, targets)
    inside = (maps.clamp(min=0)[:, None] * planted.quadrant_masks(16, 16)).sum(dim=(2, 3))
    assert torch.equal(inside.argmax(dim=1), targets.int().argmax(dim=1))


@pytest.mark.slow
def test_the_method_of_its_page_can_be_tested(tmp_path, monkeypatch, capsys):
    package(tmp_path, "my_methods.hidden", blocks("own-method", "python")[0], monkeypatch)
    (tmp_path / "hidden.yaml").write_text(blocks("own-method", "yaml")[0])
    monkeypatch.chdir(tmp_path)
    assert main(EvaluateCLI, [*command("own-method", "hidden.yaml"), *SMALL]) == 0
    assert "| hidden " in capsys.readouterr().out


def test_the_metric_of_its_page_runs(tmp_path, monkeypatch):
    metric, test = blocks("own-metric", "python")
    package(tmp_path, "my_metrics.center", metric, monkeypatch)
    assert run_tests(test) == 1
    assert yaml.safe_load(blocks("own-metric", "yaml")[0])["score"]["metrics"]


@pytest.mark.slow
def test_the_metric_of_its_page_is_a_column(tmp_path, monkeypatch, capsys):
    package(tmp_path, "my_metrics.center", blocks("own-metric", "python")[0], monkeypatch)
    (tmp_path / "center.yaml").write_text(blocks("own-metric", "yaml")[0])
    monkeypatch.chdir(tmp_path)
    assert main(EvaluateCLI, [*command("own-metric", "center.yaml"), *SMALL]) == 0
    assert "CenterDistance" in capsys.readouterr().out


def test_the_classifier_of_its_page_is_explained():
    (code,) = blocks("own-classifier", "python")
    names = {}
    exec(code, names)
    assert names["maps"].shape == (1, 64, 64)
    assert names["classifier"].class_names == ["cat", "dog"]
    (text,) = blocks("own-classifier", "yaml")
    given = yaml.safe_load(text)["model"]["init_args"]["explanandum"]["init_args"]
    given |= {"model": "test_resnet", "weights": None}
    assert Explanandum(**given).num_classes == 2


@pytest.mark.parametrize("page", PAGES)
def test_files_and_methods_that_a_page_names_exist(page):
    text = PAGES[page]
    commands = "\n".join(blocks(page, "bash")) + "\n".join(re.findall(r"`([^`\n]+)`", text))
    named = re.findall(r"(?:configs|benchmarks|checkpoints|docs|tests)/[\w/.-]+\w", commands)
    named = [each for each in named if "mine" not in each and "center" not in each]
    assert [each for each in named if not Path(each).exists()] == []
    links = [each.partition("#")[0] for each in re.findall(r"\]\(([\w./#-]+)\)", text)]
    methods = [Path(each).stem for each in links if each.startswith("methods/")]
    known = {*configfiles.named("methods"), "index"}
    assert [each for each in methods if each not in known] == []
    others = [each for each in links if each and not each.startswith("methods/")]
    assert [each for each in others if not (DOCS / each).exists()] == []


def pattern(node):
    """Text of a string or f-string, with a gap for each value; None for other code."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern(each) or GAP for each in node.values)
    return None


@cache
def messages():
    """All texts of the sources."""
    found = set()
    for root in ("explainers", "datamodules"):
        for path in Path(root).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            found |= {text for node in nodes if (text := pattern(node))}
    return found


QUOTED = re.findall(r"^### `(.+)`$", PAGES.get("troubleshooting", ""), flags=re.MULTILINE)


@pytest.mark.parametrize("quoted", QUOTED)
def test_error_messages_that_are_explained_exist(quoted):
    parts = [part.strip() for part in quoted.split(GAP) if part.strip()]
    wanted = re.compile(".*".join(map(re.escape, parts)), flags=re.DOTALL)
    assert any(wanted.search(text) for text in messages()), "no source says so any more"


def test_many_errors_are_explained():
    assert len(QUOTED) >= 25
