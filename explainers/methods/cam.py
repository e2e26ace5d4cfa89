"""Class activation maps: features of a layer, weighted by the gradients of the class."""

from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum, features
from explainers.explanandum.gradients import (
    activation_maps,
    checked_layer,
    pyramid_maps,
)


class GradCAM(Explainer):
    """Sum of a layer's channels, weighted by the spatial means of the gradient of the class.

    Negative sums are set to 0, and the map is upsampled bilinearly. Unlike in pytorch-grad-cam, it
    is not rescaled.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, eq. 1 and 2.

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
        return activation_maps(
            self.explanandum, self.layer, images, classes, lambda _, grads: grads.mean(dim=(2, 3))
        )


class GradCAMPlusPlus(Explainer):
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

    needs_gradients = True

    def __init__(
        self,
        explanandum: Explanandum,
        layer: str | None = None,
        eps: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if eps is not None and eps <= 0:
            raise ValueError(f"eps must be positive or None, got {eps}")
        self.layer, self.eps = checked_layer(explanandum, layer), eps

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        return activation_maps(self.explanandum, self.layer, images, classes, self._weights)

    def _weights(self, values: Tensor, grads: Tensor) -> Tensor:
        total, up = values.sum(dim=(2, 3), keepdim=True), grads.relu()
        if self.eps is None:
            return (up / (2 + up * total.relu())).sum(dim=(2, 3))
        shares = grads**2 / (2 * grads**2 + total * grads**3 + self.eps)
        return (up * shares).sum(dim=(2, 3))


class PyramidCAM(Explainer):
    """Sum over all stages of the network of the positive part of features times gradients.

    The map of a stage is the sum over its channels of features times gradients of the log-odds of
    the class, with negative values set to 0. This is HiResCAM's map of the stage (Draelos and
    Carin, arXiv 2011.08891, eq. 6). Here it is standardized and upsampled bilinearly. The sum of
    these maps, standardized again, combines coarse and fine evidence for the class. The fusion of
    stages is an idea of LayerCAM (Jiang et al., TIP 2021), which takes the maximum over a few of
    them. The sum has no published source.

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
