"""Maps and curves of a run, kept so that a page or a new metric needs no explanation again.

While a run goes on, each image has a file of its own in the folder `kept`, which is written at
once. `pack` then puts at most 256 images into each file. All are plain NumPy archives (.npz).
"""

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER, ABOUT = "kept", "about.json"
PACK = 256  # images in a file, once a run has ended
SIDE = 224  # longest side of a kept photograph, in pixels
TINY = 64  # side up to which a photograph is kept without loss

Pixels = NDArray[np.float32]
Curves = dict[str, Pixels]  # by column: (2, n + 1), the share of changed pixels and the height
Key = tuple[str, str]  # method, and the class ids of the target joined by "|"


@dataclass(frozen=True)
class Entry:
    """What is kept of one image.

    Attributes:
        index: Position of the image in its data set.
        name: Name of the image.
        photo: The image as the classifier saw it, a WebP file of at most `SIDE` pixels a side.
        facts: `target`, the names of the explained classes by their ids, and `probabilities`, what
            the classifier gives them; `layers`, the names of further classes, and of single ones of
            several targets, of which trained explainers have maps; `predicted`, its first `class`
            and `probability`; `size` [H, W]; `identity`; and, if they are known, `labels` and
            `boxes` [[left, top, right, bottom], ...] in pixels.
        maps: Maps (H, W) as the method gave them, divided by their largest magnitude, rounded to
            float16, and multiplied by it again.
        curves: Curves of each map.
    """

    index: int
    name: str
    photo: bytes
    facts: dict[str, Any]
    maps: dict[Key, Pixels]
    curves: dict[Key, Curves]


