"""Gradient methods of the captum library as explainers; they need the extra `baselines`."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.functional.smoothing import smooth_inside

Score = Literal["logit", "probability"]


class Saliency(Explainer):
    """Magnitude of the gradient of the class's score at each pixel, optionally smoothed.

    The gradient is taken with respect to images in [0, 1]. Libraries that differentiate normalized
    images thereby also weight each channel by its `std`.

    Source: Simonyan et al., "Deep Inside Convolutional Networks", ICLR workshop 2014, section 3.1,
    the maximum of |gradient| over the channels.

    Cost for each image and class: one forward and one backward pass.

    Args:
        explanandum: The classifier to explain.
        channels: Reduction of |gradient| over the channels: "max" as published, "mean" or "sum".
        smooth: Odd side of the smoothing kernel in pixels. 1 turns smoothing off.
        sigma: Standard deviation in pixels of a Gaussian kernel. None selects a box kernel.
        score: Score that is differentiated: "logit" as published, or "probability".
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If a choice is unknown, or if `smooth` or `sigma` is out of range.
    """

    needs_gradients = True

    def __init__(
        self,
        explanandum: Explanandum,
        channels: Literal["max", "mean", "sum"] = "max",
        smooth: int = 1,
        sigma: float | None = None,
        score: Score = "logit",
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if smooth < 1 or smooth % 2 == 0 or (sigma is not None and sigma <= 0):
            raise ValueError(
                f"smooth must be odd and sigma positive or None, got {smooth} and {sigma}"
            )
        self.channels, self.smooth, self.sigma, self.score = channels, smooth, sigma, score

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, with a backward pass for each."""
        return torch.stack([self._map(images, column) for column in classes.unbind(1)], dim=1)

    def _map(self, images: Tensor, classes: Tensor) -> Tensor:
        from captum import attr

        inputs = images.detach().requires_grad_()  # otherwise captum does it, with a warning
        method = attr.Saliency(_scores(self.explanandum, self.score))
        sizes: Tensor = method.attribute(inputs, target=classes).detach()  # (B, 3, H, W)
        maps = {"max": sizes.amax(1), "mean": sizes.mean(1), "sum": sizes.sum(1)}[self.channels]
        return smooth_inside(maps, self.smooth, self.sigma)


class IntegratedGradients(Explainer):
    """Mean gradient along the straight path from a baseline to the image, times their difference.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, eq. 1, by
    Gauss-Legendre quadrature.

    Cost for each image and class: `n_steps` forward and `n_steps` backward passes.

    Args:
        explanandum: The classifier to explain.
        n_steps: Number of points of the quadrature. The default is captum's; SLOC's comparison uses
            100.
        baseline: Image at which the path starts: "mean" (zero in normalized space) or "black".
        channels: Reduction of the signed values over the channels. "sum_abs": the sum of the
            absolute values, as in SLOC's comparison. "mean_clamp": the mean, with negative means
            set to 0, as in Ra-NEM's comparison. "sum": the signed sum; over all pixels it adds up
            to score(image) - score(baseline).
        score: Score that is explained, "logit" or "probability".
        internal_batch_size: Number of images in a forward pass, at least that of the batch. It
            changes only the speed: a CPU is fastest with about 8, a GPU with more.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If a choice is unknown or a number is not positive.
    """

    needs_gradients = True
    speed_only = ("internal_batch_size",)

    def __init__(
        self,
        explanandum: Explanandum,
        n_steps: int = 50,
        baseline: Literal["mean", "black"] = "mean",
        channels: Literal["sum_abs", "mean_clamp", "sum"] = "sum_abs",
        score: Score = "logit",
        internal_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if min(n_steps, internal_batch_size) < 1:
            raise ValueError(
                "n_steps and internal_batch_size must be positive, "
                f"got {n_steps} and {internal_batch_size}"
            )
        self.n_steps, self.baseline, self.channels = n_steps, baseline, channels
        self.is_signed = channels == "sum"
        self.score, self.internal_batch_size = score, internal_batch_size

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), signed if `channels` is "sum", otherwise >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, with `n_steps` passes for each."""
        return torch.stack([self._map(images, column) for column in classes.unbind(1)], dim=1)

    def _map(self, images: Tensor, classes: Tensor) -> Tensor:
        from captum import attr

        start = self.explanandum.fill(self.baseline)(images)
        method = attr.IntegratedGradients(_scores(self.explanandum, self.score))
        parts: Tensor = method.attribute(
            images,
            start.expand_as(images),
            target=classes,
            n_steps=self.n_steps,
            internal_batch_size=max(self.internal_batch_size, len(images)),
        ).detach()  # (B, 3, H, W)
        if self.channels == "sum_abs":
            return parts.abs().sum(dim=1)
        return parts.sum(dim=1) if self.channels == "sum" else parts.mean(dim=1).clamp(min=0)


def _scores(explanandum: Explanandum, score: str) -> Callable[[Tensor], Tensor]:
    return explanandum if score == "logit" else explanandum.probabilities
