"""Metrics of boxes around a thresholded map: prediction on the crop, and overlap with objects."""

import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric, exact
from explainers.metrics.boxes import box_iou, map_boxes, tight_boxes
from explainers.metrics.statistics import Columns, nan_mean
from explainers.options import check_choices

OF_MAX = tuple(i / 20 for i in range(20))  # 0, 0.05 ... 0.95 of the maximum
OF_MEAN = tuple(i / 5 for i in range(26))  # 0, 0.2 ... 5 times the mean


def held_out(images: Tensor) -> Tensor:
    """Whether each of images (B, 3, H, W) belongs to the half that tunes a threshold, (B,) bool.

    A hash of the pixels decides. The choice therefore does not depend on the order of the data,
    the batches, the number of processes or a bootstrap.
    """
    pixels = (images.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).contiguous()
    return torch.tensor([bool(zlib.crc32(image.numpy().tobytes()) & 1) for image in pixels])


class _Thresholded(PerImageMetric):
    """Base class of metrics whose threshold alpha is tuned on held-out images.

    Without a fixed alpha there is one column for each alpha of the grid, and a column
    `<name>/held_out`, which is 1 or 0. The alpha with the lowest mean over the held-out images is
    chosen, and the result is its mean over the other images. With a fixed alpha there is one
    column, and the result is its mean.

    Args:
        name: Name of the result.
        alpha: Fixed threshold; None tunes it.
        grid: Thresholds to choose from.

    Raises:
        ValueError: If a threshold is negative or there is none.
    """

    per_class = True
    wants_unit_maps = True
    higher_is_better = False

    def __init__(self, name: str, alpha: float | None, grid: Sequence[float]) -> None:
        super().__init__()
        self.figure, self.alpha = name, alpha
        self.alphas = list(grid) if alpha is None else [alpha]
        if not self.alphas or min(self.alphas) < 0:
            raise ValueError(f"expected thresholds >= 0, at least one, got {self.alphas}")
        columns = tuple(f"{name}/{a:.2f}" for a in self.alphas)
        self.names = (*columns, f"{name}/held_out") if alpha is None else (name,)

    @property
    def reports(self) -> tuple[str, ...]:
        """Name of the result at the chosen alpha."""
        return (self.figure,)

    def columns(self, values: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Columns from values (B, len(alphas)) and the half to which images (B, 3, H, W) belong."""
        half = held_out(images).double().masked_fill(values.isnan().all(dim=1), torch.nan)
        return dict(zip(self.names, [*values.unbind(1), half], strict=self.alpha is None))

    def aggregate(self, values: Columns) -> dict[str, float]:
        """Mean over the other images at the tuned alpha; NaN if either half has no value."""
        return {name: nan_mean(column) for name, column in self.averaged(values).items()}

    def absent(self, values: Columns) -> str:
        """Why the result has no value: mostly, because one half of the images is empty."""
        if (
            self.alpha is None
            and len(set(values[self.names[-1]][~np.isnan(values[self.names[-1]])])) == 1
        ):
            return (
                "alpha is tuned on one half of the images, and all of these few images are in the "
                "same half: test more images, or set alpha"
            )
        return super().absent(values)

    def averaged(self, values: Columns) -> Columns:
        """Values (N,) at the alpha tuned on the held-out images, whose own values are missing."""
        if self.alpha is not None:
            return super().averaged(values)
        table, half = np.stack([values[n] for n in self.names[:-1]]), values[self.names[-1]]
        means = np.array([nan_mean(row[half == 1]) for row in table])
        if np.isnan(means).all():
            return {self.figure: np.full_like(half, np.nan)}
        return {self.figure: np.where(half == 0, table[np.nanargmin(means)], np.nan)}


class CropSaliency(_Thresholded):
    """Log area minus log probability of the target, for the crop around a thresholded map.

    The score is ln max(area, floor) - ln p(target), where area is the fraction of the image inside
    the crop, and p is the probability on the crop resized to the size of the image. Lower is
    better: the crop is small and the classifier still recognizes the class in it.

    Source: Dabkowski & Gal, NeurIPS 2017, eq. 5. The threshold follows Agarwal & Nguyen, ACCV 2020:
    alpha times the maximum, tuned on held-out images. Phang et al. (CASM, 2020) use
    `relative_to: mean`, `alpha: 1` and `largest_component: true`. The masking-explanation authors
    tune multiples of the mean.

    Differences from the released code:
        - The threshold is tuned on half of the images, not on a separate thousand.
        - Maps that are not masks are min-max scaled, not clipped at 0.
        - Crops are resized bilinearly. CASM resizes them bicubically.

    Cost for each image: one forward pass for each distinct box, at most one for each alpha.

    Range: [ln floor, inf).

    Blind to: everything but the box: pixels inside it count alike, and objects smaller than the
    floor are not distinguished.

    Args:
        alpha: Fixed threshold; None tunes it over `alphas`.
        alphas: Thresholds to choose from. None stands for 0, 0.05, ..., 0.95 times the maximum, or
            0, 0.2, ..., 5 times the mean.
        relative_to: Statistic of the map that alpha multiplies, "max" or "mean".
        largest_component: Whether to crop to the largest connected component only.
        floor: Area below which a smaller crop no longer lowers the score.
    """

    needs = ("maps", "images", "targets", "explanandum")

    def __init__(
        self,
        alpha: float | None = None,
        alphas: list[float] | None = None,
        relative_to: Literal["max", "mean"] = "max",
        largest_component: bool = False,
        floor: float = 0.05,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__("CropSaliency", alpha, alphas or (OF_MAX, OF_MEAN)[relative_to == "mean"])
        self.relative_to, self.largest_component = relative_to, largest_component
        self.floor = floor

    def score(
        self, maps: Tensor, images: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Scores (B,) at each alpha for maps (B, H, W) and targets (B, K)."""
        boxes = map_boxes(maps, self.alphas, self.relative_to, self.largest_component)
        logits = exact(crop_logits(images, boxes, explanandum))  # (B, A, K)
        seen = F.logsigmoid(logits) if explanandum.multi_label else logits.log_softmax(dim=2)
        targets = targets.cpu()[:, None]
        seen = seen.masked_fill(~targets, -torch.inf).logsumexp(dim=2)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) / maps[0].numel()
        scores = area.clamp_min(self.floor).log() - seen
        known = logits.flatten(1).isfinite().all(dim=1, keepdim=True)
        return self.columns(scores.masked_fill(~known, torch.nan), images)


