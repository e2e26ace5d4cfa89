"""Performance information curves: how the prediction recovers as an image regains information."""

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import LinearNDInterpolator
from threadpoolctl import threadpool_limits
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric
from explainers.metrics.inputs import finite

Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Floats = NDArray[np.float64]

THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75)


def random_mask(height: int, width: int, fraction: float, seed: int) -> Mask:
    """Random mask (H, W) in which `fraction` of the pixels, rounded down, are true."""
    mask = np.zeros(height * width, dtype=bool)
    drawn = np.random.default_rng(seed).choice(mask.size, int(mask.size * fraction), replace=False)
    mask[drawn] = True
    return mask.reshape(height, width)


def interpolate(image: Pixels, known: Mask) -> Pixels:
    """The image with its unknown pixels interpolated linearly from the known ones.

    The interpolation uses the Delaunay triangulation of the known pixels, one for all three
    channels. The corners always count as known. Values are converted to single precision before
    they are rounded, so that ties are decided as in PAIR's code.
    """
    known = known.copy()
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    if known.all():
        return image
    unknown = np.argwhere(~known)
    inside = LinearNDInterpolator(np.argwhere(known), image[known].astype(np.float64))(unknown)
    inside = np.where(np.isnan(inside), image.mean(axis=(0, 1)), inside)
    result = image.copy()
    result[~known] = np.round(inside.astype(np.float32)).astype(np.uint8)
    return result


