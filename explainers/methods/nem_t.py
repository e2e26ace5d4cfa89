"""NEMt: a network that masks what the predicted class would survive without."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional import losses, masking
from explainers.learned import LearnedExplainer
from explainers.networks import unet
from explainers.networks.unet import UNetOptions
from explainers.optimization import representation
from explainers.optimizers import PRODIGY, OptimizerOptions


class NEMt(LearnedExplainer):
    """The least removal that destroys the predicted class: 1 - mask.

    Source: Moller et al., "NEMt: Fast targeted explanations for medical image models via neural
    explanation masks", NLDL 2025, as Ra-NEM's released comparison trains it. The mask is the
    sigmoid of the scores smoothed by a random kernel, and the mean colour shows where it is 0. It
    should be as large as possible while the class is gone. The network is `unet.UNetDecoder` on
    the explanandum's own features; NEMt's own code adds skips from the image and a last 1x1
    convolution, which are left out. Labels are not used.

    It explains the predicted class only, and warns once if asked for another.

    Args:
        explanandum: The frozen classifier to explain.
        objective: Besides 1 - mean(mask), either "inverse": `weight` times the class probability p
            that is left, as in Ra-NEM's comparison; or "original": `weight` times
            1 - (p - p of the whole image)^2, as in NEMt's code.
        weight: None takes the published 50 ("inverse") or 2 ("original").
        loss: "row", or "crossed" as in both released codes, see
            `representation.target_probabilities`.
        kernel_size: Odd side of the smoothing kernel of uniform random numbers with sum 1, wrapped
            around the borders; a new one in each training step, and always the seed's own one
            otherwise (published: a new one each time there too).
        network: Options of the network, see `networks.unet.UNetDecoder`; the defaults are the
            published ones.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`; Prodigy is
            published.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument is unknown or the kernel's side is not odd.
    """

    is_mask = True
    class_specific = False
    uses_targets = False
    quick = unet.QUICK
    optimizer_defaults = PRODIGY

    kernel: Tensor

    def __init__(
        self,
        explanandum: Explanandum,
        objective: Literal["inverse", "original"] = "inverse",
        weight: float | None = None,
        loss: Literal["row", "crossed"] = "row",
        kernel_size: int = 21,
        network: UNetOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        self.objective = objective
        self.weight = {"inverse": 50.0, "original": 2.0}[objective] if weight is None else weight
        self.loss: Literal["row", "crossed"] = loss
        self.kernel_size = kernel_size
        self.register_buffer("kernel", self.draw_kernel(self.generator()), persistent=False)
        self.network = unet.decoder(explanandum, self.complete("network", unet.PUBLISHED))
        self.warned = False

    def draw_kernel(self, generator: torch.Generator) -> Tensor:
        """Uniform random numbers (1, 1, side, side), scaled to sum 1."""
        kernel = torch.rand(1, 1, self.kernel_size, self.kernel_size, generator=generator)
        return kernel / kernel.sum()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> maps (B, H, W), as one graph; see `RaNEM.forward`."""
        features = self.explanandum.features(images)
        return 1 - self.masks(features, images.shape[-2:], self.kernel)

    def masks(self, features: list[Tensor], size: torch.Size, kernel: Tensor) -> Tensor:
        """Masks (B, *size) of what stays, smoothed by a kernel (1, 1, side, side)."""
        scores = losses.widen(self.network(features, size))
        padded = F.pad(scores, [self.kernel_size // 2] * 4, mode="circular")
        smooth = F.conv2d(padded, kernel.to(scores))
        return losses.widen(smooth).squeeze(1).sigmoid()

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mask (B, H, W) in [0, 1] of what the predicted class depends on."""
        self.check_inputs(images, targets)
        features, logits = self.explanandum.features_and_logits(images)
        if not self.warned:
            self.warned = representation.asks_for_another_class("NEMt", logits, targets)
        return 1 - self.masks(features, images.shape[-2:], self.kernel)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """What is removed, and how much of the class is left; each the mean over images."""
        images = batch["image"]
        with torch.no_grad():
            features, logits = self.explanandum.features_and_logits(images)
        kernel = self.draw_kernel(generator) if self.training else self.kernel
        masks = self.masks(features, images.shape[-2:], kernel)
        shown = masking.blend(images, masks, self.explanandum.mean)
        classes = logits.argmax(dim=1)
        left = representation.target_probabilities(
            self.explanandum.probabilities(shown), classes, self.loss
        )
        if self.objective == "original":
            whole = representation.target_probabilities(
                self.explanandum.to_probabilities(logits), classes, self.loss
            )
            left = 1 - (left - whole) ** 2
        return {"area": 1 - masks.mean(), "class": self.weight * left.mean()}
