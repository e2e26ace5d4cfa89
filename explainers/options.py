"""Arguments as data: choices that are checked, and groups of options with their defaults."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

Group = TypeVar("Group", bound=Mapping[str, Any])
# What a checkpoint says of a file that decided its numbers, instead of the path.
HASHED = re.compile(r"inpainter_[0-9a-f]{16}")


def check_choices(owner: type, given: Mapping[str, Any]) -> None:
    """Raise a ValueError unless every `Literal` argument has one of its values.

    Lists of choices and groups of options (a `TypedDict`) are looked into; a group may have no
    other key than its own. A `str` beside choices is the path of a file.

    Args:
        owner: Class whose constructor's type hints say what is allowed, or a `TypedDict`.
        given: Arguments by name; other names than the constructor's are passed over.
    """
    grouped = is_typeddict(owner)
    hints = get_type_hints(owner if grouped else owner.__init__)  # type: ignore[misc]
    if grouped and (unknown := sorted(set(given) - set(hints))):
        raise ValueError(f"unknown option {unknown[0]!r}; the options are {', '.join(hints)}")
    for name in (name for name in hints if name in given):
        hint, value = hints[name], given[name]
        if not _fits(hint, value):
            files = " or the path of a file" if _takes_files(hint) else ""
            raise ValueError(f"{name} must be one of {_choices(hint)}{files}, got {value!r}")
        for group in (kind for kind in (hint, *get_args(hint)) if is_typeddict(kind)):
            if value is not None and not isinstance(value, Mapping):
                names = ", ".join(get_type_hints(group))
                raise ValueError(f"{name} must be a dict of some of {names}, got {value!r}")
            check_choices(group, value or {})


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is among the choices of a type hint; a hint without choices takes any."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if hint is NoneType:
        return value is None
    if origin in (Union, UnionType):
        if _takes_files(hint) and isinstance(value, str):
            known = value in _choices(hint) or HASHED.fullmatch(value)
            return bool(known) or Path(value).is_file()
        return any(_fits(kind, value) for kind in inner)
    if origin in (list, Sequence) and isinstance(value, list | tuple):
        return all(_fits(inner[0], each) for each in value)
    return True


def _takes_files(hint: Any) -> bool:
    """Whether a type hint, or that of the items of a list, has choices and `str`."""
    inner = get_args(hint)
    if get_origin(hint) in (Union, UnionType) and str in inner:
        return any(get_origin(kind) is Literal for kind in inner)
    return get_origin(hint) is not Literal and any(_takes_files(kind) for kind in inner)


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [None] if hint is NoneType else [c for kind in get_args(hint) for c in _choices(kind)]


def complete(given: Group | None, defaults: Group) -> Group:
    """A group of options in which each has a value: the given one, or the default if that is None.

    Example:
        >>> complete({"lr": 0.1, "steps": None}, {"lr": 0.01, "steps": 10, "decay": 1.0})
        {'lr': 0.1, 'steps': 10, 'decay': 1.0}
    """
    known = {name: value for name, value in (given or {}).items() if value is not None}
    return {**defaults, **known}  # type: ignore[return-value]


def without_sources(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments, also nested ones, that neither download nor read weights when used again."""
    cleared = {"pretrained": False, "backbone_weights": None}
    return {
        name: without_sources(value) if isinstance(value, Mapping) else cleared.get(name, value)
        for name, value in arguments.items()
    }
