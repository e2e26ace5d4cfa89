"""Selection of images of a batch, and of the targets to explain."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum

TargetChoice = Literal["predicted", "label", "second"]


def take(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The images `rows` of a batch. Values that are neither tensors nor lists stay as they are."""
    picked: dict[str, Any] = {}
    for key, value in batch.items():
        if isinstance(value, Tensor):
            picked[key] = value[torch.tensor(list(rows), dtype=torch.int64, device=value.device)]
        elif isinstance(value, list | tuple):
            picked[key] = [value[row] for row in rows]
        else:
            picked[key] = value
    return picked


def choose_targets(
    choice: TargetChoice, explanandum: Explanandum, logits: Tensor, labels: Tensor | None
) -> Tensor:
    """Targets (B, K) bool to explain, none for images whose logits are not finite.

    Args:
        choice: Rule that selects the targets. "predicted": the top class, and for multi-label
            classifiers also all classes above 0.5. "label": the classes that the image shows.
            "second": the second most probable class.
        explanandum: The classifier.
        logits: Logits (B, K) of the clean images.
        labels: Classes that the images show, (B, K) bool. None for unlabeled data.

    Raises:
        ValueError: If the choice does not suit the data or the classifier, or their numbers of
            classes differ.
    """
    if labels is not None and labels.shape != logits.shape:
        raise ValueError(
            f"the data have {labels.shape[1]} classes, the explanandum {logits.shape[1]}; "
            "set the explanandum's `classes`"
        )
    count, known = logits.shape[1], logits.isfinite().all(dim=1, keepdim=True)
    if choice == "label":
        if labels is None:
            raise ValueError(
                "target 'label' needs labelled data, these have no `target`; use target: predicted"
            )
        return labels.bool() & known
    if choice == "second":
        check_choice(choice, explanandum)
        return F.one_hot(logits.topk(2, dim=1).indices[:, 1], count).bool() & known
    return explanandum.to_targets(logits) & known


def check_choice(choice: TargetChoice, explanandum: Explanandum) -> None:
    """Checks that a choice suits a classifier.

    Raises:
        ValueError: If it does not.
    """
    if choice == "second" and (explanandum.multi_label or explanandum.num_classes < 2):
        raise ValueError("target 'second' needs a single-label classifier of at least two classes")


def class_ids(targets: Tensor) -> list[list[int]]:
    """Indices of the classes of each image, from targets (B, K) bool."""
    return [row.nonzero().flatten().tolist() for row in targets.cpu()]


def choose_all_images(trainer: Trainer) -> None:
    """Tests all images of a folder whose test split is a random part, unless it was chosen."""
    data: Any = getattr(trainer, "datamodule", None)
    if getattr(data, "splits_at_random", False) and data.test_on is None:
        data.test_on = "all"
        rank_zero_info(
            f"no method here was trained, so all {len(data.dataset('test'))} images are tested; "
            "--data.init_args.test_on test takes the random test split alone"
        )
