"""Predictions of the classifier on masked images (NN-Explainer, sections 4.2 and B)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.metrics.base import PerImageMetric, exact
from explainers.metrics.inputs import finite, masked_logits
from explainers.metrics.statistics import Columns, nan_mean

THRESHOLDS = tuple(k / 10 for k in range(1, 10))


class ClassSpecificity(PerImageMetric):
    """Probability of a present class under its own mask and under the masks of other classes.

    For each image that shows class t and each selected class c, the image is masked to the pixels
    where the map of c exceeds 0.1, 0.2, ..., 0.9. The softmax probability of t is averaged over
    these nine masked images. Cell (t, c) of the table is the mean over all images. The column
    "none" holds the probabilities of the unmasked images. The scores are the mean of the diagonal
    cells (`own`, higher is better) and the mean of the others (`other`, lower is better).

    Source: Stalder et al., NeurIPS 2022, section 4.2 and table 1, where the classes are cat, dog,
    person, car and bottle.

    Range: [0, 1].

    Cost: nine forward passes and one explanation for each selected class.

    Blind to: what the classifier makes of images with a removed background, which are unlike those
    of the training; and classes that are not selected.

    Args:
        classes: Indices or names of the selected classes; None selects the first five.
    """

    needs = ("images", "labels", "logits", "explanandum", "explainer")
    higher_is_better = {"ClassSpecificity/own": True, "ClassSpecificity/other": False}  # noqa: RUF012

    def __init__(self, classes: list[int | str] | None = None) -> None:
        super().__init__()
        self.classes = classes
        self.rows = [str(c) for c in (range(5) if classes is None else classes)]
        self.names = tuple(
            f"ClassSpecificity/{t}/{c}" for t in self.rows for c in (*self.rows, "none")
        )

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the two scores."""
        return ("ClassSpecificity/own", "ClassSpecificity/other")

    def class_ids(self, explanandum: Explanandum) -> list[int]:
        """Indices of the selected classes.

        Raises:
            ValueError: If the explanandum has no such class.
        """
        if self.classes is None:
            return list(range(min(5, explanandum.num_classes)))
        names = explanandum.class_names
        if unknown := [
            c for c in self.classes if c not in names and c not in range(explanandum.num_classes)
        ]:
            raise ValueError(
                f"no class {unknown[0]!r} among {explanandum.num_classes}: {names[:10]}"
            )
        return [names.index(c) if isinstance(c, str) else c for c in self.classes]

    def score(
        self,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        explanandum: Explanandum,
        explainer: Any,
    ) -> dict[str, Tensor]:
        """All cells (B,) for images with labels (B, K); NaN if an image lacks the row's class."""
        ids = self.class_ids(explanandum)
        size = len(self.rows)
        present = labels[:, ids].bool()  # (B, k)
        cells = torch.full((len(images), size, size + 1), torch.nan, dtype=torch.float64)
        if present.any():
            rows = present.any(dim=1)
            chosen = torch.tensor(ids, device=images.device).expand(int(rows.sum()), -1)
            maps = explainer.class_maps(images[rows], chosen)
            lost = ~finite(maps)
            maps = maps if explainer.is_mask else masking.minmax(maps.flatten(0, 1)).view_as(maps)
            under = [
                _mean_probabilities(explanandum, images[rows], m)[:, ids] for m in maps.unbind(1)
            ]
            under.append(exact(logits[rows]).softmax(dim=1)[:, ids])
            found = torch.stack(under, dim=2).masked_fill(
                ~present[rows].cpu()[:, :, None] | lost[:, None, None], torch.nan
            )
            columns = [*range(len(ids)), size]
            cells[
                rows.cpu().nonzero().flatten()[:, None, None],
                torch.arange(len(ids))[:, None],
                columns,
            ] = found
        return dict(zip(self.names, cells.flatten(1).unbind(1), strict=True))

    def table(self, values: Columns) -> NDArray[np.float64]:
        """Mean probabilities (k, k + 1): classes of images by classes of masks, and "none" last."""
        means = np.array([nan_mean(values[name]) for name in self.names])
        return means.reshape(len(self.rows), len(self.rows) + 1)

    def aggregate(self, values: Columns) -> dict[str, float]:
        """Mean of the diagonal cells, and mean of the others."""
        cells = self.table(values)[:, :-1]
        own = np.eye(len(cells), dtype=bool)
        return dict(zip(self.reports, (nan_mean(cells[own]), nan_mean(cells[~own])), strict=True))

    def details(self, values: Columns) -> str:
        """The table in percent, as printed in the paper."""
        width = max(8, *(len(row) + 2 for row in self.rows))
        lines = ["".join(name.rjust(width) for name in ("", *self.rows, "none"))]
        for name, row in zip(self.rows, self.table(values), strict=True):
            cells = ("-" if np.isnan(cell) else f"{100 * cell:.1f}" for cell in row)
            lines.append("".join(cell.rjust(width) for cell in (name, *cells)))
        return "\n".join(
            ["softmax % of the class in the row under the mask of the class in the column", *lines]
        )


