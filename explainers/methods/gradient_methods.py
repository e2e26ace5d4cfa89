"""Gradients with respect to the image, times the image, or averaged over noise and baselines."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.explanandum.input_gradients import (
    Channels,
    Score,
    input_gradients,
    over_channels,
)
from explainers.functional import fills
from explainers.perturbation.adaptive import Budget, check_tolerance

EARLIEST = 8  # samples before the first decision of SmoothGrad


class GradientTimesInput(Explainer):
    """Gradient of the class's score times the difference of the image from a baseline.

    The products are summed over the channels. With the mean color as the baseline, this is the
    gradient times the input in normalized space, as most libraries compute it. Known as Gradient x
    Input.

    Source: Shrikumar et al., "Not Just a Black Box", arXiv 1605.01713, section 2.

    Cost for each image: one forward pass, and one backward pass for each class.

    Args:
        explanandum: The classifier to explain.
        baseline: Color whose pixels get 0: "mean" (zero in normalized space) or "black".
        channels: Reduction of the products over the channels, see `over_channels`.
        score: Score that is differentiated, "logit" or "probability".
        batch_size: Number of images in a pass. It changes only speed and memory.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If a choice is unknown or `batch_size` is not positive.
    """

    needs_gradients = True
    speed_only = ("batch_size",)

    def __init__(
        self,
        explanandum: Explanandum,
        baseline: Literal["mean", "black"] = "mean",
        channels: Channels = "sum",
        score: Score = "logit",
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.baseline, self.channels, self.score = baseline, channels, score
        self.batch_size, self.is_signed = batch_size, channels == "sum"

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), signed if `channels` is "sum", otherwise >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        beyond = images - self.explanandum.fill(self.baseline)(images)
        grads = input_gradients(self.explanandum, images, classes, self.score, self.batch_size)
        return over_channels(grads * beyond[:, None], self.channels)


class SmoothGrad(Explainer):
    """Gradient of the class's score, averaged over noisy copies of the image.

    Source: Smilkov et al., "SmoothGrad: removing noise by adding noise", arXiv 1706.03825, section
    3, with 50 samples and noise of 10 to 20 percent. The magnitudes of the mean gradient are summed
    over the channels.

    All images and classes get the same noise. It is added to images in [0, 1] and not clipped.

    Cost for each image: `samples` forward passes, and as many backward passes for each class; fewer
    with a `tolerance`.

    Args:
        explanandum: The classifier to explain.
        samples: Number of noisy copies.
        sigma: Standard deviation of the noise, as a fraction of the difference between the largest
            and the smallest value of the image.
        average: What is averaged. "gradient": the gradients, as published. "magnitude": their
            absolute values. "gradient_times_input": the gradients times the differences of the
            noisy copies from the mean color, summed over the channels with their sign; this is how
            Agarwal and Nguyen (ACCV 2020) describe SmoothGrad.
        score: Score that is differentiated, "logit" or "probability".
        batch_size: Number of images in a pass. It changes only speed and memory.
        seed: Seed of the noise.
        tolerance: Standard error of the ranking of the map, see `adaptive.standard_error`, at which
            an image needs no more samples, in (0, 1). It is judged after 8, 16, 32, ... samples. Of
            several classes explained at once, the least certain one counts. None takes all
            `samples`.

    Raises:
        ValueError: If a choice is unknown or a number is out of range.
    """

    needs_gradients = True
    speed_only = ("batch_size",)

    def __init__(
        self,
        explanandum: Explanandum,
        samples: int = 50,
        sigma: float = 0.15,
        average: Literal["gradient", "magnitude", "gradient_times_input"] = "gradient",
        score: Score = "logit",
        batch_size: int = 16,
        seed: int = 0,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(explanandum, seed)
        _check(samples, batch_size, sigma)
        check_tolerance(tolerance, samples, EARLIEST)
        self.tolerance = tolerance
        self.samples, self.sigma, self.average, self.score = samples, sigma, average, score
        self.batch_size, self.is_signed = batch_size, average == "gradient_times_input"

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0, or signed with "gradient_times_input"."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from the same forward passes."""
        span = images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True)
        mean = self.explanandum.mean.to(images)
        budget = Budget(self.samples, self.tolerance, len(images), EARLIEST)
        total = images.new_zeros(budget.parts, *classes.shape, *images.shape[1:])
        for noise in budget.samples(self._noise(images)):
            rows = budget.rows
            noisy = images[rows] + self.sigma * span[rows] * noise[:, None]  # (n, R, 3, H, W)
            grads = self._gradients(noisy, classes[rows])
            if self.average == "magnitude":
                grads = grads.abs()
            elif self.average == "gradient_times_input":
                grads = grads * (noisy - mean)[:, :, None]
            for result, part in zip(total, budget.slices(), strict=True):
                result[rows] += grads[part].sum(dim=0)
            if budget.is_due:
                budget.settle(self._map(total[:, rows]))
        total = total.sum(dim=0)
        return self._map(total / budget.counts(total))

    def _noise(self, images: Tensor) -> Iterator[Tensor]:
        """Noise (n, 3, H, W) for all images, in the groups of `_groups`."""
        generator = self.generator()
        for count in _groups(self.samples, self.batch_size, images):
            draws = [torch.randn(images.shape[1:], generator=generator) for _ in range(count)]
            yield torch.stack(draws).to(images)

    def _map(self, mean: Tensor) -> Tensor:
        return over_channels(mean, "sum" if self.is_signed else "sum_abs")

    def _gradients(self, noisy: Tensor, classes: Tensor) -> Tensor:
        return _grouped(self.explanandum, noisy, classes, self.score, self.batch_size)


