"""Generic attention explainability: attention times its gradients, through all layers."""

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum, attention


class GAE(Explainer):
    """Attention times its gradients, from the class token to the patches through all layers.

    With A_l the attention of layer l and y the logit of the class, C_l is the positive part of
    A_l * dy/dA_l, averaged over the heads. The relevance R starts as I, and each layer adds C_l R
    to it. The map is the row of the class token, at the columns of the patches. It is upsampled
    bilinearly. For classifiers that have no class token, see `AttentionLayers.rollout`.

    Source: Chefer et al., "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", ICCV 2021, eq. 5 and 6, for self-attention.

    Cost for each image: one forward pass, and one backward pass for each class.

    Args:
        explanandum: The classifier to explain, a plain vision transformer, see `attention.of`.
        seed: Not used; every method accepts it.

    Raises:
        NotDefinedError: If the attention of the classifier cannot be read.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        self.layers = attention.of(explanandum)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        with attention.tapped(self.explanandum.model, self.layers.names) as taps:
            logits = self.explanandum(images)
        values, maps = [taps[name] for name in self.layers.names], []
        for column in classes.unbind(1):
            score = logits.gather(1, column[:, None]).sum()
            slopes = torch.autograd.grad(score, values, retain_graph=True)
            matrices = [
                (attention.detached(value) * attention.detached(slope)).relu().mean(dim=1)
                for value, slope in zip(values, slopes, strict=True)
            ]
            maps.append(self.layers.rollout(matrices, False, images.shape[-2:]))
        return torch.stack(maps, dim=1)
