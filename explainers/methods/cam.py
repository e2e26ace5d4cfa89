"""Class activation maps: channels of one layer's features, weighted by the class's gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers import features
from explainers.base import Explainer, NotDefinedError
from explainers.explanandum import Explanandum
from explainers.optimize import log_odds


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

    needs = ("features", "gradients")

    def __init__(self, explanandum: Explanandum, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        checked_stages(explanandum)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), of mean 0 and variance 1."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, from one forward pass."""
        return pyramid_maps(self.explanandum, images, classes)


@torch.enable_grad()
def pyramid_maps(explanandum: Explanandum, images: Tensor, classes: Tensor) -> Tensor:
    """Maps (B, k, H, W) of `PyramidCAM`, for images (B, 3, H, W) in [0, 1] and classes (B, k).

    Raises:
        NotDefinedError: If the stages of the classifier are not known.
    """
    with tapped(explanandum.model, checked_stages(explanandum)) as taps:
        logits = explanandum(images.detach())
    values, size = list(taps.values()), (images.shape[-2], images.shape[-1])
    found = []
    for column in classes.unbind(1):
        odds = log_odds(logits, column, explanandum.multi_label).sum()
        grads = torch.autograd.grad(odds, values, retain_graph=True)
        stages = [
            spatial(explanandum.model, (v.detach() * g).float(), size).sum(dim=1, keepdim=True)
            for v, g in zip(values, grads, strict=True)
        ]
        upsampled = [
            F.interpolate(standardise(stage.relu()), size=size, mode="bilinear") for stage in stages
        ]
        found.append(standardise(torch.cat(upsampled, dim=1).sum(dim=1)))
    return torch.stack(found, dim=1)


def standardise(maps: Tensor) -> Tensor:
    """Maps (..., h, w) with mean 0 and variance 1; a constant one becomes 0."""
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    deviation = centred.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return centred / deviation.clamp(min=torch.finfo(maps.dtype).tiny)


def checked_stages(explanandum: Explanandum) -> list[str]:
    """Module names of the stages, see `features.stages`.

    Raises:
        NotDefinedError: If they are not known.
    """
    if not (names := features.stages(explanandum.model, explanandum.feature_layers)):
        raise NotDefinedError(
            f"{type(explanandum.model).__name__} has no known stages: name them, "
            "feature_layers: [layer1, layer2, ...] (names as in model.named_modules())"
        )
    return names


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
    with tapped(explanandum.model, [layer]) as taps:
        logits = explanandum(images.detach())
    size = (images.shape[-2], images.shape[-1])
    values = spatial(explanandum.model, taps[layer].detach(), size)
    found = []
    for column in classes.unbind(1):
        score = logits.gather(1, column[:, None]).sum()
        raw = torch.autograd.grad(score, taps[layer], retain_graph=True)[0]
        grads = spatial(explanandum.model, raw, size)
        weights = weigh(values, grads)[:, :, None, None]  # (B, C, 1, 1)
        found.append((weights * values).sum(dim=1).relu())
    return F.interpolate(torch.stack(found, dim=1), size=size, mode="bilinear")


def spatial(model: nn.Module, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A layer's output as maps (B, C, h, w): of tokens, or with channels last, too."""
    last = values.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC"
    return features.as_map(values.movedim(-1, 1) if last else values, size[0] / size[1])


@contextmanager
def tapped(model: nn.Module, layers: list[str]) -> Iterator[dict[str, Tensor]]:
    """Collect layers' outputs in the block, with gradients from there on; the hooks go after it.

    The graph starts at the first of them to run: a frozen network builds none before it, whatever
    the images require, and no gradient reaches images or parameters.
    """
    taps: dict[str, Tensor] = {}
    handles = []

    def cut(name: str, output: Tensor) -> Tensor:
        start = output if taps else output.detach().requires_grad_()
        # A copy, since the network may go on in place; the tap then sees what it makes of it.
        taps[name] = start.clone()
        return taps[name]

    try:
        for name in layers:
            module = model.get_submodule(name)
            handles.append(module.register_forward_hook(lambda *a, n=name: cut(n, a[2])))
        yield taps
    finally:
        for handle in handles:
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
