"""Maps from gradients at the layers of a classifier, and the default layers."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import features
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.frozen import Explanandum
from explainers.explanandum.taps import recorded, tapped
from explainers.functional.losses import log_odds


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
        images: Images (B, 3, H, W) in [0, 1].
        classes: Classes to explain, (B, k) int64.
        weigh: Function from the features (B, C, h, w) and the gradients of the logit with respect
            to them to weights (B, C).
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
    """Maps (..., h, w) with mean 0 and variance 1. A constant map becomes 0."""
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    deviation = centred.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return centred / deviation.clamp(min=torch.finfo(maps.dtype).tiny)


def checked_stages(explanandum: Explanandum) -> list[str]:
    """Names of the modules that are the stages of the classifier, see `features.stages`.

    Raises:
        NotDefinedError: If the stages are not known.
    """
    if not (names := features.stages(explanandum.model, explanandum.feature_layers)):
        raise NotDefinedError(
            f"{type(explanandum.model).__name__} has no known stages: name them, "
            "feature_layers: [layer1, layer2, ...] (names as in model.named_modules())"
        )
    return names


def spatial(model: nn.Module, values: Tensor, size: tuple[int, int]) -> Tensor:
    """Output of a layer as maps (B, C, h, w), for tokens and for channels-last maps too."""
    last = values.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC"
    return features.as_map(values.movedim(-1, 1) if last else values, size[0] / size[1])


def checked_layer(
    explanandum: Explanandum, layer: str | None, place: Literal["last", "middle"] = "last"
) -> str:
    """Name of the given layer, or else of the default layer at `place`, see `default_layer`.

    Raises:
        ValueError: If there is no such layer.
        NotDefinedError: If no layer is given and there is no default.
    """
    names = [name for name, _ in explanandum.model.named_modules()]
    if layer is not None and layer not in names:
        raise ValueError(f"no module {layer!r} in the explanandum; its last ones: {names[-8:]}")
    return default_layer(explanandum, place) if layer is None else layer


def default_layer(explanandum: Explanandum, place: Literal["last", "middle"] = "last") -> str:
    """Name of the layer that a method uses if no other layer is given.

    "last" is the last layer whose spatial features still influence the logits. It is the first of
    these that exists:
        - The last of the explanandum's `feature_layers`.
        - The first norm of the last block of a timm ViT, as is customary. After it, only the class
          token influences the logits.
        - The last module before the pooling whose output is a map of more than one pixel, found
          with a trial image (layer4 of a ResNet, bn2 of an EfficientNet).

    "middle" is the middle one of `feature_layers`, or else of timm's stages from stride 2 on. This
    is stride 8 for most CNNs (layer2 of a ResNet), and the last block in the first half of a ViT.

    Raises:
        NotDefinedError: If there is no such layer.
    """
    model, named = explanandum.model, explanandum.feature_layers
    if place == "middle":
        info = getattr(model, "feature_info", [])
        layers = named or [str(level["module"]) for level in info if level["reduction"] >= 2]
        if not layers:
            raise NotDefinedError(
                f"{type(model).__name__} has no known feature pyramid: set layer to the name of a "
                "module in its middle, as in named_modules()"
            )
        return layers[(len(layers) - 1) // 2]
    if named:
        return named[-1]
    blocks = list(getattr(model, "blocks", []))
    if blocks and hasattr(blocks[-1], "norm1"):
        return f"blocks.{len(blocks) - 1}.norm1"
    return _probe(explanandum)


@torch.no_grad()
def _probe(explanandum: Explanandum) -> str:
    model = explanandum.model
    modules = {name: module for name, module in model.named_modules() if name}
    trial = explanandum.mean.expand(1, 3, *explanandum.input_size)
    with recorded(model, list(modules)) as outputs:
        # timm's networks can stop after the features. Other networks also run their head.
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
