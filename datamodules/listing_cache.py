"""Listings of large folders, kept so that a later start does not walk through all files again."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from datamodules.userfolder import cache_folder, keep

LEAST = 1000  # files; smaller folders are listed faster than a listing is compared
SETTLED = 2.0  # seconds after which another change of a folder must change its time
VERSION = 1

Folders = dict[str, tuple[int, int]]  # folder -> its time of change in ns, and its size


def stamp(state: os.stat_result) -> tuple[int, int]:
    """Return what changes when a file is added to a folder, removed or renamed."""
    return state.st_mtime_ns, state.st_size


def read(root: Path, extensions: Collection[str]) -> tuple[list[str], Counter[str]] | None:
    """Return the kept listing of a folder, or None if there is none that still holds.

    It holds if each of its folders has the same time of change and size, so that no file was added,
    removed or renamed. Files are not looked at: what is written into a file changes no listing.

    Args:
        root: Folder of the images.
        extensions: Endings of images.

    Returns:
        The sorted images as paths relative to `root`, and the endings of other files.
    """
    if (path := _path(root, extensions)) is None:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        head, _, body = path.read_bytes().partition(b"\n")
        if head.decode() != hashlib.sha256(body).hexdigest():
            return None
        kept = json.loads(body)
        for folder, known in kept["folders"].items():
            if list(stamp(os.stat(os.path.join(root, folder)))) != known:
                return None
        return kept["images"], Counter(kept["others"])
    return None


def write(
    root: Path,
    extensions: Collection[str],
    images: list[str],
    others: Counter[str],
    folders: Folders,
) -> None:
    """Keep a listing, unless it is small or one of its folders has changed just now.

    Args:
        root: Folder of the images.
        extensions: Endings of images.
        images: Paths of the images relative to `root`.
        others: Endings of other files.
        folders: Folders relative to `root`, as they were before they were listed. Empty if a later
            change cannot be noticed, as with links.
    """
    path = _path(root, extensions)
    if path is None or not folders or len(images) + others.total() < LEAST:
        return
    if time.time_ns() - max(changed for changed, _ in folders.values()) < SETTLED * 1e9:
        return
    content = {"folders": folders, "images": images, "others": dict(others)}
    body = json.dumps(content).encode()
    keep(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _path(root: Path, extensions: Collection[str]) -> Path | None:
    folder = cache_folder()
    name = json.dumps([VERSION, os.path.realpath(root), sorted(extensions)])
    key = hashlib.sha256(name.encode()).hexdigest()[:24]
    return folder and folder / "listings" / f"{key}.json"