def crop_logits(images: Tensor, boxes: Tensor, explanandum: Explanandum) -> Tensor:
    """Logits (B, A, K) of crops of images (B, 3, H, W) to boxes (B, A, 4), resized to (H, W)."""
    owner = torch.arange(len(boxes))[:, None, None].expand(-1, boxes.shape[1], 1)
    cells = torch.cat([owner, boxes], dim=2).flatten(0, 1)
    distinct, place = torch.unique(cells, dim=0, return_inverse=True)
    logits = []
    for some in distinct.split(len(images)):
        cuts = [images[i : i + 1, :, top:low, left:right] for i, left, top, right, low in some]
        size = images.shape[-2:]
        crops = [F.interpolate(c, size, mode="bilinear", align_corners=False) for c in cuts]
        logits.append(explanandum(torch.cat(crops)))
    return torch.cat(logits)[place.to(images.device)].view(*boxes.shape[:2], -1)


class LocalizationError(_Thresholded):
    """Fraction of images whose box misses the object: IoU below 0.5 with every box of the class.

    The box encloses all pixels of at least alpha times the maximum of the map. The ground truth is
    `boxes` (B, M, 5), with class, left, top, right and bottom in pixels of the given image, and -1
    in unused rows. Without `boxes` it is the tight box around the `mask` of the class. NaN where
    the class has no box.

    Source: Fong & Vedaldi, ICCV 2017, section 5, as evaluated by Agarwal & Nguyen, ACCV 2020: the
    alpha of 0, 0.05, ..., 0.95 that is best on held-out images. Alpha 0 makes the whole image the
    box, which is the baseline to compare with.

    Differences from the released code:
        - The threshold is tuned on half of the images, not on a separate thousand.
        - Maps that are not masks are min-max scaled, not clipped at 0.
        - A hit on any ground-truth box of the class counts. SAM's code uses the union of all boxes
          and is off by one pixel.

    Cost: no forward passes.

    Range: [0, 1].

    Blind to: whether the classifier uses the object at all. A map of what it really uses, such as
    the background, scores badly. Only the box counts, and only whether it is good enough.

    Args:
        alpha: Fixed threshold; None tunes it over `alphas`.
        alphas: Thresholds to choose from; None stands for 0, 0.05, ..., 0.95.
        iou: Smallest IoU that counts as a hit.

    Raises:
        ValueError: If `iou` is not in (0, 1].
    """

    needs = ("maps", "images", "targets")
    optional = ("boxes", "mask")

    def __init__(
        self, alpha: float | None = None, alphas: list[float] | None = None, iou: float = 0.5
    ) -> None:
        super().__init__("LocalizationError", alpha, alphas or OF_MAX)
        if not 0.0 < iou <= 1.0:
            raise ValueError(f"iou must be in (0, 1], got {iou}")
        self.iou = iou

    def score(
        self,
        maps: Tensor,
        images: Tensor,
        targets: Tensor,
        boxes: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Misses (B,), 0 or 1, at each alpha for maps (B, H, W) and targets (B, K)."""
        truth, known = true_boxes(targets, boxes, mask)
        overlap = box_iou(map_boxes(maps, self.alphas)[:, :, None], truth[:, None])  # (B, A, M)
        overlap = overlap.masked_fill(~known[:, None], 0.0).amax(dim=2)
        missed = (overlap < self.iou).double()
        return self.columns(missed.masked_fill(~known.any(dim=1)[:, None], torch.nan), images)


def true_boxes(targets: Tensor, boxes: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Ground-truth boxes (B, M, 4), and whether each shows a target of (B, K), (B, M) bool."""
    if boxes is not None:
        classes = boxes[..., 0].long().cpu()
        return boxes[..., 1:].cpu(), targets.cpu().gather(1, classes.clamp_min(0)) & (classes >= 0)
    if mask is None:
        return torch.zeros(len(targets), 1, 4), torch.zeros(len(targets), 1, dtype=torch.bool)
    found = tight_boxes(mask.bool()).cpu()[:, None]
    return found, found[..., 2] > 0
