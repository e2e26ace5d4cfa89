"""Completeness and soundness of maps, judged for every label and not only the correct one."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional.fills import read_bank
from explainers.metrics.base import PerImageMetric, exact
from explainers.metrics.inputs import finite
from explainers.metrics.ties import gaussian_ranks
from explainers.options import check_choices
from explainers.perturbation import curves


def completeness(area: Tensor, clean: Tensor, alpha: float = 1.0, epsilon1: float = 0.01) -> Tensor:
    """Fraction of a label's probability that the top pixels of its map recover.

    The value is min(max(epsilon1, AUC) / min(alpha, p), 1).

    Args:
        area: Area under the curve (AUC) of the label's probability when only the top pixels of the
            map are shown, any shape, in [0, 1].
        clean: Probability p of the label on the whole image, same shape.
        alpha: Probability that is enough to recover, even if p is higher.
        epsilon1: Lower limit of the AUC.

    Returns:
        Completeness, same shape, float64 in [0, 1]; 1 where p is 0.
    """
    return _ratio(exact(area).clamp_min(epsilon1), exact(clean).clamp_max(alpha))


def soundness(area: Tensor, clean: Tensor, beta: float = 0.1) -> Tensor:
    """Soundness of a map, which is low if it makes a label more probable than the image does.

    The value is min(max(beta, p) / AUC, 1), which is below 1 where the AUC exceeds p and `beta`.

    Args:
        area: As in `completeness`.
        clean: As in `completeness`.
        beta: Probability that a label may reach without a penalty, even if p is lower.

    Returns:
        Soundness, same shape, float64 in [0, 1]; 1 where the AUC is 0.

    Example:
        >>> soundness(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.75]), beta=0.125).tolist()
        [0.25, 1.0]
    """
    return _ratio(exact(clean).clamp_min(beta), exact(area))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    ratio = torch.where(whole > 0, part / whole.where(whole > 0, 1.0), 1.0).clamp_max(1.0)
    return ratio.masked_fill(part.isnan() | whole.isnan(), torch.nan)


class CompletenessSoundness(PerImageMetric):
    """Worst completeness and worst soundness over all labels of the classifier, in [0, 1].

    Completeness measures whether a map finds the evidence for its label that the image contains.
    Soundness penalizes maps that create evidence for a label the image does not support.

    Each label is explained by its own map. The top pixels of the map are kept and the others are
    replaced. The AUC is the plain mean of the label's probability over the numbers of kept pixels
    j HW / points, with j from 1 to `points`. The score of an image is the minimum over its labels.

    Source: Gupta et al., "New Definitions and Evaluations for Saliency Methods: Staying Intrinsic,
    Complete and Sound", NeurIPS 2022. At 224 px, 28 points correspond to its 1792 pixels per step.
    The paper uses epsilon1 0.01 and beta 0.1 in table 2, and 0 and 0.1 in appendix D; the released
    script passes 0.1 for both. For CIFAR the settings are `start: 0.2`, `end: 0.6` and `top: 2`.

    Differences from the released code:
        - The random images are the same for every image, label and point.
        - The clean image is shown to the classifier once.

    To judge a subset of the labels, set the `classes` of the explanandum.

    Cost for each image with K labels: K maps and K (points - 1) forward passes. With random images
    the forward passes are `draws` times as many.

    Range: [0, 1].

    Blind to: all labels but the worst one of an image.

    Args:
        alpha: Probability that is enough to recover, see `completeness`.
        beta: Probability that is not penalized, see `soundness`.
        epsilon1: Lower limit of the AUC, see `completeness`.
        points: Number of points of the curve.
        start: Smallest fraction of kept pixels that enters the AUC.
        end: Largest fraction of kept pixels that enters the AUC.
        replacement: Content of the replaced pixels. "mean": the mean color, which is gray.
            "images": random images, with the probability averaged over `draws` of them.
        bank: Folder with the random images. They must not come from the batch, because the score
            would then depend on the other images in it.
        draws: Number of random images.
        seed: Seed of the choice of the random images.
        ties: Order of pixels of equal value. "order": the later pixel counts as larger, as
            published. "gaussian": the pixel nearer to the center counts as larger.
        top: Number of labels to judge, the most probable ones; None judges all labels.
        batch_size: Number of images in each forward pass.

    Raises:
        ValueError: If an argument is out of range, or a bank is missing or not needed.
    """

    names = ("Completeness", "Soundness")
    needs = ("images", "logits", "explanandum", "explainer")
    speed_only = ("batch_size",)

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.1,
        epsilon1: float = 0.01,
        points: int = 28,
        start: float = 0.0,
        end: float = 1.0,
        replacement: Literal["mean", "images"] = "mean",
        bank: str | None = None,
        draws: int = 40,
        seed: int = 0,
        ties: Literal["order", "gaussian"] = "order",
        top: int | None = None,
        batch_size: int = 16,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__()
        if (replacement == "images") != (bank is not None):
            raise ValueError(
                "replacement must be 'mean', or 'images' with a folder as bank, got "
                f"{replacement!r} and bank {bank!r}"
            )
        if points < 1 or draws < 1 or (top is not None and top < 1):
            raise ValueError(f"expected at least 1, got {points=}, {draws=}, {top=}")
        self.kept = [j / points for j in range(1, points + 1) if start <= j / points <= end]
        if not self.kept:
            raise ValueError(f"none of {points} points lies in [{start}, {end}]")
        self.alpha, self.beta, self.epsilon1 = alpha, beta, epsilon1
        self.replacement, self.bank, self.draws, self.seed = replacement, bank, draws, seed
        self.ties, self.top, self.batch_size = ties, top, batch_size

    def score(
        self, images: Tensor, logits: Tensor, explanandum: Explanandum, explainer: Any
    ) -> dict[str, Tensor]:
        """Completeness and soundness (B,) of images (B, 3, H, W) with logits (B, K)."""
        count = min(self.top or logits.shape[1], logits.shape[1])
        clean, labels = explanandum.to_probabilities(logits).topk(count, dim=1)
        maps = explainer.class_maps(images, labels)
        lost = ~finite(maps)
        maps = maps.nan_to_num()  # of some order; these images get no value
        areas = [
            self.area(explanandum, images, *each)
            for each in zip(maps.unbind(1), labels.unbind(1), clean.unbind(1), strict=True)
        ]
        area = torch.stack(areas, dim=1)
        complete = completeness(area, clean, self.alpha, self.epsilon1)
        return {
            "Completeness": complete.amin(dim=1).masked_fill(lost, torch.nan),
            "Soundness": soundness(area, clean, self.beta).amin(dim=1).masked_fill(lost, torch.nan),
        }

    def area(
        self, explanandum: Explanandum, images: Tensor, maps: Tensor, labels: Tensor, clean: Tensor
    ) -> Tensor:
        """AUC (B,) of labels (B,) with maps (B, H, W) and probabilities `clean` (B,)."""
        size = maps[0].numel()
        counts = [round(share * size) for share in self.kept]
        inner = tuple(c for c in counts if c < size)
        points = [exact(clean)[:, None]] * (len(counts) - len(inner))
        if inner:
            found = curves.run(
                explanandum,
                images,
                gaussian_ranks(maps) if self.ties == "gaussian" else maps,
                F.one_hot(labels, explanandum.num_classes).bool(),
                [curves.Curve(start="fill", fill=f, counts=inner) for f in self._fill(images)],
                self.batch_size,
            )
            points.append(torch.stack([r.probability for r in found]).mean(dim=0))
        return torch.cat(points, dim=1).mean(dim=1)

    def _fill(self, images: Tensor) -> list[Any]:
        if self.bank is None:
            return ["mean"]
        height, width = images.shape[-2:]
        return list(read_bank(self.bank, height, width, self.draws, self.seed, "bilinear"))
