"""Class activation maps: channels of one layer's features, weighted by the class's gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers import features
from explainers.base import Explainer, NotDefinedError
from explainers.explanandum import Explanandum


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

    needs = ("features", "gradients")

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

    needs = ("features", "gradients")

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


@torch.enable_grad()
def activation_maps(
    explanandum: Explanandum,
    layer: str,
    images: Tensor,
    classes: Tensor,
    weigh: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Class activation maps (B, k, H, W) >= 0 of classes (B, k), in the size of the images.

    Args:
        explanandum: The classifier.
        layer: Name of the module whose output is weighted.
        images: (B, 3, H, W) in [0, 1].
        classes: (B, k) int64.
        weigh: Features (B, C, h, w) and the gradients of the logit there -> weights (B, C).
    """
    with tapped(explanandum.model, layer) as taps:
        logits = explanandum(images.detach())
    size = (images.shape[-2], images.shape[-1])

    def spatial(values: Tensor) -> Tensor:
        last = values.ndim == 4 and getattr(explanandum.model, "output_fmt", "NCHW") == "NHWC"
        return features.as_map(values.movedim(-1, 1) if last else values, size[0] / size[1])

    found = []
    for column in classes.unbind(1):
        score = logits.gather(1, column[:, None]).sum()
        grads = spatial(torch.autograd.grad(score, taps[-1], retain_graph=True)[0])
        values = spatial(taps[-1].detach())
        weights = weigh(values, grads)[:, :, None, None]  # (B, C, 1, 1)
        found.append((weights * values).sum(dim=1).relu())
    return F.interpolate(torch.stack(found, dim=1), size=size, mode="bilinear")


@contextmanager
def tapped(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Collect a layer's output in the block, with gradients from there on; the hook goes after it.

    The graph starts at the layer: a frozen network builds none before it, whatever the images
    require, and no gradient reaches images or parameters.
    """
    taps: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # Of a copy, since the network may go on in place; the tap then sees what it makes of it.
        taps.append(output.detach().requires_grad_().clone())
        return taps[-1]

    handle = model.get_submodule(layer).register_forward_hook(cut)
    try:
        yield taps
    finally:
        handle.remove()


def checked_layer(explanandum: Explanandum, layer: str | None) -> str:
    """The layer's name, or the default's.

    Raises:
        ValueError: If there is no such layer.
        NotDefinedError: If none is given and no default found.
    """
    names = [name for name, _ in explanandum.model.named_modules()]
    if layer is not None and layer not in names:
        raise ValueError(f"no module {layer!r} in the explanandum; its last ones: {names[-8:]}")
    return default_layer(explanandum) if layer is None else layer


def default_layer(explanandum: Explanandum) -> str:
    """Name of the last layer with spatial features that still lead to the logits.

    The last of `feature_layers` if the explanandum has them; the first norm of the last block of
    timm's ViTs, as customary (after it only the class token counts); else what a trial image leaves
    last as a map of more than one pixel before the pooling: layer4 of a ResNet, bn2 of an
    EfficientNet.

    Raises:
        ValueError: If there is no such map, or tokens come after it.
    """
    model = explanandum.model
    if explanandum.feature_layers:
        return explanandum.feature_layers[-1]
    blocks = list(getattr(model, "blocks", []))
    if blocks and hasattr(blocks[-1], "norm1"):
        return f"blocks.{len(blocks) - 1}.norm1"
    return _probe(explanandum)


@torch.no_grad()
def _probe(explanandum: Explanandum) -> str:
    model = explanandum.model
    modules = {name: module for name, module in model.named_modules() if name}
    trial = explanandum.mean.expand(1, 3, *explanandum.input_size)
    with features.recorded(model, list(modules)) as outputs:
        # timm's networks say where the features end; others go on to the head.
        getattr(model, "forward_features", model)(explanandum.normalize(trial))
    spatial = [
        name
        for name, output in outputs.items()
        if isinstance(output, Tensor)
        and (output.ndim == 3 or (output.ndim == 4 and min(output.shape[2:]) > 1))
        and not isinstance(modules[name], nn.AdaptiveAvgPool2d)
    ]
    if not spatial or outputs[spatial[-1]].ndim == 3:
        raise NotDefinedError(
            f"{type(model).__name__} has no known spatial features: set layer to the name of a "
            f"module, as in named_modules(); its last ones: {list(modules)[-8:]}"
        )
    return spatial[-1]
