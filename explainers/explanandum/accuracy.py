"""How well a classifier predicts."""

import warnings

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MultilabelAveragePrecision,
    MultilabelF1Score,
    MultilabelPrecision,
    MultilabelRecall,
)
from torchmetrics.utilities import dim_zero_cat


class MeanAveragePrecision(MultilabelAveragePrecision):
    """Mean of the average precision of the classes that some image shows; a warning counts them.

    The average precision of a class without images is not defined. Torchmetrics takes it for 0.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none")

    def compute(self) -> Tensor:  # type: ignore[override] # of curves
        """The mean (), in [0, 1]; NaN if no image shows any class."""
        shown = dim_zero_cat(self.target).bool().any(dim=0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No positive samples found")
            precisions = super().compute()
        if not shown.all():
            rank_zero_warn(
                f"mean average precision of {int(shown.sum())} of {len(shown)} classes: no image"
                " shows any of the others"
            )
        return precisions[shown].mean()


def accuracy_metrics(num_classes: int, multi_label: bool) -> MetricCollection:
    """Metrics of single-label or multi-label classifiers.

    Single-label: top-1 accuracy, and top-5 accuracy if there are more than five classes.
    Multi-label: micro-averaged precision, recall and F1, and mean average precision.
    """
    if multi_label:
        return MetricCollection(
            {
                "precision": MultilabelPrecision(num_classes, average="micro"),
                "recall": MultilabelRecall(num_classes, average="micro"),
                "f1": MultilabelF1Score(num_classes, average="micro"),
                "map": MeanAveragePrecision(num_classes),
            },
            compute_groups=False,
        )
    tops = {"top1": 1, "top5": 5} if num_classes > 5 else {"top1": 1}
    return MetricCollection(
        {
            name: MulticlassAccuracy(num_classes, top_k=k, average="micro")
            for name, k in tops.items()
        },
        compute_groups=False,
    )
