"""NEM-U: a network that masks the parts of an image that a representation does not depend on."""

from typing import Any

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import losses, masking
from explainers.learned import LearnedExplainer
from explainers.networks import unet
from explainers.networks.unet import UNetOptions
from explainers.optimization import representation
from explainers.optimizers import PRODIGY, OptimizerOptions


class NEMU(LearnedExplainer):
    """Small masks that preserve the classifier's representation of the image.

    The loss balances accuracy and complexity: the representation of the masked image should
    resemble that of the whole image, and the mask should be small. It is

        distance (1 - cosine) / 2 + area mean(mask)

    The network is `unet.UNetDecoder` on the features of the explanandum. Labels are not used. The
    mask explains the representation, so it does not depend on the target.

    Source: Moller et al., "Finding NEM-U: Explaining unsupervised representation learning through
    neural network generated explanation masks", ICML 2024. Neither its text nor its code was
    available. The loss and both weights are inferred from the unsupervised variant in the released
    code of NEMt, 4 (1 - cosine) / 2 + 0.5 mean(mask).

    Cost: one forward pass of the classifier for each image, and one of the decoder. A training step
    takes two further forward passes and a backward pass for each image.

    Args:
        explanandum: The frozen classifier to explain.
        layer: Layer of the representation, see `representation.representation`.
        distance: Weight of the distance between the representations, (1 - cosine) / 2.
        area: Weight of the mean of the mask. Larger weights give smaller masks.
        network: Options of the network, see `networks.unet.UNetDecoder`; the defaults are the
            published ones.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`; the published
            optimizer is Prodigy.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument is unknown.
    """

    is_mask = True
    class_specific = False
    uses_targets = False
    quick = unet.QUICK
    optimizer_defaults = PRODIGY

    def __init__(
        self,
        explanandum: Explanandum,
        layer: int | str = -1,
        distance: float = 4.0,
        area: float = 0.5,
        network: UNetOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        self.layer, self.distance, self.area = layer, distance, area
        self.network = unet.decoder(explanandum, self.complete("network", unet.PUBLISHED))

    def forward(self, images: Tensor) -> Tensor:
        """Masks (B, H, W) of images (B, 3, H, W) in [0, 1], as one graph; see `RaNEM.forward`."""
        return self.masks(self.explanandum.features(images), images.shape[-2:])

    def masks(self, features: list[Tensor], size: torch.Size) -> Tensor:
        """Masks (B, *size) from the explanandum's features."""
        return losses.widen(self.network(features, size)).squeeze(1).sigmoid()

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Masks (B, H, W) in [0, 1] of what the representation depends on, whatever the targets."""
        masks: Tensor = self(images)
        return masks

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Distance of the representations and area of the masks, both averaged over images."""
        images = batch["image"]
        with torch.no_grad():
            features = self.explanandum.features(images)
            whole = representation.representation(self.explanandum, images, self.layer)
        masks = self.masks(features, images.shape[-2:])
        shown = masking.blend(images, masks, self.explanandum.mean)
        found = representation.representation(self.explanandum, shown, self.layer)
        return {
            "distance": self.distance * (1 - representation.similarity(found, whole)).mean(),
            "area": self.area * masks.mean(),
        }
