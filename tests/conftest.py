import sys

import pytest


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch):
    """LightningCLI warns where both pytest's and our arguments are at hand."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
