"""Class activation maps: features of a layer, combined with the gradients of the class."""

from abc import abstractmethod

import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum, features
from explainers.explanandum.gradients import checked_layer, pyramid_maps
from explainers.explanandum.layer_maps import layer_maps


class ActivationMap(Explainer):
    """Base class of methods that combine the features of one layer with their gradients.

    Negative values are set to 0, and the map is upsampled bilinearly. Unlike in pytorch-grad-cam,
    it is not rescaled. Cost for each image: one forward pass, and for each class one backward pass
    to the layer.

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

    @abstractmethod
    def combine(self, values: Tensor, grads: Tensor) -> Tensor:
        """Maps (B, h, w) of features (B, C, h, w) and of the logit's gradients by them."""

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        return layer_maps(self.explanandum, self.layer, images, classes, self.combine)


class GradCAM(ActivationMap):
    """Sum of a layer's channels, weighted by the spatial means of the gradient of the class.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, eq. 1 and 2. Arguments: see `ActivationMap`.
    """

    def combine(self, values: Tensor, grads: Tensor) -> Tensor:
        """Maps (B, h, w)."""
        return (grads.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1)


class GradCAMPlusPlus(ActivationMap):
    """Sum of a layer's channels, weighted by the positive gradients of the class.

    The weight of a channel is the sum over its positions of relu(g) / (2 + g S), where g is the
    gradient of the logit and S the sum of the channel's features. The positions of a channel thus
    count more if S is small. If features can be negative, the denominator can be 0, so a negative S
    counts as 0. Negative sums of channels are set to 0, and the map is upsampled bilinearly.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018, eq. 7 and 19, for the exponential of the
    logit, without the factor that all its derivatives share.

    Args:
        explanandum: The classifier to explain.
        layer: Name of the layer's module in `explanandum.model`. None selects `default_layer`.
        eps: None selects the weights above. A number selects those of pytorch-grad-cam, which adds
            it (there 1e-6) to a denominator of squared gradients and lets S be negative. Compared
            with squared gradients, 1e-6 is not small.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If there is no such layer, it gives no maps, or eps <= 0.
        NotDefinedError: If no layer is given and no default is found.
    """

    def __init__(
        self,
        explanandum: Explanandum,
        layer: str | None = None,
        eps: float | None = None,
        seed: int = 0,
    ) -> None:
        if eps is not None and eps <= 0:
            raise ValueError(f"eps must be positive or None, got {eps}")
        super().__init__(explanandum, layer, seed)
        self.eps = eps

    def combine(self, values: Tensor, grads: Tensor) -> Tensor:
        """Maps (B, h, w)."""
        return (self._weights(values, grads)[:, :, None, None] * values).sum(dim=1)

    def _weights(self, values: Tensor, grads: Tensor) -> Tensor:
        total, up = values.sum(dim=(2, 3), keepdim=True), grads.relu()
        if self.eps is None:
            return (up / (2 + up * total.relu())).sum(dim=(2, 3))
        shares = grads**2 / (2 * grads**2 + total * grads**3 + self.eps)
        return (up * shares).sum(dim=(2, 3))


class LayerCAM(ActivationMap):
    """Sum of a layer's channels, weighted at each position by the positive part of the gradient.

    Source: Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
    TIP 2021, eq. 6 and 7, for one layer. The fusion of several layers is left out. Arguments: see
    `ActivationMap`.
    """

    def combine(self, values: Tensor, grads: Tensor) -> Tensor:
        """Maps (B, h, w)."""
        return (grads.relu() * values).sum(dim=1)


class HiResCAM(ActivationMap):
    """Sum of a layer's channels times the gradients at the same positions.

    If only a global mean and a linear layer follow, this is Grad-CAM.

    Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks", arXiv 2011.08891, eq. 6. Arguments: see `ActivationMap`.
    """

    def combine(self, values: Tensor, grads: Tensor) -> Tensor:
        """Maps (B, h, w)."""
        return (grads * values).sum(dim=1)


class XGradCAM(ActivationMap):
    """Sum of a layer's channels, weighted by the means of the gradient under the features.

    The weight of a channel is the sum over its positions of features times gradients, divided by
    the sum of its features. A channel whose features sum to 0 has no weight. Weights are only
    meaningful for features that are not negative, as after a ReLU.

    Source: Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of
    CNNs", BMVC 2020, eq. 8. Arguments: see `ActivationMap`.
    """

    def combine(self, values: Tensor, grads: Tensor) -> Tensor:
        """Maps (B, h, w)."""
        total = values.sum(dim=(2, 3))
        shares = (grads * values).sum(dim=(2, 3)) / total.where(total != 0, torch.inf)
        return torch.einsum("bc,bchw->bhw", shares, values)


class PyramidCAM(Explainer):
    """Sum over all stages of the network of the positive part of features times gradients.

    The map of a stage is the sum over its channels of features times gradients of the log-odds of
    the class, with negative values set to 0. This is HiResCAM's map of the stage (Draelos and
    Carin, arXiv 2011.08891, eq. 6). Here it is standardized and upsampled bilinearly. The sum of
    these maps, standardized again, combines coarse and fine evidence for the class. The fusion of
    stages is an idea of LayerCAM (Jiang et al., TIP 2021), which takes the maximum over a few of
    them.

    Source: none published for the sum.

    Cost for each image: one forward pass, and one backward pass for each class.

    Args:
        explanandum: The classifier to explain. Its stages are its `feature_layers`, or else those
            that timm lists, or those that `features.found_stages` finds.
        seed: Not used; every method accepts it.

    Raises:
        NotDefinedError: If the stages of the classifier are not known.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        features.stages(explanandum)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) with mean 0 and variance 1."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        return pyramid_maps(self.explanandum, images, classes)
