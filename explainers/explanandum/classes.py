"""Whether data and classifier mean the same classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from explainers.explanandum.frozen import Explanandum

SHOWN = 20  # longest list of class names in a message


def check_classes(names: Sequence[str], explanandum: Explanandum) -> None:
    """Refuses data whose classes are not those of the explanandum, as far as names can tell.

    Names are compared without regard to case, surrounding blanks, and "_" or "-" for a blank. If no
    name is common to both, classes are taken by their position, which is said once.

    Args:
        names: Class names of the data, in the order of their targets. Empty if they are unlabeled.
        explanandum: The classifier.

    Raises:
        ValueError: If the numbers of classes differ, or a name stands at another position.
    """
    own = explanandum.class_names
    if not names:
        return
    if len(names) != len(own):
        numbered = len(names) < len(own) and list(names) == [str(n) for n in range(len(names))]
        last = f", or data.init_args.num_classes {len(own)} if no file shows the last ones"
        raise ValueError(
            f"the data have {len(names)} classes ({names[0]}, ...), the explanandum {len(own)} "
            f"({own[0]}, ...): take an explanandum of these data, or set its `classes`"
            + (last if numbered else "")
        )
    data, classifier = _comparable(names), _comparable(own)
    common = data.keys() & classifier.keys()
    moved = sorted(
        (data[name], classifier[name]) for name in common if data[name] != classifier[name]
    )
    if moved:
        here, there = moved[0]
        order = f" {list(own)}" if len(own) <= SHOWN and len(common) == len(own) else ""
        raise ValueError(
            f"class {names[here]!r} is number {here} of the data and number {there} of the "
            "explanandum: give the data the explanandum's order by data.init_args.class_names"
            f"{order}, or correct the explanandum's class_names"
        )
    if not common and not all(name.startswith("class ") for name in own):
        rank_zero_info(
            f"the data and the explanandum name their classes differently ({names[0]}, {own[0]}, "
            "...): they are taken to be in the same order"
        )


def labels_of(batch: Mapping[str, Any]) -> Tensor:
    """Targets (B, K) of a batch.

    Raises:
        ValueError: If it has none.
    """
    if "target" not in batch:
        raise ValueError(
            "a classifier is trained on labeled images, and measured on them, but these have no "
            "labels: take data with a folder or a column of classes, and labelled: true"
        )
    targets: Tensor = batch["target"]
    return targets


def _comparable(names: Sequence[str]) -> dict[str, int]:
    """Position of each name that occurs once, in a form that ignores how it is written."""
    plain = [
        " ".join(name.casefold().replace("_", " ").replace("-", " ").split()) for name in names
    ]
    counts = Counter(plain)
    return {name: place for place, name in enumerate(plain) if counts[name] == 1}