class GradientSHAP(Explainer):
    """Mean gradient between baselines and noisy copies of the image, times their differences.

    Each sample is drawn at a uniformly random place between a baseline b and the image plus noise,
    x + e: it contributes (x + e - b) * gradient(b + a (x + e - b)). With a single baseline and no
    noise, this estimates integrated gradients. With baselines drawn from photographs, it is known
    as expected gradients: without noise, the sum over the map then estimates how far the score of
    the image exceeds the mean score of the photographs.

    Source: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017,
    released as GradientExplainer; Erion et al., "Improving performance of deep learning models with
    axiomatic attribution priors and expected gradients", Nature Machine Intelligence 2021, eq. 3.
    The defaults of the numbers are captum's; Ra-NEM's comparison has `sigma` 0.1, the mean color
    and "mean_clamp".

    All images and classes get the same places, noise and photographs.

    Cost for each image: `samples` forward passes, and as many backward passes for each class.

    Args:
        explanandum: The classifier to explain.
        samples: Number of samples. Photographs as baselines need many, such as 100.
        baseline: Kind of baseline: "mean" (zero in normalized space), "black", "blur" (the image
            after a Gaussian blur of 10 pixels), or "images", drawn from the photographs of `bank`.
        bank: Folder of photographs for the baseline "images". Each is resized to the size of the
            explained images.
        sigma: Standard deviation of the noise that is added to images in [0, 1].
        channels: Reduction of the signed values over the channels, see `over_channels`.
        score: Score that is explained, "logit" or "probability".
        batch_size: Number of images in a pass. It changes only speed and memory.
        seed: Seed of the places, the noise and the draw of photographs.

    Raises:
        ValueError: If a choice is unknown, a number is out of range, or only one of "images" and
            `bank` is given.
    """

    needs_gradients = True
    speed_only = ("batch_size",)

    def __init__(
        self,
        explanandum: Explanandum,
        samples: int = 5,
        baseline: Literal["mean", "black", "blur", "images"] = "mean",
        bank: str | None = None,
        sigma: float = 0.0,
        channels: Channels = "sum_abs",
        score: Score = "logit",
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        _check(samples, batch_size, sigma)
        if (baseline == "images") != (bank is not None):
            raise ValueError(
                "baseline must be 'images' with a folder of photographs as bank, or another one "
                f"without, got {baseline!r} and bank {bank!r}"
            )
        self.samples, self.baseline, self.bank, self.sigma = samples, baseline, bank, sigma
        self.channels, self.score, self.batch_size = channels, score, batch_size
        self.is_signed = channels == "sum"

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), signed if `channels` is "sum", otherwise >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from the same forward passes."""
        shape, generator = images.shape[1:], self.generator()
        bank = fills.read_bank(self.bank, shape[1], shape[2]) if self.bank else None
        fixed = None if bank is not None else self.explanandum.fill(self.baseline)(images)
        total = images.new_zeros(*classes.shape, *shape)
        for count in _groups(self.samples, self.batch_size, images):
            drawn = [self._draw(shape, bank, generator) for _ in range(count)]
            places, noise, chosen = (
                torch.stack(each).to(images) for each in zip(*drawn, strict=True)
            )
            start = chosen[:, None] if fixed is None else fixed
            way = images + noise[:, None] - start  # (count, B, 3, H, W)
            points = start + places.view(-1, 1, 1, 1, 1) * way
            grads = _grouped(self.explanandum, points, classes, self.score, self.batch_size)
            total += (grads * way[:, :, None]).sum(dim=0)
        return over_channels(total / self.samples, self.channels)

    def _draw(
        self, shape: torch.Size, bank: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Place on the path, noise (3, H, W) and photograph (3, H, W) of a sample."""
        place = torch.rand((), generator=generator)
        noise = torch.zeros(shape)
        if self.sigma:
            noise = self.sigma * torch.randn(shape, generator=generator)
        if bank is None:
            return place, noise, torch.empty(0)
        return place, noise, bank[int(torch.randint(len(bank), (), generator=generator))]


def _check(samples: int, batch_size: int, sigma: float) -> None:
    if min(samples, batch_size) < 1 or sigma < 0:
        raise ValueError(
            "samples and batch_size must be positive and sigma not negative, "
            f"got {samples}, {batch_size} and {sigma}"
        )


def _groups(samples: int, batch_size: int, images: Tensor) -> Iterator[int]:
    """Numbers of samples that are taken together, so that their images fill a pass."""
    size = max(1, batch_size // len(images))
    for done in range(0, samples, size):
        yield min(size, samples - done)


def _grouped(
    explanandum: Explanandum, points: Tensor, classes: Tensor, score: Score, batch_size: int
) -> Tensor:
    """Gradients (n, B, k, 3, H, W) at n points (n, B, 3, H, W) for each image."""
    repeated = classes.repeat(len(points), 1)
    found = input_gradients(explanandum, points.flatten(0, 1), repeated, score, batch_size)
    return found.view(*points.shape[:2], *found.shape[1:])
