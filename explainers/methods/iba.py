"""Information bottleneck for attribution: how much information of a layer the class needs."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.explanandum import Explanandum, layouts
from explainers.explanandum.gradients import checked_layer
from explainers.explanandum.neurons import FeatureStatistics, Grid, from_neurons, on_map, to_neurons
from explainers.explanandum.taps import replaced
from explainers.functional.losses import log_odds
from explainers.functional.planes import resize
from explainers.functional.smoothing import smooth_mirrored
from explainers.optimization.pairs import Tick, minimize, solve_pairs


class IBA(Explainer):
    """Information, in bits, that each position of a layer must transmit to preserve the class.

    Each feature R of one layer is mixed with noise that has the mean and variance of the feature:

        Z = lambda R + (1 - lambda) N(mean, std^2),  lambda = sigmoid(alpha)

    For each image and class, Adam minimizes over alpha the cross-entropy of the class plus `beta`
    times the mean over the features of KL(p(Z | R) || N(mean, std^2)), the information that Z
    carries about R. The map is this information summed over the channels and resized bilinearly to
    the image. It is scaled to preserve its sum, so that its unit is bits per pixel.

    The mean and standard deviation of every feature are estimated from images. `train.py fit` reads
    the training images once, learns nothing else and stops. The checkpoint holds the statistics. In
    Python, call `estimate` for each batch of images.

    Source: Schulz et al., "Restricting the Flow: Information Bottlenecks for Attribution", ICLR
    2020, section 3 (the per-sample bottleneck), and the released code.

    Differences from the released code:
        - The map is computed from alpha after the last step, not before it: the 10 published
          iterations are 9 `steps`.
        - Resizing repeats the border of the map and preserves its sum exactly. The released code
          mirrors the border and scales by the ratio of the areas, so that the sum changes a little.
        - Images of any size are accepted. The statistics are then resized bilinearly.
        - With sigmoid heads the cross-entropy is that of the explained class alone.
        - Tokens that are not positions of the image (class and register tokens) pass the bottleneck
          without smoothing, and their information is not part of the map.

    Cost: 1 + `steps` * `samples` forward passes for each image and class, and `steps` * `samples`
    backward passes from the logits to the layer.

    Args:
        explanandum: The classifier to explain.
        layer: Name of the layer's module in `explanandum.model`. None selects the layer that
            `default_layer` finds in the middle of the network.
        relu: Whether the layer's features are never negative, so that mixtures are clamped at 0.
            None means True if no image of the statistics had a negative feature.
        beta: Weight of the information, in nats averaged over the features, relative to the
            cross-entropy.
        steps: Number of steps of Adam; 9 as published, see above.
        lr: Learning rate of Adam.
        samples: Number of noise samples in each step, the same for every image.
        start: Initial value of alpha. At 5 the features pass almost unchanged.
        sigma: Standard deviation of the Gaussian that smooths lambda, in positions of the layer. It
            is cut at 2 sigma and the borders are mirrored. 0 turns smoothing off.
        least_std: Lower bound of the standard deviations of the features.
        images: Number of images from which a fit estimates the statistics; 10000 as published.
        pairs: Number of image-class pairs that are optimized side by side, with `samples` images
            each. It changes only speed and memory.
        seed: Seed of the noise.

    Raises:
        ValueError: If a number is out of range, or if there is no such layer or it gives no maps.
        NotDefinedError: If no layer is given and no default is found.
    """

    needs_gradients = True
    speed_only = ("pairs",)

    def __init__(
        self,
        explanandum: Explanandum,
        layer: str | None = None,
        relu: bool | None = None,
        beta: float = 10.0,
        steps: int = 10,
        lr: float = 1.0,
        samples: int = 10,
        start: float = 5.0,
        sigma: float = 1.0,
        least_std: float = 0.01,
        images: int = 10000,
        pairs: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if min(steps, samples, pairs) < 1 or images < 2 or min(lr, least_std) <= 0:
            raise ValueError(
                "steps, samples, pairs, lr and least_std must be positive and images at least 2, "
                f"got {steps}, {samples}, {pairs}, {lr}, {least_std} and {images}"
            )
        if min(beta, sigma) < 0:
            raise ValueError(f"beta and sigma must not be negative, got {beta} and {sigma}")
        self.layer = checked_layer(explanandum, layer, "middle")
        self.relu, self.beta, self.steps, self.lr, self.samples = relu, beta, steps, lr, samples
        self.start, self.sigma, self.least_std = start, sigma, least_std
        self.images, self.pairs = images, pairs
        self.layout = layouts.of(explanandum, self.layer)
        self.statistics = FeatureStatistics()

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0 in bits per pixel.

        Raises:
            ValueError: If the statistics have not been estimated.
        """
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, optimized separately."""
        if self.statistics.images < 2:
            raise ValueError(
                "IBA does not know the layer's features yet: load a checkpoint of "
                "`train.py fit -c configs/methods/iba.yaml ...`, or call estimate(images) first"
            )
        return solve_pairs(self._solve, images, classes, self.steps, self.pairs, "IBA")

    def _solve(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        neurons, grid = self._neurons(images)
        mean, std, active = self.statistics.read(grid, self.least_std)
        lowest = 0.0 if self._rectified() else -math.inf
        normal, generator = (neurons - mean) / std, self.generator()
        wanted = classes.repeat_interleave(self.samples)
        shown = images.repeat_interleave(self.samples, dim=0)

        def noise_share(alpha: Tensor) -> Tensor:  # 1 - lambda, precise where lambda is near 1
            return on_map((-alpha).sigmoid(), grid, lambda maps: smooth_mirrored(maps, self.sigma))

        def objective(alpha: Tensor, step: int) -> Tensor:
            noise = torch.randn(self.samples, *normal.shape[1:], generator=generator).to(normal)
            share = noise_share(alpha)
            mixed = ((1 - share) * normal).unsqueeze(1) + share.unsqueeze(1) * noise
            passed = ((mean + std * mixed) * active).clamp(min=lowest).flatten(0, 1)
            logits = self._logits(shown, passed)
            odds = log_odds(logits, wanted, self.explanandum.multi_label)
            error = F.softplus(-odds).view(-1, self.samples).mean(dim=1)  # -ln p
            return error + self.beta * (information(normal, share) * active).mean(dim=(1, 2))

        alpha = minimize(
            objective,
            torch.full_like(normal, self.start),
            self.steps,
            lambda parameters: torch.optim.Adam(parameters, lr=self.lr),
            tick,
        )
        nats = (information(normal, noise_share(alpha)) * active).sum(dim=1)  # (n, P)
        bits = nats[:, -grid[0] * grid[1] :].reshape(-1, *grid) / math.log(2)
        large = resize(bits, (images.shape[-2], images.shape[-1]))
        return large * (_total(bits) / _total(large).clamp(min=torch.finfo(large.dtype).tiny))

    def _rectified(self) -> bool:
        return bool(self.statistics.lowest >= 0) if self.relu is None else self.relu

    def _logits(self, images: Tensor, neurons: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W), with the layer's output replaced by `neurons`.

        Args:
            images: Images (B, 3, H, W) in [0, 1].
            neurons: Features (B, C, P) of the layer, in the form of `to_neurons`.
        """

        def lay(output: Tensor) -> Tensor:
            return from_neurons(neurons, output, self.layout)

        with replaced(self.explanandum.model, self.layer, lay):
            logits: Tensor = self.explanandum(images)
        return logits

    @torch.no_grad()
    def estimate(self, images: Tensor) -> None:
        """Add images (B, 3, H, W) in [0, 1] to the statistics of the layer's features.

        Raises:
            ValueError: If earlier images had a different size.
        """
        self.statistics.update(*self._neurons(images))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Add a batch to the statistics and end the fit once there are enough images."""
        self.estimate(batch["image"])
        self.trainer.should_stop = bool(self.statistics.images >= self.images)
        return self._loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Do nothing, because the statistics have no loss."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD on a loss that is always 0.

        It changes nothing, but Lightning counts optimizer steps to decide when to save.
        """
        self._loss = torch.zeros((), device=self.device, requires_grad=True)
        return torch.optim.SGD([self._loss], lr=0.0)

    @torch.no_grad()
    def _neurons(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Features of the layer for images (B, 3, H, W), in the form of `to_neurons`."""
        found: list[tuple[Tensor, Grid]] = []

        def look(output: Tensor) -> Tensor:
            found.append(to_neurons(output, self.layout, images.shape))
            return output

        with replaced(self.explanandum.model, self.layer, look):
            self.explanandum(images)
        return found[0]


def information(normal: Tensor, share: Tensor) -> Tensor:
    """KL divergence KL(N((1 - s) x, s^2) || N(0, 1)) in nats, for each feature.

    Args:
        normal: Features x, normalized to mean 0 and variance 1.
        share: Shares s of the noise in [0, 1], of the same shape.

    Example:
        >>> information(torch.tensor([0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 0.5]))
        tensor([0.0000, 0.0000, 0.8181])
    """
    share = share.clamp(min=torch.finfo(share.dtype).tiny)
    return (((1 - share) * normal).square() + share.square() - 1) / 2 - share.log()


def _total(maps: Tensor) -> Tensor:
    return maps.sum(dim=(-2, -1), keepdim=True)
