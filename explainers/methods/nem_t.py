"""NEMt: a network that finds the smallest part of an image without which the class is lost."""

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
    """Finds the smallest removal that destroys the predicted class.

    A network predicts scores, which are smoothed by a random kernel. Their sigmoid is the mask of
    what is kept. Where it is 0, the image shows the mean color. The mask should be as large as
    possible while the class is lost. The map is 1 - mask. The network is `unet.UNetDecoder` on the
    features of the explanandum. Labels are not used.

    It explains the predicted class only, and warns once if another is requested.

    Source: Moller et al., "NEMt: Fast targeted explanations for medical image models via neural
    explanation masks", NLDL 2025, as trained in the comparison of Ra-NEM's released code.

    Differences from the released code:
        - The skip connections from the image and the last 1x1 convolution of NEMt's own code are
          left out.
        - Outside of training the smoothing kernel is fixed by the seed. The released code draws a
          new one each time.

    Cost: one forward pass of the classifier for each image, and one of the decoder. A training step
    takes a further forward pass and a backward pass for each image.

    Args:
        explanandum: The frozen classifier to explain.
        objective: Loss term that is added to 1 - mean(mask). "inverse": `weight` times the
            probability p of the class for the masked image, as in Ra-NEM's comparison. "original":
            `weight` times 1 - (p - p of the whole image)^2, as in NEMt's code.
        weight: Weight of that term. None selects the published 50 ("inverse") or 2 ("original").
        loss: Classes whose probabilities enter the loss of an image: "row" for its own class, or
            "crossed" for the classes of the whole batch, as in both released codes, see
            `representation.target_probabilities`.
        kernel_size: Odd side of the smoothing kernel, which consists of uniform random numbers with
            sum 1 and wraps around the borders. Each training step draws a new kernel.
        network: Options of the network, see `networks.unet.UNetDecoder`; the defaults are the
            published ones.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`; the published
            optimizer is Prodigy.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument is unknown, or if `kernel_size` is not odd and positive.
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
        """Kernel (1, 1, side, side) of uniform random numbers, scaled to sum 1."""
        kernel = torch.rand(1, 1, self.kernel_size, self.kernel_size, generator=generator)
        return kernel / kernel.sum()

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, H, W) of images (B, 3, H, W) in [0, 1], as one graph; see `RaNEM.forward`."""
        features = self.explanandum.features(images)
        return 1 - self.masks(features, images.shape[-2:], self.kernel)

    def masks(self, features: list[Tensor], size: torch.Size, kernel: Tensor) -> Tensor:
        """Masks (B, *size) of what is kept, from scores smoothed by a kernel (1, 1, side, side)."""
        scores = losses.widen(self.network(features, size))
        smooth = F.conv2d(around(scores, self.kernel_size // 2), kernel.to(scores))
        return losses.widen(smooth).squeeze(1).sigmoid()

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) in [0, 1] of what the predicted class depends on."""
        features, logits = self.explanandum.features_and_logits(images)
        if not self.warned:
            self.warned = representation.asks_for_another_class("NEMt", logits, targets)
        return 1 - self.masks(features, images.shape[-2:], self.kernel)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Removed area and remaining score of the class, both averaged over images."""
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


def around(maps: Tensor, margin: int) -> Tensor:
    """Maps (B, C, H + 2 margin, W + 2 margin), continued periodically from maps (B, C, H, W).

    Unlike circular padding in torch, the margin may be larger than the maps.
    """
    for axis in (2, 3):
        side = maps.shape[axis]
        maps = maps.index_select(
            axis, torch.arange(-margin, side + margin, device=maps.device) % side
        )
    return maps