def entropy(image: Pixels) -> int:
    """Size in bytes of the image as lossless WebP of quality 100, PAIR's measure of information.

    The size depends slightly on the version of libwebp inside Pillow.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="webp", lossless=True, quality=100)
    return len(buffer.getbuffer())


def information_auc(
    entropies: Floats, scores: Floats, points: int = 20, monotone: bool = True
) -> float:
    """Area under the curve of normalized score over normalized entropy of one image, in [0, 1].

    Args:
        entropies: Entropies (T + 2,) of the fully blurred image, the T partly revealed images and
            the original image.
        scores: Scores (T + 2,) of the classifier on the same images.
        points: Number of equally spaced points at which the curve is read, besides its end at 1.
        monotone: Whether to replace each score by the largest score so far.

    Returns:
        The area; NaN unless the blurred image has both a lower entropy and a lower score than the
        original image, and if a score is NaN.

    Example:
        >>> information_auc(np.array([10.0, 15.0, 20.0]), np.array([0.0, 1.0, 1.0]), points=2)
        0.75
    """
    if entropies[0] >= entropies[-1] or scores[0] >= scores[-1] or np.isnan(scores).any():
        return float("nan")
    x = ((entropies[1:-1] - entropies[0]) / (entropies[-1] - entropies[0])).clip(0, 1)
    y = ((scores[1:-1] - scores[0]) / (scores[-1] - scores[0])).clip(0, 1)
    if monotone:
        y = np.maximum.accumulate(y)
    x, y = np.append(x, [0.0, 1.0]), np.append(y, [0.0, 1.0])
    order = np.argsort(x, kind="stable")
    at = np.linspace(0, 1, points + 1)
    heights = np.interp(at, x[order], y[order])
    heights[-1] = 1
    return float(np.trapezoid(heights, at))


class InformationCurves(PerImageMetric):
    """AIC and SIC: areas, in [0, 1], under the accuracy and softmax information curves.

    The image is first blurred: only a random 1 % of its pixels are known and the others are
    interpolated. The most relevant pixels are then revealed in 13 steps. A curve plots the recovery
    of the classifier's score over the recovery of the entropy of the image. The score of SIC is the
    probability of the followed class. The score of AIC is 1 if that class is the most probable one,
    and 0 otherwise.

    A value is missing if the score of the image itself is below `min_score`, or if blurring does
    not lower both the score and the entropy. AIC and SIC may therefore cover different images.

    Source: Kapishnikov et al., "XRAI", ICCV 2019, and PAIR's package `saliency`, whose numbers are
    reproduced if the random mask is the same. The defaults are those of SLOC, which prints
    percentages and draws separate masks for AIC and SIC. The defaults of the package are a
    `min_score` of 0.8 and 1000 points.

    Cost for each image: 2 forward passes, and 13 more if at least one of the curves is defined.

    Range: [0, 1].

    Blind to: images that the classifier is not sure of, which have no value; the order of the least
    relevant quarter of the pixels. Compact maps compress better and gain from it.

    Args:
        thresholds: Fractions of the most relevant pixels that are revealed, in ascending order.
        fraction: Fraction of the pixels that the random mask contains.
        min_score: Smallest score of the image itself for which a curve is defined.
        points: Number of points at which a curve is read, not counting its end.
        monotone: Whether to replace each score by the largest score so far.
        seed: Seed of the random mask, which is the same for all images of one size.
        workers: Number of threads that interpolate and compress images; None uses one per core.
        batch_size: Number of images in each forward pass.

    Raises:
        ValueError: If the thresholds are not ascending in (0, 1).
    """

    names = ("AIC", "SIC")
    needs = ("images", "maps", "targets", "explanandum")
    per_class = True
    speed_only = ("workers", "batch_size")

    def __init__(
        self,
        thresholds: Sequence[float] = THRESHOLDS,
        fraction: float = 0.01,
        min_score: float = 0.5,
        points: int = 20,
        monotone: bool = True,
        seed: int = 0,
        workers: int | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        if not thresholds or any(
            not low < high < 1 for low, high in zip((0, *thresholds), thresholds, strict=False)
        ):
            raise ValueError(f"thresholds must ascend in (0, 1), got {list(thresholds)}")
        self.thresholds, self.fraction, self.min_score = list(thresholds), fraction, min_score
        self.points, self.monotone, self.seed = points, monotone, seed
        self.workers, self.batch_size = workers, batch_size

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Areas (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        pictures = images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        relevance = maps.detach().cpu().numpy()
        classes = targets.int().argmax(dim=1).tolist()
        # BLAS threads would only slow each other down: the linear systems have three equations.
        with threadpool_limits(1), ThreadPoolExecutor(self.workers or os.cpu_count() or 1) as pool:
            values = torch.from_numpy(self._curves(pool, pictures, relevance, classes, explanandum))
        return {"AIC": values[:, 0], "SIC": values[:, 1]}

    def _curves(
        self,
        pool: Executor,
        pictures: Pixels,
        relevance: NDArray[np.floating],
        classes: list[int],
        explanandum: Explanandum,
    ) -> Floats:
        """AIC and SIC (B, 2) of pictures (B, H, W, 3) with relevance (B, H, W)."""
        size = self.batch_size
        hidden = random_mask(relevance.shape[1], relevance.shape[2], self.fraction, self.seed)
        rows = list(range(len(pictures)))
        ends = [pool.map(_weighed, pictures), pool.map(_weighed, pictures, [hidden] * len(rows))]
        (whole, clean), (bare, blurred) = (_read(explanandum, end, classes, size) for end in ends)
        worth = (clean >= self.min_score) & (clean > blurred) & (whole > bare)[:, None]  # (B, 2)
        open_rows = [row for row in rows if worth[row].any()]
        tasks = [(row, t) for row in open_rows for t in self.thresholds]
        masks = (relevance[row] >= np.quantile(relevance[row], 1 - t) for row, t in tasks)
        shown = pool.map(_weighed, (pictures[row] for row, _ in tasks), (m | hidden for m in masks))
        steps, answers = _read(explanandum, shown, [classes[row] for row, _ in tasks], size)
        values = np.full((len(rows), 2), np.nan)
        for i, row in enumerate(open_rows):
            part = slice(i * len(self.thresholds), (i + 1) * len(self.thresholds))
            bytes_ = np.concatenate([bare[[row]], steps[part], whole[[row]]])
            scores = np.concatenate([blurred[[row]], answers[part], clean[[row]]])  # (T + 2, 2)
            for k in np.flatnonzero(worth[row]):
                values[row, k] = information_auc(bytes_, scores[:, k], self.points, self.monotone)
        return values


def _weighed(image: Pixels, known: Mask | None = None) -> tuple[Pixels, int]:
    shown = image if known is None else interpolate(image, known)
    return shown, entropy(shown)


@torch.no_grad()
def _read(
    explanandum: Explanandum,
    weighed: Iterable[tuple[Pixels, int]],
    classes: list[int],
    batch_size: int,
) -> tuple[Floats, Floats]:
    """Bytes (N,) of pictures; scores (N, 2): class is most probable (0 or 1), probability."""
    entropies: list[float] = []
    answers: list[Tensor] = [torch.empty(0, 2)]
    stream = iter(weighed)
    while chunk := list(islice(stream, batch_size)):
        part = torch.tensor(classes[len(entropies) : len(entropies) + len(chunk)])
        pictures = torch.from_numpy(np.stack([picture for picture, _ in chunk]))
        logits = explanandum(pictures.to(explanandum.mean.device).permute(0, 3, 1, 2) / 255)
        probability = explanandum.to_probabilities(logits).cpu().gather(1, part[:, None])[:, 0]
        hit = (logits.argmax(dim=1).cpu() == part).float().masked_fill(~finite(logits), torch.nan)
        answers.append(torch.stack([hit, probability], 1))
        entropies += [size for _, size in chunk]
    return np.array(entropies, dtype=np.float64), torch.cat(answers).double().numpy()
