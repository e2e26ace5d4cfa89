"""Class activation maps that weight each position, or channels by their share of the logit."""

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.explanandum.gradients import checked_layer
from explainers.explanandum.layer_maps import layer_maps


class LayerCAM(Explainer):
    """Sum of a layer's channels, weighted at each position by the positive part of the gradient.

    Negative sums are set to 0, and the map is upsampled bilinearly.

    Source: Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
    TIP 2021, eq. 6 and 7, for one layer. The fusion of several layers is left out.

    Cost for each image: one forward pass, and for each class one backward pass to the layer.

    Args:
        explanandum: The classifier to explain.
        layer: Name of the layer's module in `explanandum.model`; early layers give fine maps. None
            selects `default_layer`.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If there is no such layer, or it gives no maps.
        NotDefinedError: If no layer is given and no default is found.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, layer: str | None = None, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        self.layer = checked_layer(explanandum, layer)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        return layer_maps(
            self.explanandum, self.layer, images, classes,
            lambda values, grads: (grads.relu() * values).sum(dim=1),
        )  # fmt: skip


class HiResCAM(Explainer):
    """Sum of a layer's channels times the gradients at the same positions.

    Negative sums are set to 0, and the map is upsampled bilinearly. If only a global mean and a
    linear layer follow, this is Grad-CAM.

    Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks", arXiv 2011.08891, eq. 6.

    Cost for each image: one forward pass, and for each class one backward pass to the layer.

    Args:
        explanandum: The classifier to explain.
        layer: Name of the layer's module in `explanandum.model`. None selects `default_layer`.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If there is no such layer, or it gives no maps.
        NotDefinedError: If no layer is given and no default is found.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, layer: str | None = None, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        self.layer = checked_layer(explanandum, layer)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        return layer_maps(
            self.explanandum, self.layer, images, classes,
            lambda values, grads: (grads * values).sum(dim=1),
        )  # fmt: skip


class XGradCAM(Explainer):
    """Sum of a layer's channels, weighted by the means of the gradient under the features.

    The weight of a channel is the sum over its positions of features times gradients, divided by
    the sum of its features. A channel whose features sum to 0 has no weight. Negative sums of
    channels are set to 0, and the map is upsampled bilinearly. Weights are only meaningful for
    features that are not negative, as after a ReLU.

    Source: Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of
    CNNs", BMVC 2020, eq. 8.

    Cost for each image: one forward pass, and for each class one backward pass to the layer.

    Args:
        explanandum: The classifier to explain.
        layer: Name of the layer's module in `explanandum.model`. None selects `default_layer`.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If there is no such layer, or it gives no maps.
        NotDefinedError: If no layer is given and no default is found.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, layer: str | None = None, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        self.layer = checked_layer(explanandum, layer)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        return layer_maps(self.explanandum, self.layer, images, classes, self._combine)

    def _combine(self, values: Tensor, grads: Tensor) -> Tensor:
        total = values.sum(dim=(2, 3))
        shares = (grads * values).sum(dim=(2, 3)) / total.where(total != 0, torch.inf)
        return torch.einsum("bc,bchw->bhw", shares, values)
