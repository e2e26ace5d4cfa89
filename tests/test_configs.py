"""Every file in configs parses, by discovery, so that none goes untested."""

from pathlib import Path

import pytest

from explainers.cli import CLI, EvaluateCLI

CONFIGS = sorted(Path("configs").rglob("*.yaml"))
BASE = {
    "methods": ["configs/explananda/shapes.yaml", "configs/data/shapes.yaml"],
    "explananda": ["configs/data/shapes.yaml"],
    "data": ["configs/explananda/shapes.yaml"],
}


class ParseOnly:
    """A command line that stops after parsing."""

    def instantiate_classes(self):
        raise Parsed


class Parsed(Exception):
    """Everything was understood."""


class ParseTrain(ParseOnly, CLI):
    pass


class ParseEvaluate(ParseOnly, EvaluateCLI):
    pass


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_config_parses(path):
    family = path.parts[1]
    files = [str(path), *BASE.get(family, [])]
    if family in ("explananda", "data"):
        files.insert(0, "configs/methods/deeplab.yaml")
    if path.parts[1] in ("papers", "classifiers") and "data:" not in path.read_text():
        files.append("configs/data/shapes.yaml")
    if path.parts[1] == "papers" and "explanandum:" not in path.read_text():
        files.append("configs/explananda/efficientnet_lite0_voc.yaml")
    scoring = path.name in ("evaluate.yaml", "compare.yaml", "compare_shapes.yaml")
    if scoring or path.name == "trainer.yaml":
        files = ["configs/methods/random.yaml", *BASE["methods"], *files]
    cli, command = (ParseEvaluate, "test") if scoring else (ParseTrain, "fit")
    with pytest.raises(Parsed):
        cli([command, *(word for file in files for word in ("-c", file))])