def _mean_probabilities(explanandum: Explanandum, images: Tensor, maps: Tensor) -> Tensor:
    """Softmax probabilities (B, K) of images masked by maps (B, H, W), averaged over thresholds."""
    logits = [masked_logits(explanandum, images, (maps > t).to(images.dtype)) for t in THRESHOLDS]
    return torch.stack([exact(value).softmax(dim=1) for value in logits]).mean(dim=0)


class MaskedClassification(PerImageMetric):
    """Micro-averaged precision, recall and F1 of the classifier on masked and on clean images.

    Predictions are compared with the labels over all pairs of an image and a class. A single-label
    classifier predicts its most probable class, so that its precision, recall and F1 all equal its
    accuracy.

    Source: Stalder et al., NeurIPS 2022, appendix B.

    Differences from the released code:
        - The default threshold on masked images is a logit of 0. The released code uses -1, because
          masks lower all logits: set `masked_threshold: -1` for the published numbers.

    Range: [0, 1].

    Cost: one forward pass.

    Blind to: the size of the mask. Maps that keep the whole image get the clean figures.

    Args:
        masked_threshold: Logit above which a multi-label classifier predicts a class on masked
            images.
        clean_threshold: Logit above which a multi-label classifier predicts a class on clean
            images.
    """

    names = ("masked_tp", "masked_fp", "masked_fn", "clean_tp", "clean_fp", "clean_fn")
    needs = ("labels", "logits", "masked_logits", "explanandum")
    wants_unit_maps = True
    of_sums = True

    def __init__(self, masked_threshold: float = 0.0, clean_threshold: float = 0.0) -> None:
        super().__init__()
        self.masked_threshold, self.clean_threshold = masked_threshold, clean_threshold

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of three scores on masked images and three on clean images."""
        return tuple(
            f"{kind}{figure}"
            for kind in ("Masked", "Clean")
            for figure in ("Precision", "Recall", "F1")
        )

    def score(
        self, labels: Tensor, logits: Tensor, masked_logits: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Numbers (B,) of true positives, false positives and false negatives of each image."""
        columns: dict[str, Tensor] = {}
        for kind, values, threshold in (
            ("masked", masked_logits, self.masked_threshold),
            ("clean", logits, self.clean_threshold),
        ):
            top = F.one_hot(values.argmax(dim=1), values.shape[1]).bool()
            predicted = values > threshold if explanandum.multi_label else top
            columns[f"{kind}_tp"] = (predicted & labels).sum(dim=1)
            columns[f"{kind}_fp"] = (predicted & ~labels).sum(dim=1)
            columns[f"{kind}_fn"] = (~predicted & labels).sum(dim=1)
        return columns

    def aggregate(self, values: Columns) -> dict[str, float]:
        """The six scores from summed counts; NaN if their denominator is 0."""
        figures: dict[str, float] = {}
        for kind in ("Masked", "Clean"):
            tp, fp, fn = (
                float(np.nansum(values[f"{kind.lower()}_{count}"])) for count in ("tp", "fp", "fn")
            )
            figures[f"{kind}Precision"] = _ratio(tp, tp + fp)
            figures[f"{kind}Recall"] = _ratio(tp, tp + fn)
            figures[f"{kind}F1"] = _ratio(2 * tp, 2 * tp + fp + fn)
        return figures


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
