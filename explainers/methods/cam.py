"""Class activation maps: channels of one layer's features, weighted by the class's gradients."""

from torch import Tensor

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.explanandum.gradients import (
    activation_maps,
    checked_layer,
    checked_stages,
    pyramid_maps,
)


class GradCAM(Explainer):
    """Features weighted by the spatial mean of the class's gradient, negative sums cut off.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, eq. 1 and 2; bilinear upsampling. Nothing is
    rescaled, unlike in pytorch-grad-cam.

    Args:
        explanandum: The classifier to explain.
        layer: Module name of the features in `explanandum.model`; None takes `default_layer`.
        seed: Unused; every method has one.

    Raises:
        ValueError: If there is no such layer.
        NotDefinedError: If none is given and no default found.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, layer: str | None = None, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        self.layer = checked_layer(explanandum, layer)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, from one forward pass."""
        return activation_maps(
            self.explanandum, self.layer, images, classes, lambda _, grads: grads.mean(dim=(2, 3))
        )


class GradCAMPlusPlus(Explainer):
    """Features weighted by the positive gradients of the class, fewer pixels counting more each.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018, eq. 7 and 19, of the logit's exponential
    without the factor it has in common. That is relu(g) / (2 + g S) for a gradient g and features
    of sum S >= 0. Signed features would bring poles, so a negative S counts as 0.

    Args:
        explanandum: The classifier to explain.
        layer: Module name of the features in `explanandum.model`; None takes `default_layer`.
        eps: None is as above. A number repeats pytorch-grad-cam, which adds 1e-6 to a denominator
            of squared gradients: it is not small beside them, and signed sums S stay signed.
        seed: Unused; every method has one.

    Raises:
        ValueError: If there is no such layer, or eps <= 0.
        NotDefinedError: If none is given and no default found.
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
        """Maps (B, k, H, W) of several classes an image, from one forward pass."""
        return activation_maps(self.explanandum, self.layer, images, classes, self._weights)

    def _weights(self, values: Tensor, grads: Tensor) -> Tensor:
        total, up = values.sum(dim=(2, 3), keepdim=True), grads.relu()
        if self.eps is None:
            return (up / (2 + up * total.relu())).sum(dim=(2, 3))
        shares = grads**2 / (2 * grads**2 + total * grads**3 + self.eps)
        return (up * shares).sum(dim=(2, 3))


class PyramidCAM(Explainer):
    """Features times gradients at every stage of the network, positive parts, added up.

    Each stage gives the sum over channels of features times gradients of the class's log-odds, cut
    off at 0, as HiResCAM's map of that stage (Draelos and Carin, arXiv 2011.08891, eq. 6), here
    standardised and upsampled; their sum shows what is decided where, at all scales. Fusing the
    stages is LayerCAM's idea (Jiang et al., TIP 2021), who take maxima of a few. This sum is ours.

    One forward and one backward pass an image; a further backward pass for each further class.

    Args:
        explanandum: The classifier to explain. Its stages are its `feature_layers`, else timm's.
        seed: Unused; every method has one.

    Raises:
        NotDefinedError: If its stages are not known.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        checked_stages(explanandum)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), of mean 0 and variance 1."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, from one forward pass."""
        return pyramid_maps(self.explanandum, images, classes)
