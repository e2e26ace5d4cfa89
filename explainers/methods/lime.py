"""LIME: a linear model that predicts the probability of the class from the superpixels kept."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional import content
from explainers.functional.fills import FillChoice
from explainers.functional.regions import superpixels
from explainers.perturbation.kept_regions import kept_logits
from explainers.perturbation.viewer import Viewer

ALPHA = {"released": 1.0, "paper": 0.001}


class LIME(Explainer):
    """Gives each pixel the coefficient of its superpixel in a linear model of the probability.

    The coefficient is what keeping the superpixel adds to the probability of the class. SLIC
    computes the superpixels, which depend on the image alone. A sample is an image in which some
    superpixels are kept and the others replaced. The first sample keeps all superpixels; all other
    samples keep each superpixel with probability 1/2. The argument `form` selects the linear model:
        - "released": ridge regression weighted by exp(-d^2 / 0.25^2)^(1/2), where d is the cosine
          distance of the sample from the first one.
        - "paper": LASSO with the same kernel, where d is the L2 distance of the images. The paper
          specifies neither the width of the kernel nor the penalty. This implementation divides the
          distance by that of the image with nothing kept. It minimizes half the weighted mean
          squared error plus `alpha` sum |coefficient|, and takes the paper's 1000 steps as steps of
          proximal gradient descent.

    Shapley values of the same superpixels are the maps of `KernelSHAP`.

    Source: Ribeiro, Singh & Guestrin, "Why Should I Trust You?", KDD 2016, as used in Agarwal &
    Nguyen, "Explaining image classifiers by removing input features using generative models", ACCV
    2020, section 3.4, and their released code.

    Differences from the released code:
        - SLIC is that of the current scikit-image.
        - The fill is exact. The released code rounds the mean color to 8 bits.

    The feature selection of the released code keeps all superpixels, as this implementation does.

    Cost for each image, whatever the number of classes: `samples` forward passes. Inside
    `kept_regions.sharing`, subsets that another row has shown cost nothing: the forms share all.

    Args:
        explanandum: The classifier to explain; only its probabilities are used.
        samples: Number of samples; 500 in the released code, 1000 in the paper.
        segments: Approximate number of superpixels of SLIC.
        compactness: Compactness of SLIC. Larger values give squarer superpixels.
        sigma: Width in pixels of the blur that SLIC applies first.
        form: Linear model, see above.
        alpha: Weight of the penalty. None selects 1 for ridge regression, as published, and 0.001
            for LASSO.
        fill: Content that replaces superpixels, see `fills.fill`; "mean" as published. "images" is
            not allowed.
        batch_size: Number of samples in a forward pass; it does not change the maps.
        seed: Seed of the samples and of the fill "noise".

    Raises:
        ValueError: If a number is out of range or an option is unknown.
    """

    is_signed = True
    speed_only = ("batch_size",)
    quick: ClassVar = {"samples": 200}

    def __init__(
        self,
        explanandum: Explanandum,
        samples: int = 1000,
        segments: int = 50,
        compactness: float = 30.0,
        sigma: float = 3.0,
        form: Literal["released", "paper"] = "released",
        alpha: float | None = None,
        fill: FillChoice = "mean",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if samples < 2 or min(segments, batch_size) < 1 or compactness <= 0 or sigma < 0:
            raise ValueError(
                "expected samples >= 2, segments and batch_size >= 1, compactness > 0 and "
                f"sigma >= 0, got {samples}, {segments}, {batch_size}, {compactness} and {sigma}"
            )
        if alpha is not None and alpha <= 0:
            raise ValueError(f"alpha must be positive, or None for that of the form, got {alpha}")
        self.samples, self.segments = samples, segments
        self.compactness, self.sigma, self.form = compactness, sigma, form
        self.alpha = ALPHA[form] if alpha is None else alpha
        self.fill, self.batch_size = fill, batch_size

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Signed maps (B, H, W), constant within each superpixel."""
        return self.merged_map(images, targets)

    @torch.no_grad()
    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one set of forward passes."""
        total = self.samples * len(images)
        viewer = Viewer(self.explanandum, images, self.batch_size, title="LIME", total=total)
        with viewer.bar:
            maps = [self._explain(viewer, *each) for each in zip(images, classes, strict=True)]
        return torch.stack(maps)

    def superpixels(self, image: Tensor) -> Tensor:
        """Superpixel indices (H, W) int64, counted from 0, of an image (3, H, W) in [0, 1]."""
        return superpixels(image, self.segments, self.compactness, self.sigma)

    def _explain(self, viewer: Viewer, image: Tensor, classes: Tensor) -> Tensor:
        """Maps (k, H, W) of an image (3, H, W) and its classes (k,)."""
        generator = self.generator()
        fills = content.behind(self.explanandum.fill(self.fill, generator), image[None])
        fill = content.first(fills)
        segments = self.superpixels(image)
        count = int(segments.max()) + 1
        kept = torch.rand(self.samples, count, generator=generator) < 0.5
        kept[0] = True
        logits = kept_logits(viewer, image, fill, segments, kept)
        scores = self.explanandum.to_probabilities(logits)[:, classes]
        kept, scores = kept.double(), scores.double().cpu()  # (N, S) and (N, k)
        if self.form == "released":
            found = ridge(kept, scores, kernel(1 - kept.mean(dim=1).sqrt()), self.alpha)
        else:
            empty = content.pixels_without_image(fills, image[None])[0]
            energy = (image - empty).square().sum(dim=0).double().flatten().cpu()
            energy = torch.bincount(segments.flatten().cpu(), energy, minlength=count)
            share = energy / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny)
            found = lasso(kept, scores, kernel(((1 - kept) @ share).sqrt()), self.alpha)
        return found.mT.to(image)[:, segments]


def kernel(distances: Tensor, width: float = 0.25) -> Tensor:
    """Weights exp(-d^2 / width^2)^(1/2) of distances d, as in the released code."""
    return (-0.5 * (distances / width).square()).exp()


def ridge(samples: Tensor, scores: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Coefficients (S, k) of a ridge regression with an intercept that is not penalized.

    They minimize sum w (score - intercept - samples @ coefficients)^2 + alpha sum coefficients^2.

    Args:
        samples: Samples (N, S).
        scores: Scores (N, k). Each column is a separate regression.
        weights: Weights w (N,) of the samples, not all 0.
        alpha: Positive weight of the penalty.
    """
    samples, scores = _centred(samples, scores, weights)
    gram = samples.mT @ (weights[:, None] * samples)
    penalty = alpha * torch.eye(len(gram), dtype=gram.dtype)
    found: Tensor = torch.linalg.solve(gram + penalty, samples.mT @ (weights[:, None] * scores))
    return found


def lasso(
    samples: Tensor, scores: Tensor, weights: Tensor, alpha: float, steps: int = 1000
) -> Tensor:
    """Coefficients (S, k) of a LASSO with an intercept, by proximal gradient descent from 0.

    They minimize sum w (score - intercept - samples @ coefficients)^2 / (2 sum w)
    + alpha sum |coefficients|.

    Args:
        samples: Samples (N, S).
        scores: Scores (N, k). Each column is a separate regression.
        weights: Weights w (N,) of the samples, not all 0.
        alpha: Positive weight of the penalty.
        steps: Number of steps.
    """
    samples, scores = _centred(samples, scores, weights)
    weighted = samples.mT * (weights / weights.sum())
    gram, slope = weighted @ samples, weighted @ scores
    rate = 1 / torch.linalg.matrix_norm(gram, ord=2).clamp(min=1e-12)
    found = torch.zeros_like(slope)
    for _ in range(steps):
        moved = found + rate * (slope - gram @ found)
        found = moved.sign() * (moved.abs() - rate * alpha).clamp(min=0)
    return found


def _centred(samples: Tensor, scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Samples and scores minus their weighted means, which is equivalent to an intercept."""
    share = weights / weights.sum()
    return samples - share @ samples, scores - share @ scores
