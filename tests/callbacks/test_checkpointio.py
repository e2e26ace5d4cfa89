import errno
import os
from pathlib import Path

import pytest
import torch

from explainers.callbacks.checkpointio import WholeCheckpointIO
from explainers.cli import CLI, main


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, writer = tmp_path / "new" / "last.ckpt", WholeCheckpointIO()
    writer.save_checkpoint({"a": torch.ones(3)}, path)
    before = path.read_bytes()

    def full(self, content):
        with self.open("wb") as file:
            file.write(bytes(content)[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"a": torch.zeros(3)}, path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == ["last.ckpt"]
    assert path.read_bytes() == before
    assert torch.equal(writer.load_checkpoint(path, weights_only=True)["a"], torch.ones(3))


@pytest.mark.parametrize("plugins", [None, "lightning.pytorch.plugins.io.TorchCheckpointIO"])
def test_a_fit_uses_it_unless_another_is_given(monkeypatch, tmp_path, plugins):
    kinds = []
    monkeypatch.setattr(CLI, "before_fit", lambda self: kinds.append(self.trainer))
    monkeypatch.setattr("lightning.pytorch.Trainer._fit_impl", lambda *_, **__: None)
    words = ["fit", "-c", "configs/quickstart.yaml", "--trainer.logger", "false"]
    words += ["--trainer.accelerator", "cpu", "--out", str(tmp_path)]
    assert main(CLI, [*words, *(["--trainer.plugins", plugins] if plugins else [])]) == 0
    own = type(kinds[0].strategy.checkpoint_io)
    assert own.__name__ == ("TorchCheckpointIO" if plugins else "WholeCheckpointIO")
