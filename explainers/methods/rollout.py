"""Attention rollout: the attention of all layers, multiplied."""

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum, attention


class AttentionRollout(Explainer):
    """Attention from the class token to the patches, followed through all layers.

    With A_l the attention of layer l, averaged over its heads, M_l is A_l + I with rows divided by
    their sums. The map is the row of the class token of M_L ... M_1, at the columns of the patches.
    It is upsampled bilinearly. It does not depend on the class that is explained. For classifiers
    that have no class token, see `AttentionLayers.rollout`.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, eq. 1.

    Cost for each image: one forward pass.

    Args:
        explanandum: The classifier to explain, a plain vision transformer, see `attention.of`.
        seed: Not used; every method accepts it.

    Raises:
        NotDefinedError: If the attention of the classifier cannot be read.
    """

    class_specific = False

    def __init__(self, explanandum: Explanandum, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        self.layers = attention.of(explanandum)

    @torch.no_grad()
    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0. The patches' values and those of other tokens sum to 1."""
        with attention.tapped(self.explanandum.model, self.layers.names) as taps:
            self.explanandum(images)
        matrices = [attention.detached(taps[name]).mean(dim=1) for name in self.layers.names]
        return self.layers.rollout(matrices, True, images.shape[-2:])

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W), the same for every class, from one forward pass."""
        maps = self.attribute(images, classes)
        return maps[:, None].repeat(1, classes.shape[1], 1, 1)
