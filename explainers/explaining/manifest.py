"""The folder of pictures that `explain` writes, with a line of `manifest.jsonl` for each image."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from explainers.evaluation.runfolder import write_atomically
from explainers.explaining import plotting

FILE = "manifest.jsonl"


class Manifest:
    """Writes the pictures of images and their lines, and keeps those of earlier runs.

    A line is added with each image, so that little is lost if the program ends early. `close` then
    drops the older of two lines of the same file.

    Args:
        folder: Folder of the pictures.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / FILE
        self._entries = dict(_entries(self.path))
        self.failed: dict[str, str] = {}
        self.done = 0

    def picture(self, file: str) -> Path:
        """Path of the picture of an image file: its name, with a hash if that is another's."""
        entry = self._entries.get(file, {})
        if "picture" in entry:
            return self.folder / str(entry["picture"])
        path = self.folder / f"{Path(file).stem}.png"
        if path.exists() or path == Path(file):
            digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
            path = path.with_name(f"{Path(file).stem}-{digest}.png")
        return path

    def add(
        self, file: str, found: plotting.Explanation, facts: dict[str, Any], maps: bool = False
    ) -> Path:
        """Writes the picture and the line of an image.

        Args:
            file: Path of the image.
            found: Its explanation.
            facts: Content of the line besides its file and picture.
            maps: Whether to write the maps to a file beside the picture.

        Returns:
            Path of the picture.
        """
        path = self.picture(file)
        temporary = path.with_name(f".{path.name}.tmp")
        plotting.save(plotting.figure(found), temporary)
        entry = {"file": file, "picture": path.name, **facts}
        if maps:
            arrays: dict[str, Any] = {
                name: each.float().cpu().numpy() for name, each in found.maps.items()
            }
            np.savez_compressed(path.with_suffix(".npz"), **arrays)
            entry["maps_file"] = path.with_suffix(".npz").name
        self._write(entry)
        os.replace(temporary, path)
        self.done += 1
        return path

    def fail(self, file: str, error: str) -> None:
        """Says and writes why a file could not be explained. An earlier picture stays."""
        tqdm.write(f"{file}: {error}", file=sys.stderr)
        self.failed[file] = error
        before = self._entries.get(file, {})
        kept = {"picture": before["picture"]} if "picture" in before else {}
        self._write({"file": file, **kept, "error": error})

    def _write(self, entry: dict[str, Any]) -> None:
        self._entries[entry["file"]] = entry
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(entry))

    def close(self) -> None:
        """Keeps the last line of each file."""
        write_atomically(self.path, "".join(map(_line, self._entries.values())))


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(_plain(entry)) + "\n"


def _plain(value: Any) -> Any:
    """Data that JSON knows: null for what is not finite, text for objects."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Whole lines of a manifest by file; a line that was cut off is dropped."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            found.append((str(entry["file"]), entry))
        except (ValueError, KeyError, TypeError):
            continue
    return found
