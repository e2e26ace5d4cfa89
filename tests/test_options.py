"""Choices are checked wherever they stand, and options are completed."""

from typing import Literal, TypedDict

import pytest

from explainers.options import check_choices, complete


class Inner(TypedDict, total=False):
    kind: Literal["a", "b"]
    size: int


class Owner:
    def __init__(
        self,
        choice: Literal["x", "y"] = "x",
        maybe: Literal["p", "q"] | None = None,
        several: list[Literal["m", "n"]] | None = None,
        mixed: Literal["mean"] | float = 0.0,
        inner: Inner | None = None,
        free: int = 0,
    ) -> None: ...


@pytest.mark.parametrize(
    "given",
    [
        {"choice": "y", "free": "anything", "unknown": 3},
        {"maybe": None, "several": None, "inner": None},
        {"maybe": "q", "several": ["m", "n", "m"], "mixed": 2.5},
        {"mixed": "mean", "inner": {"kind": "b", "size": 4}},
        {"inner": {}},
    ],
)
def test_what_is_allowed_passes(given):
    check_choices(Owner, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"choice": "z"}, r"choice must be one of \['x', 'y'\], got 'z'"),
        ({"choice": None}, "choice must be one of"),
        ({"maybe": "z"}, r"maybe must be one of \['p', 'q', None\], got 'z'"),
        ({"several": ["m", "z"]}, r"several must be one of \['m', 'n', None\], got \['m', 'z'\]"),
        ({"inner": {"kind": "c"}}, r"kind must be one of \['a', 'b'\], got 'c'"),
        ({"inner": {"sise": 3}}, "unknown option 'sise'; the options are kind, size"),
        ({"inner": "a"}, "inner must be a dict of some of kind, size, got 'a'"),
    ],
)
def test_what_is_not_allowed_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        check_choices(Owner, given)


def test_completing_leaves_both_alone():
    defaults = {"lr": 0.01, "steps": 10}
    given = {"lr": None, "steps": 3}
    assert complete(given, defaults) == {"lr": 0.01, "steps": 3}
    assert complete(None, defaults) == defaults
    assert complete(None, defaults) is not defaults
    assert (given, defaults) == ({"lr": None, "steps": 3}, {"lr": 0.01, "steps": 10})
