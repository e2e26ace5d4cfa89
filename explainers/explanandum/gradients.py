"""Maps from gradients at the layers of a classifier, and the default layers."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import features, layouts
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.frozen import Explanandum
from explainers.explanandum.taps import tapped
from explainers.functional.losses import log_odds

TRIES = 40  # layers from the end that may be the last one with positions


class Evidence(NamedTuple):
    """Features and their products with the gradients of a class's log-odds, stage by stage.

    Both are lists of maps (B, C_i, h_i, w_i) in float32, from shallow to deep.
    """

    values: list[Tensor]
    products: list[Tensor]


@torch.enable_grad()
def stage_evidence(
    explanandum: Explanandum,
    images: Tensor,
    classes: Tensor | None = None,
    beyond: list[Tensor] | None = None,
) -> tuple[list[Evidence], Tensor]:
    """Evidence for each column of classes (B, k), and the logits (B, K), without a graph.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        classes: Classes (B, k) int64. None takes the class with the largest logit.
        beyond: Features (B, C_i, h_i, w_i) of other images at each stage. The products are then
            those of what these features have beyond the features of `images`.

    Raises:
        NotDefinedError: If the stages of the classifier are not known.
    """
    names = features.five_stages(explanandum)
    layout_of = [layouts.of(explanandum, name) for name in names]
    with tapped(explanandum.model, names) as taps:
        logits = explanandum(images.detach())
    values = [taps[name] for name in names]
    chosen = logits.argmax(dim=1, keepdim=True) if classes is None else classes
    maps = [
        layout.to_maps(each.detach().float(), images.shape)
        for layout, each in zip(layout_of, values, strict=True)
    ]
    found = []
    for column in chosen.unbind(1):
        odds = log_odds(logits, column, explanandum.multi_label).sum()
        grads = torch.autograd.grad(odds, values, retain_graph=True)
        slopes = [
            layout.to_maps(each.float(), images.shape)
            for layout, each in zip(layout_of, grads, strict=True)
        ]
        amounts = maps if beyond is None else [b - m for b, m in zip(beyond, maps, strict=True)]
        products = [amount * slope for amount, slope in zip(amounts, slopes, strict=True)]
        found.append(Evidence(maps, products))
    return found, logits.detach()


def stage_maps(evidence: Evidence) -> list[Tensor]:
    """Map (B, 1, h_i, w_i) of each stage: the positive part of its evidence, standardized."""
    return [standardise(each.sum(dim=1, keepdim=True).relu()) for each in evidence.products]


def pyramid_maps(explanandum: Explanandum, images: Tensor, classes: Tensor) -> Tensor:
    """Maps (B, k, H, W) of `PyramidCAM`, for images (B, 3, H, W) in [0, 1] and classes (B, k).

    Raises:
        NotDefinedError: If the stages of the classifier are not known.
    """
    found, _ = stage_evidence(explanandum, images, classes)
    return torch.stack([pyramid_map(each, images.shape[-2:]) for each in found], dim=1)


def pyramid_map(evidence: Evidence, size: torch.Size) -> Tensor:
    """Map (B, *size): the standardized sum of the maps of all stages."""
    maps = [F.interpolate(each, size=size, mode="bilinear") for each in stage_maps(evidence)]
    return standardise(torch.cat(maps, dim=1).sum(dim=1))


def standardise(maps: Tensor) -> Tensor:
    """Maps (..., h, w) with mean 0 and variance 1. A constant map becomes 0."""
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    deviation = centred.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return centred / deviation.clamp(min=torch.finfo(maps.dtype).tiny)


def checked_layer(
    explanandum: Explanandum, layer: str | None, place: Literal["last", "middle"] = "last"
) -> str:
    """Name of the given layer, or else of the default layer at `place`, see `default_layer`.

    Raises:
        ValueError: If there is no such layer, or its output is neither maps nor tokens of more than
            one position.
        NotDefinedError: If no layer is given and there is no default.
    """
    name = default_layer(explanandum, place) if layer is None else layer
    if layouts.of(explanandum, name).grid == (1, 1):
        raise ValueError(
            f"layer {name!r} has a single position for images of {explanandum.input_size[0]} x "
            f"{explanandum.input_size[1]}, so that its map is constant: name an earlier layer"
        )
    return name


def default_layer(explanandum: Explanandum, place: Literal["last", "middle"] = "last") -> str:
    """Name of the layer that a method uses if no other layer is given.

    "last" is the last layer whose spatial features still influence the logits. It is the first of
    these that exists:
        - The last of the explanandum's `feature_layers` that has more than one position.
        - The first norm of the last block of a timm ViT, as is customary. After it, only the class
          token influences the logits.
        - The last module before the pooling that gives maps or tokens of more than one position
          which determine the logits, found by trial passes (layer4 of a ResNet, bn2 of an
          EfficientNet). Of tokens with one of the class, it is the last norm after which the others
          still influence the logits (the first norm of the last block of torchvision's ViT).

    "middle" is the middle one of `features.stages`. This is stride 8 for most CNNs (layer2 of a
    ResNet), and the last block in the first half of a ViT.

    Raises:
        ValueError: If one of the `feature_layers` gives no maps.
        NotDefinedError: If there is no such layer.
    """
    if place == "middle" or explanandum.feature_layers:
        stages = features.stages(explanandum)
        names = [name for name in stages if layouts.of(explanandum, name).grid != (1, 1)]
        if names:
            return names[-1 if place == "last" else (len(names) - 1) // 2]
    blocks = list(getattr(explanandum.model, "blocks", []))
    if blocks and hasattr(blocks[-1], "norm1"):
        name = f"blocks.{len(blocks) - 1}.norm1"
        if name in explanandum.layers and explanandum.layers[name].layout:
            return name
    return _last(explanandum)


def _last(explanandum: Explanandum) -> str:
    modules = dict(explanandum.model.named_modules())
    places = [
        (name, layer.layout)
        for name, layer in explanandum.layers.items()
        if layer.layout
        and layer.layout.grid != (1, 1)
        and not isinstance(modules[name], nn.AdaptiveAvgPool2d)
    ]
    for name, layout in places[: -TRIES - 1 : -1]:
        change, rest = layouts.swapped(explanandum, name, positions=True)
        norm = layout.prefix and type(modules[name]).__name__.endswith("Norm")
        if rest < 0.05 or (norm and change > 0.001 and features.stages(explanandum)):
            return name
    raise NotDefinedError(
        f"{type(explanandum.model).__name__} has no known spatial features: set layer to the name "
        f"of a module, as in named_modules(); its last ones: {list(modules)[-8:]}"
    )
