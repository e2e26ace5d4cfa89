"""FullGrad: gradients times the image and gradients times the biases of all layers."""

import copy
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.explanandum import Explanandum, layouts
from explainers.explanandum.biases import biased
from explainers.explanandum.features import NotDefinedError
from explainers.functional import masking
from explainers.functional.losses import widen

TOLERANCE = 1e-5  # of the completeness, relative to the largest logit of an image


class FullGrad(Explainer):
    """Magnitudes of all terms into which the logit of the class decomposes, as maps.

    The logit of a network of linear layers, ReLUs and poolings is the sum of its normalized input
    times its gradient, and of the biases of all layers times the gradients at their outputs before
    the activation. Each layer of maps gives the magnitudes of its terms. They are scaled to [0, 1]
    layer by layer, summed over the channels, upsampled bilinearly and added up. Terms of layers
    without positions are left out.

    The sum of all terms is compared with the logit at construction, on noise, in float64. It
    differs for smooth activations (GELU, SiLU) and for layer norms and attention, whose biases are
    implicit, and for ReLU6 as far as it is clipped.

    Source: Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization",
    NeurIPS 2019, eq. 5 and 7.

    Differences from the released code:
        - Upsampling keeps the centers of the pixels in place. The released code aligns corners.

    Cost for each image: one forward pass, and one backward pass for each class.

    Args:
        explanandum: The classifier to explain.
        scaling: "layer": the magnitudes of each layer are scaled by their common range, as
            published. "channel": each channel by its own, as in pytorch-grad-cam, which lets
            channels of small terms weigh as much as the others. "none": not scaled.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If `scaling` is unknown.
        NotDefinedError: If the logit of the classifier is not the sum of these terms.
    """

    needs_gradients = True

    def __init__(
        self,
        explanandum: Explanandum,
        scaling: Literal["layer", "channel", "none"] = "layer",
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        self.scaling = scaling
        gap = incompleteness(explanandum)
        if not gap <= TOLERANCE:
            raise NotDefinedError(
                f"FullGrad is not complete for {type(explanandum.model).__name__}: its terms miss "
                f"{gap:.1e} of the largest logit, expected at most {TOLERANCE}. It needs a network "
                "of convolutions, batch norms, linear layers, ReLUs and poolings only"
            )

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        found, _ = terms(self.explanandum, images, classes)
        return torch.stack([self._map(each, images.shape[-2:]) for each in found], dim=1)

    def _map(self, parts: list[Tensor], size: torch.Size) -> Tensor:
        total = parts[0].new_zeros(len(parts[0]), 1, *size)
        for part in parts:
            if part.ndim != 4 or part.shape[-2:] == (1, 1):
                continue
            amounts = part.abs()
            if self.scaling == "layer":
                amounts = masking.minmax(amounts.flatten(2)).view_as(amounts)
            elif self.scaling == "channel":
                amounts = masking.minmax(amounts)
            summed = amounts.sum(dim=1, keepdim=True)
            total += F.interpolate(summed, size=size, mode="bilinear")
        return total[:, 0]


@torch.enable_grad()
def terms(
    explanandum: Explanandum, images: Tensor, classes: Tensor
) -> tuple[list[list[Tensor]], Tensor]:
    """Terms of the logits of each column of classes (B, k), and the logits (B, K).

    The first term (B, 3, H, W) is that of the normalized input. Those of the layers have the shapes
    of their outputs, such as (B, C, h, w), and are in the order in which the layers ran.
    """
    inputs = images.detach().requires_grad_()
    with biased(explanandum.model) as found:
        logits = explanandum(inputs)
    outputs = [inputs, *(each.output for each in found)]
    factors = [images - explanandum.mean.to(images), *(each.bias for each in found)]
    result = []
    for column in classes.unbind(1):
        score = logits.gather(1, column[:, None]).sum()
        grads = torch.autograd.grad(
            score, outputs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        pairs = zip(factors, grads, strict=True)
        result.append([(widen(factor) * widen(grad)).detach() for factor, grad in pairs])
    return result, logits.detach()


def incompleteness(explanandum: Explanandum) -> float:
    """Largest difference of the sum of all terms from the logit, relative to the largest logit.

    It is measured in float64 for the top class of five images of noise of the network's size.
    """
    exact = copy.deepcopy(explanandum).double()
    exact.untrained = False  # nothing is warned about weights
    height, width = explanandum.input_size
    images = layouts.trial_images((height, width)).to(exact.mean)
    with torch.no_grad():
        top = exact(images).argmax(dim=1, keepdim=True)
    (parts,), logits = terms(exact, images, top)
    total = torch.stack([part.flatten(1).sum(dim=1) for part in parts]).sum(dim=0)
    gaps = (total - logits.gather(1, top)[:, 0]).abs()
    return float((gaps / logits.abs().amax(dim=1)).max())