def describe(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes what holds for all maps of a run.

    Args:
        folder: Run folder.
        content: `methods`, the names of those whose maps are kept; `masks` and `signed`, which of
            them give masks in [0, 1] and signed maps; and the `settings` of the run.
    """
    path = folder / FOLDER / ABOUT
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(content, indent=2).encode())


def about(folder: Path) -> dict[str, Any]:
    """What holds for all maps of a run, see `describe`; empty if the run has kept nothing."""
    path = folder / FOLDER / ABOUT
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write(folder: Path, entry: Entry) -> None:
    """Writes what is kept of an image; no reader ever sees half of it."""
    path = folder / FOLDER / f"image-{entry.index:08d}.npz"
    _write(path, _archive({f"{entry.index}.{key}": v for key, v in _arrays(entry).items()}))


def pack(folder: Path) -> None:
    """Puts the images of a run into files of `PACK` images each."""
    place = folder / FOLDER
    single = sorted(place.glob("image-*.npz"))
    if not single:
        return
    packs = sorted(place.glob("images-*.npz"))
    sources = [*packs, *single]
    held: dict[int, tuple[Path, list[str]]] = {}
    for source in sources:  # a later file of an image replaces an earlier one
        with np.load(source) as archive:
            for name in archive.files:
                index = int(name.split(".")[0])
                if held.get(index, (None, []))[0] != source:
                    held[index] = (source, [])
                held[index][1].append(name)
    order = sorted(held)
    new = []
    for start in range(0, len(order), PACK):
        arrays: dict[str, NDArray[Any]] = {}
        for index in order[start : start + PACK]:
            source, names = held[index]
            with np.load(source) as archive:
                arrays |= {name: archive[name] for name in names}
        path = place / f"images-{order[start]:08d}.npz"
        _write(path.with_suffix(".new"), _archive(arrays))
        new.append(path)
    for path in new:
        os.replace(path.with_suffix(".new"), path)
    for source in sources:
        if source not in new:
            source.unlink()


def read(folder: Path) -> Iterator[Entry]:
    """What is kept of the images of a run, by their index. Nothing, if the run has kept nothing."""
    for source, indices in _sources(folder).items():
        with np.load(source) as archive:
            for index in indices:
                yield _entry(index, archive)


def places(folder: Path) -> dict[str, tuple[Path, int]]:
    """The file and the index of each image of a run, by its name, for `load`."""
    found = {}
    for source, indices in _sources(folder).items():
        with np.load(source) as archive:
            for index in indices:
                facts = json.loads(archive[f"{index}.facts"].tobytes())
                found[facts["name"]] = source, index
    return found


def held(folder: Path) -> dict[str, tuple[int, int]]:
    """Numbers of maps and of curves that are kept of each image of a run, by its name."""
    found = {}
    for source, indices in _sources(folder).items():
        with np.load(source) as archive:
            for index in indices:
                facts = json.loads(archive[f"{index}.facts"].tobytes())
                found[facts["name"]] = len(facts["maps"]), len(facts["curves"])
    return found


def load(source: Path, index: int) -> Entry:
    """What is kept of one image, see `places`."""
    with np.load(source) as archive:
        return _entry(index, archive)


def _sources(folder: Path) -> dict[Path, list[int]]:
    """Files of a run and the images that each of them holds, in the order of the images."""
    place = folder / FOLDER
    owner: dict[int, Path] = {}
    for source in [*sorted(place.glob("images-*.npz")), *sorted(place.glob("image-*.npz"))]:
        with np.load(source) as archive:
            owner |= {int(name.split(".")[0]): source for name in archive.files}
    result: dict[Path, list[int]] = {}
    for index in sorted(owner):
        result.setdefault(owner[index], []).append(index)
    return result


def photo(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as a WebP file of at most `SIDE` pixels a side."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=85, lossless=max(picture.size) <= TINY)
    return file.getvalue()


def _arrays(entry: Entry) -> dict[str, NDArray[Any]]:
    """An entry as arrays, which a NumPy archive compresses well."""
    curves = [
        (key, name, curve) for key, each in entry.curves.items() for name, curve in each.items()
    ]
    facts = entry.facts | {
        "name": entry.name,
        "maps": list(entry.maps),
        "curves": [[*key, name, curve.shape[1]] for key, name, curve in curves],
    }
    heights, widths = facts["size"]
    maps = np.stack(list(entry.maps.values())) if entry.maps else np.empty((0, heights, widths))
    scales = np.abs(maps).max(axis=(1, 2), initial=0)
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    points = [curve.ravel() for _, _, curve in curves]
    return {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        "photo": np.frombuffer(entry.photo, np.uint8),
        "maps": _to_planes((maps / scales[:, None, None]).astype(np.float16)),
        "scales": scales,
        "curves": np.concatenate(points).astype(np.float16) if points else np.empty(0, np.float16),
    }


def _entry(index: int, archive: Mapping[str, NDArray[Any]]) -> Entry:
    parts = {key: archive[f"{index}.{key}"] for key in ("facts", "photo", "scales", "curves")}
    facts = json.loads(parts["facts"].tobytes())
    maps = _from_planes(archive[f"{index}.maps"]).astype(np.float32)
    maps *= parts["scales"][:, None, None]
    curves: dict[Key, Curves] = {}
    start = 0
    for method, target, name, points in facts.pop("curves"):
        own = parts["curves"][start : start + 2 * points].reshape(2, points)
        curves.setdefault((method, target), {})[name] = own.astype(np.float32)
        start += 2 * points
    keys = [(method, target) for method, target in facts.pop("maps")]
    name = facts.pop("name")
    photograph = parts["photo"].tobytes()
    return Entry(index, name, photograph, facts, dict(zip(keys, maps, strict=True)), curves)


def _to_planes(values: NDArray[np.float16]) -> NDArray[np.uint8]:
    """float16 maps (M, H, W) as the low and the high bytes (2, M, H, W) of the steps along rows.

    Steps between the neighbors of a smooth map are alike, which halves the compressed size.
    """
    bits = values.view(np.uint16)
    steps = np.diff(bits, axis=2, prepend=bits.dtype.type(0))
    return np.stack([(steps & 255).astype(np.uint8), (steps >> 8).astype(np.uint8)])


def _from_planes(planes: NDArray[np.uint8]) -> NDArray[np.float16]:
    steps = planes[0].astype(np.uint16) | (planes[1].astype(np.uint16) << 8)
    return np.cumsum(steps, axis=2, dtype=np.uint16).view(np.float16)


def _archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
