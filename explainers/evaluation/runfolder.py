"""Folders of runs: one writer at a time, and the results of one run only."""

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

LOCK = ".lock"
# The file that holds the settings of each command's runs, and the files that hold their results.
RESULTS = {
    "fit.json": ("fit", "**/*.ckpt"),
    "settings.json": ("test", "scores*.csv"),
    "predict.json": ("predict", "**/*.npy"),
}


class RunFolder:
    """A folder that one run writes, and that remembers what decides the numbers in it.

    The first process of a run holds the folder's lock until `release`, or until it ends. A folder
    without results is taken whatever its settings say.

    Args:
        path: Folder, which is created if needed.
        settings: Everything that decides the numbers, as JSON types.
        holds_results: Whether the folder holds results that this run continues.
        name: Name of the file of the settings.
        rank: Rank of this process. Only that of rank 0 locks the folder.

    Raises:
        ValueError: If another process writes the folder, if its settings differ, or if it holds
            results without readable settings, or results of another command.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        holds_results: bool,
        name: str = "settings.json",
        rank: int = 0,
    ) -> None:
        self.path, self._file = path, path / name
        path.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = None  # open file that holds the lock
        settings = json.loads(json.dumps(settings))
        if rank == 0:
            self._acquire()
        try:
            if rank == 0:
                self._refuse_others()
            if holds_results:
                self._compare(settings)
            elif rank == 0 or not self._file.exists():  # a fast process may come before the first
                write_atomically(self._file, json.dumps(settings, indent=2), rank)
        except BaseException:
            self.release()
            raise

    def _acquire(self) -> None:
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # The system lets go of it when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 200).decode(errors="replace").strip()
            os.close(lock)
            raise ValueError(
                f"{self.path} is being written by another run ({holder or 'unknown'}): wait for "
                "it, or choose another folder: --out FOLDER"
            ) from None
        except OSError:  # a file system without locks
            os.close(lock)
            return
        self._lock = lock
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _refuse_others(self) -> None:
        """Refuses a folder with results of another command, which would mix with those of this."""
        for name, (command, results) in RESULTS.items():
            other = self.path / name
            if other == self._file or not other.exists():
                continue
            if next(self.path.glob(results), None) is not None:
                raise ValueError(
                    f"{self.path} holds the results of a {command}: choose another folder, "
                    "--out FOLDER"
                )
            other.unlink()

    def _compare(self, settings: dict[str, Any]) -> None:
        advice = "Choose another folder (--out FOLDER)"
        if self._file.name != "fit.json":  # which is beside the checkpoint to resume from
            advice += ", or delete this one"
        try:
            stored = json.loads(self._file.read_text(encoding="utf-8"))
            if not isinstance(stored, dict):
                raise ValueError("it holds no keys")
        except FileNotFoundError:
            raise ValueError(
                f"{self.path} holds results but no {self._file.name}: of which run is not known. "
                f"{advice}"
            ) from None
        except ValueError as error:  # no JSON, or no UTF-8
            raise ValueError(f"{self._file} is damaged ({error}). {advice}") from None
        if found := differences(stored, settings):
            raise ValueError(
                f"{self.path} holds the results of another run: {'; '.join(found[:3])}. {advice}"
            )

    def release(self) -> None:
        """Lets other runs write the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Differences between two JSON values, in words."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old == new:
            return []
        if where.endswith(".hash"):
            return [f"{where}: the images are others, by name, label or size of the file"]
        if where.endswith(".names"):
            return [f"{where}: the images are others, by name"]
        return [f"{where} was {_short(old)}, is {_short(new)}"]
    found = []
    for key in {**old, **new}:
        place = f"{where}.{key}" if where else key
        if key in old and key in new:
            found += differences(old[key], new[key], place)
        else:
            was, now = (_presence(values, key) for values in (old, new))
            found.append(f"{place} was {was}, is {now}")
    return found


def _presence(values: dict[str, Any], key: str) -> str:
    value = values.get(key, "not there")
    return "there" if isinstance(value, dict) else _short(value)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def write_atomically(path: Path, text: str, rank: int = 0) -> None:
    """Writes a file so that no reader sees it incomplete, not even after an interruption.

    Processes of different `rank` may write the same file at the same time.
    """
    temporary = path.with_name(f"{path.name}.{rank}.tmp" if rank else f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, path)
