"""What decides the images of a data module, as plain JSON types, for comparing runs."""

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any


def recorded(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap an `__init__` so that its arguments, with defaults, are kept in `_arguments`.

    The wrapper of a subclass runs before those of its bases, and each adds what is not known yet.
    So `_arguments` also contains what a subclass takes as `**kwargs` and what it passes on.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:  # `init` tells what is wrong with its own name
            return init(self, *args, **kwargs)
        bound.apply_defaults()
        given: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            options = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            given |= value if options else {name: value}
        known = self.__dict__.setdefault("_arguments", {})
        self._arguments = {name: plain(value) for name, value in given.items()} | known
        return init(self, *args, **kwargs)

    return wrapped


def deciding(
    arguments: Mapping[str, Any], incidental: Collection[str], test_on: str | None
) -> dict[str, Any]:
    """Return the arguments that decide the images, sorted by name.

    Args:
        arguments: All arguments of a data module.
        incidental: Names of those that change no image.
        test_on: The choice of what is tested, which the command line can make later.
    """
    unset = {name for name in ("shard", "only") if arguments.get(name) is None}
    kept = {name: arguments[name] for name in sorted({*arguments} - {*incidental} - unset)}
    if isinstance(kept.get("root"), str):
        kept["root"] = os.path.abspath(kept["root"])
    if "test_on" in kept:
        kept["test_on"] = test_on
    return kept


def plain(value: Any) -> Any:
    """Return a value as JSON types; what has no such form is named by its class.

    Example:
        >>> plain({1: (True, {"b", "a"}), "nan": float("nan")})
        {'1': [True, ['a', 'b']], 'nan': 'nan'}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return plain(value.tolist())
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else full_name(value if callable(value) else type(value))


def full_name(thing: Any) -> str:
    """Return the module and the name of a class or function."""
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    return f"{getattr(thing, '__module__', type(thing).__module__)}.{name}"


def digest(parts: Iterable[Any]) -> str:
    """Return the SHA-256 of the representations of `parts`, which may be strings and numbers."""
    state = hashlib.sha256()
    for part in parts:
        state.update(f"{part!r}\n".encode())
    return state.hexdigest()


def file_size(path: str) -> int | None:
    """Return the size of a file in bytes, or None if it cannot be found."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
