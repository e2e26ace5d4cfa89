"""Checkpoint files that are never half written."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint under another name beside it, and then moves it to its place.

    Lightning writes the file in place if its folder is on another disk than temporary files. A kill
    or a full disk then leaves half a checkpoint where the last good one was.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Saves a checkpoint, whole or not at all."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        temporary = place.with_name(f".{place.name}.tmp")
        content = io.BytesIO()  # torch does not say that a disk is full
        torch.save(checkpoint, content)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content.getbuffer())
            os.replace(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)
