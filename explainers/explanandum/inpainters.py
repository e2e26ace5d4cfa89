"""Fills by name or path: those of a classifier's mean and std, and inpainters in files."""

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explainers import files
from explainers.explanandum import foreign_inpainters
from explainers.functional import fills
from explainers.functional.fills import Fill, Inpainted
from explainers.options import HASHED
from explainers.reading import building, read_checkpoint
from explainers.trust import check_arguments, check_class

OWN = "explainers.inpainter.Inpainter"
SUFFIXES = (".ckpt", *foreign_inpainters.LOADERS)
NAMES = (*fills.OWN_FILLS, "images", *fills.MASK_FILLS)

Complete = Callable[[Tensor, Tensor], Tensor]


def named(
    explanandum: Any,
    name: str,
    generator: torch.Generator | int | None,
    sigma: float,
    bank: Tensor | None,
) -> Fill:
    """The fill of a name or path with the mean and std of a classifier, see `Explanandum.fill`."""
    if masked := name in fills.MASK_FILLS:
        # They are called for one batch of masks after the other, which must see the same noise.
        drawn = generator.initial_seed() if isinstance(generator, torch.Generator) else generator
        generator = drawn or 0

    def filled(images: Tensor, masks: Tensor | None = None) -> Tensor:
        source = generator
        if isinstance(source, int):
            source = torch.Generator().manual_seed(source)
        mean, std = explanandum.mean, explanandum.std
        return fills.fill(name, images, mean, std, source, sigma, bank, masks)

    if masked:
        return Inpainted(filled, f"{name} {generator}", explanandum.mean)
    if name in NAMES:
        return filled
    complete = opened(name)

    def completed(images: Tensor, masks: Tensor) -> Tensor:
        kept = masks[:, None] >= 0.5
        found = complete(images, masks).to(images).clamp(0, 1)
        # Nothing is known of an image that keeps no pixel.
        blank = ~kept.flatten(1).any(dim=1)[:, None, None, None]
        return images.where(kept, explanandum.mean.to(images).where(blank, found))

    return Inpainted(completed, name_of(name), explanandum.mean)


def name_of(path: str) -> str:
    """Name of an inpainter's content, "inpainter_<hash>", which does not depend on its place."""
    return f"inpainter_{_content_hash(*_version(path))}"


def without_paths(arguments: Any, key: str = "") -> Any:
    """Arguments, also nested ones, in which `name_of` replaces the paths of inpainters."""
    if isinstance(arguments, Mapping):
        kept = {_pathless(name, key): value for name, value in arguments.items()}
        return {name: without_paths(value, str(name)) for name, value in kept.items()}
    if isinstance(arguments, list | tuple):
        return [without_paths(value, key) for value in arguments]
    return _pathless(arguments, key)


def _pathless(value: Any, key: str) -> Any:
    return name_of(value) if _of_fill(key) and is_path(value) else value


def check_name(name: str) -> None:
    """Refuses what is neither the name of a fill nor can be the path of an inpainter.

    Raises:
        ValueError: If it is neither.
    """
    if name not in NAMES and not is_path(name) and not HASHED.fullmatch(name):
        raise ValueError(
            f"unknown fill {name!r}; expected one of {', '.join(NAMES)}, or the path of an "
            f"inpainter ({', '.join(SUFFIXES)})"
        )


def open_all(arguments: Mapping[str, Any]) -> None:
    """Loads the inpainters that arguments, also nested ones, name, so that faults show early.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no inpainter.
    """
    for path in _paths(arguments, ""):
        opened(path)


def _paths(arguments: Any, key: str) -> Iterator[str]:
    """Paths of inpainters among arguments, also nested ones."""
    if isinstance(arguments, Mapping):
        for name, value in arguments.items():
            yield from _paths(name, key)
            yield from _paths(value, str(name))
    elif isinstance(arguments, list | tuple):
        for value in arguments:
            yield from _paths(value, key)
    elif _of_fill(key) and is_path(arguments):
        yield arguments


def uses_inpainter(arguments: Any, key: str = "") -> bool:
    """Whether arguments, also nested ones, name a fill that is an inpainter."""
    if isinstance(arguments, Mapping):
        return any(_is_inpainter(name, key) for name in arguments) or any(
            uses_inpainter(value, str(name)) for name, value in arguments.items()
        )
    if isinstance(arguments, list | tuple):
        return any(uses_inpainter(value, key) for value in arguments)
    return _is_inpainter(arguments, key)


def _is_inpainter(value: Any, key: str) -> bool:
    return _of_fill(key) and (is_path(value) or value in fills.MASK_FILLS)


def _of_fill(key: str) -> bool:
    return key in ("insertion", "deletion") or key.rpartition("_")[2] in ("fill", "fills")


def is_path(value: Any) -> bool:
    """Whether a value can be the path of an inpainter."""
    return isinstance(value, str) and value.lower().endswith(SUFFIXES)


def opened(path: str) -> Complete:
    """The inpainter of a file: a function of images (N, 3, H, W) and keep masks (N, H, W).

    It is loaded, and tried on random images, once as long as the file stays the same.

    Args:
        path: Path of a checkpoint of `explainers.inpainter.Inpainter` or of a trusted class with
            the same `inpaint` (.ckpt), of TorchScript (.pt, .ts), of `torch.export` (.pt2), or
            ONNX (.onnx). Foreign ones take images (N, 3, H, W) and masks (N, 1, H, W) and return
            images, see `foreign_inpainters.ForeignOptions`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, or does not work.
    """
    with torch.inference_mode(False):
        return _opened(*_version(path))


def _version(path: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A file, with the times and sizes of it and of the options beside it."""
    if HASHED.fullmatch(path):
        raise ValueError(
            f"the fill is an inpainter, {path}, which no checkpoint holds: give the path of its "
            "file, with a -c file or in Python"
        )
    check_name(path)
    found = Path(files.find(path))
    if not found.is_file():
        raise FileNotFoundError(f"the inpainter {path!r} does not exist")
    parts = [found, *([found.with_suffix(".yaml")] if _options_beside(found) else [])]
    facts = [part.stat() for part in parts]
    return str(found), tuple((fact.st_mtime_ns, fact.st_size) for fact in facts)


def _options_beside(path: Path) -> bool:
    return path.suffix != ".ckpt" and path.with_suffix(".yaml").is_file()


@lru_cache(maxsize=64)
def _content_hash(path: str, version: Any) -> str:
    found = Path(path)
    digest = hashlib.sha256(found.read_bytes())
    if _options_beside(found):
        digest.update(found.with_suffix(".yaml").read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=8)
def _opened(path: str, version: Any) -> Complete:
    return _own(path) if path.endswith(".ckpt") else foreign_inpainters.load(path)


def _own(path: str) -> Complete:
    checkpoint = read_checkpoint(path)
    name = str(checkpoint.get("class_path", OWN))
    check_class(name, path)
    arguments = checkpoint.get("hyper_parameters", {})
    check_arguments(arguments, path)
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(module), kind, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module) and hasattr(found, "inpaint")):
        raise ValueError(f"{path} is a checkpoint of {name}, which is no inpainter")
    with building(path):
        network: Any = found(**arguments)
        network.load_state_dict(checkpoint["state_dict"])
    network.eval().requires_grad_(False)

    def complete(images: Tensor, masks: Tensor) -> Tensor:
        if next(network.parameters()).device != images.device:
            network.to(images.device)
        answer: Tensor = network.inpaint(images, masks)
        return answer

    return complete
