"""The rows of a table besides the method under test."""

from collections.abc import Callable, Mapping, Sequence

from lightning.pytorch.utilities import rank_zero_warn

from explainers.base import Explainer
from explainers.checkpoint import load_beside
from explainers.evaluation.sanity import SANITY
from explainers.explanandum import Explanandum
from explainers.explanandum.features import NotDefinedError


def build_rows(
    explanandum: Explanandum,
    checkpoints: Mapping[str, str],
    methods: Mapping[str, Callable[[Explanandum], Explainer]],
) -> tuple[dict[str, Explainer], dict[str, str]]:
    """Explainers of one classifier by name, and why others are not defined for it.

    Args:
        explanandum: The classifier.
        checkpoints: Checkpoint files of trained explainers, by name.
        methods: Functions that make the other methods, by name.
    """
    rows = {name: load_beside(explanandum, path) for name, path in checkpoints.items()}
    undefined: dict[str, str] = {}
    for name, factory in methods.items():
        try:
            rows[name] = factory(explanandum)
        except NotDefinedError as error:
            rank_zero_warn(f"{name} is left out: {error}")
            undefined[name] = str(error)
    return rows, undefined


def check_names(names: Sequence[str], sanity: bool) -> None:
    """Checks that no two rows of a table have one name.

    Args:
        names: Names of all rows but the reference rows.
        sanity: Whether the reference rows are among them.

    Raises:
        ValueError: If two rows have one name.
    """
    every = [*names, *(SANITY if sanity else ())]
    if twice := sorted({name for name in every if every.count(name) > 1}):
        raise ValueError(
            f"two rows are called {twice[0]!r}; rename one of methods, checkpoints or name"
        )
