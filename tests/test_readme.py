"""What the README tells a stranger to run must exist."""

import re
from pathlib import Path

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
