"""Agreement of thresholded maps with object masks over a whole data set (SLOC's protocol)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainers.functional import masking
from explainers.metrics.base import PerImageMetric, exact, pixel_sum
from explainers.metrics.statistics import Columns, nan_mean


def counts(maps: Tensor, mask: Tensor, void: Tensor | None = None) -> Tensor:
    """Numbers of true positives, false positives, false negatives and true negatives.

    Args:
        maps: Maps (B, H, W). Pixels above the mean of their map are foreground.
        mask: Object masks (B, H, W) bool.
        void: Pixels that are ignored, also in the mean, (B, H, W) bool.

    Returns:
        Numbers of pixels (B, 4) float64.
    """
    maps, valid = exact(maps), _valid(mask, void)
    mean = pixel_sum(maps * valid) / pixel_sum(valid).clamp_min(1)
    found, true = maps > mean[:, None, None], mask.cpu().bool()
    cells = (found & true, found & ~true, ~found & true, ~found & ~true)
    return torch.stack([pixel_sum(cell & valid.bool()) for cell in cells], dim=1)


def _valid(mask: Tensor, void: Tensor | None) -> Tensor:
    return torch.ones_like(exact(mask)) if void is None else 1 - exact(void)


def average_precision(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Average precision: sum of (R_n - R_n-1) P_n over the distinct scores.

    R_n and P_n are the recall and precision if the n largest distinct scores count as positive.

    Args:
        scores: Scores (N,), higher for the positive class.
        labels: True labels (N,). If none is positive, the result is NaN.

    Example:
        >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
        0.8333333333333333
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    if not hits.size or hits[-1] == 0:
        return float("nan")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    gained = np.diff(hits[last], prepend=0)
    return float((gained * (hits[last] / (last + 1))).sum() / hits[-1])


class SegmentationScores(PerImageMetric):
    """Pixel accuracy and mean IoU over all pixels of the data, and mean average precision.

    All maps are min-max scaled (masks too, as published). Pixels above the mean of their map are
    foreground. PixelAccuracy is computed over all pixels of all images together. MeanIoU is the
    mean of the IoU of the background and the IoU of the foreground, both over all pixels of all
    images. MeanAP is the mean over images of the average precision of the concatenated scores
    (1 - map, map) for the labels (background, foreground).

    Source: the ImageNet-Segmentation protocol of Chefer et al., CVPR 2021, as used by SLOC.

    Differences from the released code:
        - Images with an empty mask are left out.
        - `void` pixels are ignored.

    Cost: no forward passes.

    Range: [0, 1].

    Blind to: whether the classifier uses the object at all. A map of what it really uses, such as
    the background, scores badly. Large objects count more than small ones.
    """

    names = ("seg_tp", "seg_fp", "seg_fn", "seg_tn", "seg_ap")
    needs = ("maps", "mask")
    optional = ("void",)
    wants_unit_maps = True

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the three scores."""
        return ("PixelAccuracy", "MeanIoU", "MeanAP")

    def score(self, maps: Tensor, mask: Tensor, void: Tensor | None = None) -> dict[str, Tensor]:
        """Numbers of pixels and average precision (B,) of maps (B, H, W)."""
        unit = masking.minmax(exact(maps))
        valid = _valid(mask, void).bool()
        planes = zip(unit.numpy(), mask.cpu().bool().numpy(), valid.numpy(), strict=True)
        precision = [_stacked_precision(m[v], g[v]) for m, g, v in planes]
        column = torch.tensor(precision, dtype=torch.float64)[:, None]
        table = torch.cat([counts(unit, mask, void), column], dim=1)
        seen = (exact(mask) * valid).flatten(1).any(dim=1)
        table = table.masked_fill(~seen[:, None], torch.nan)
        return dict(zip(self.names, table.unbind(1), strict=True))

    def aggregate(self, values: Columns) -> dict[str, float]:
        """The three scores, from summed numbers of pixels; NaN without any image."""
        tp, fp, fn, tn = (float(np.nansum(values[name])) for name in self.names[:4])
        if tp + fn == 0:
            return dict.fromkeys(self.reports, float("nan"))
        ious = [tp / (tp + fp + fn), tn / (tn + fp + fn) if tn + fp + fn else 1.0]
        return {
            "PixelAccuracy": (tp + tn) / (tp + fp + fn + tn),
            "MeanIoU": sum(ious) / 2,
            "MeanAP": nan_mean(values["seg_ap"]),
        }


def _stacked_precision(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    return average_precision(
        np.concatenate([1 - scores, scores]), np.concatenate([~labels, labels])
    )
