"""The classifier's answers for data modules that choose images by its predictions."""

import hashlib
import json
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from explainers.base import Explainer
from explainers.evaluation.provenance import data_name, describe_classifier
from explainers.explanandum import Explanandum


class Judge:
    """Answers of a classifier to whether it predicts images correctly, and how confidently.

    Args:
        explanandum: The classifier.
    """

    def __init__(self, explanandum: Explanandum) -> None:
        self.explanandum = explanandum
        told = json.dumps(describe_classifier(explanandum), sort_keys=True)
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()

    @torch.no_grad()
    def __call__(self, images: Tensor, targets: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Whether each prediction is correct, (B,) bool, and its probability (B,), on the CPU.

        A single-label classifier is right if the image shows its most probable class, a multi-label
        classifier if it predicts exactly the classes that the image shows. The probability is that
        of the most probable class. Without targets, no prediction is correct or wrong: None.
        """
        images = images.to(self.explanandum.mean.device)
        logits = self.explanandum(images)
        confidence = self.explanandum.to_probabilities(logits).amax(dim=1).float().cpu()
        if targets is None:
            return None, confidence
        if targets.shape != logits.shape:
            raise ValueError(
                f"the data have {targets.shape[1]} classes, the explanandum {logits.shape[1]}; "
                "set the explanandum's `classes`"
            )
        predicted = self.explanandum.to_targets(logits, never_empty=False).cpu()
        if self.explanandum.multi_label:
            return (predicted == targets.cpu()).all(dim=1), confidence
        return (predicted & targets.cpu()).any(dim=1), confidence


class JudgeImages(Callback):
    """Lets a data module choose the images that the classifier predicts correctly, see its `only`.

    It does nothing for data modules without this choice.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the data module the classifier of the explainer under test."""
        data: Any = getattr(trainer, "datamodule", None)
        if stage in ("test", "predict") and getattr(data, "only", None) is not None:
            if not isinstance(pl_module, Explainer):
                raise ValueError(
                    f"only: {data.only} needs an Explainer, got {type(pl_module).__name__}"
                )
            data.judge = Judge(pl_module.explanandum)


def data_title(trainer: Trainer) -> str:
    """Name of the data of a table, with the choice of images that their module has made."""
    chosen = getattr(getattr(trainer, "datamodule", None), "chosen", "")
    return f"{data_name(trainer)} ({chosen})" if chosen else data_name(trainer)
