"""Which classes of a classifier are kept, and their names."""

from collections import Counter
from collections.abc import Sequence


def kept_classes(classes: Sequence[int] | None, count: int, multi_label: bool) -> list[int] | None:
    """The indices of the classes to keep, of `count` in all. None stands for all.

    Raises:
        ValueError: If there are too few, or one is no class or is there twice.
    """
    if classes is None:
        return None
    kept, least = list(classes), 1 if multi_label else 2
    if not all(isinstance(c, int) and 0 <= c < count for c in kept):
        raise ValueError(f"classes must be indices in [0, {count - 1}], got {kept}")
    if len(set(kept)) < len(kept):
        raise ValueError(f"classes must be different, got {kept}")
    if len(kept) < least:
        raise ValueError(
            f"classes must have at least {least}, got {kept}"
            + ("" if multi_label else ": the softmax of one class is always 1")
        )
    return kept


def class_names(
    given: Sequence[str] | None, own: Sequence[str] | None, count: int, kept: Sequence[int] | None
) -> list[str]:
    """Names of the kept classes, all different.

    Args:
        given: Names by the user, of the kept classes or of all.
        own: Names by the classifier's library or checkpoint. They are of all classes, or belong to
            another head.
        count: Number of all classes.
        kept: Indices of the kept classes. None stands for all.

    Raises:
        ValueError: If the number of given names is another, or a given name is there twice.
    """
    indices = list(range(count)) if kept is None else list(kept)
    library = [own[c] for c in indices] if own is not None and len(own) == count else None
    if given is None:
        names = library or [f"class {c}" for c in indices]
    elif isinstance(given, str) or len(given) not in (len(indices), count):
        raise ValueError(f"expected {len(indices)} class names, got {len(given)}")
    else:
        names = list(given) if len(given) == len(indices) else [given[c] for c in indices]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice and given is not None and names != library:
        raise ValueError(f"class names must be different, got {twice[0]!r} more than once")
    # ImageNet has two cranes.
    return [f"{n} ({c})" if n in twice else n for n, c in zip(names, indices, strict=True)]
