"""Help texts: their examples can be run as far as files are concerned; every config is listed."""

from pathlib import Path

import pytest

from explainers.cli import CLI, EvaluateCLI, main
from explainers.messages import helptexts


@pytest.mark.parametrize("command", helptexts.EXAMPLES)
def test_the_files_of_the_examples_exist(command):
    for example in helptexts.EXAMPLES[command]:
        words = example.split()
        assert words[0] == command
        assert all(Path(words[i + 1]).is_file() for i, word in enumerate(words) if word == "-c")


def test_every_method_and_data_set_is_listed_with_its_class():
    text = helptexts.listed()
    for folder in ("methods", "data"):
        for path in Path("configs", folder).glob("*.yaml"):
            assert f"\n  {path.stem} " in text
    assert "  iba                   explainers.methods.iba.IBA" in text.splitlines()
    trained = text.partition("Methods that need no training")[0]
    assert "\n  rtis " in trained
    assert "\n  rise " not in trained
    assert "\n  rise " not in helptexts.listed("fit")


@pytest.mark.parametrize(
    ("cli", "command", "shown", "hidden"),
    [
        (CLI, "fit", (), ("--score.", "--save.")),
        (EvaluateCLI, "test", ("--score.",), ("--save.",)),
        (EvaluateCLI, "predict", ("--save.",), ("--score.",)),
    ],
)
def test_help_begins_with_examples_and_shows_its_own_groups(
    capsys, monkeypatch, cli, command, shown, hidden
):
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit):
        main(cli, [command, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python train.py {helptexts.EXAMPLES[command][0]}\n")
    assert helptexts.listed(command) in text
    assert all(f"\n  {flag}" in text for flag in shown)
    assert not any(f"\n  {flag}" in text for flag in hidden)
    assert "Scores the explainer" in text or command != "test"
    assert "Scores the explainer" not in text or command == "test"


@pytest.mark.parametrize("flag", ["--score.panels=3", "--score.check_precision"])
def test_an_option_of_another_command_is_refused(flag):
    groups = {"score": "test", "save": "predict"}
    name = flag.partition("=")[0]
    with pytest.raises(ValueError, match=f"{name} is an option of `test`, and predict has no use"):
        helptexts.check_groups(["--data.batch_size", "3", flag, "8"], "predict", groups)
    helptexts.check_groups([flag, "8"], "test", groups)
    helptexts.check_groups(["--save.format", "png", "score.x"], "predict", groups)
