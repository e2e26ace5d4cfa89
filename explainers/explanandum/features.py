"""Intermediate features of a classifier as a pyramid of maps, for CNNs and for ViTs."""

import math
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import layouts, precision, taps

Level = TypeVar("Level")


class NotDefinedError(ValueError):
    """The method cannot explain this classifier. A comparison shows its figures as missing."""


def stages(explanandum: Any) -> list[str]:
    """Names of the layers that are the stages of a classifier, from shallow to deep.

    These are the explanandum's `feature_layers`, or else the stages that timm lists, or else the
    layers that `found_stages` finds. For a plain ViT these are all of its blocks.

    Raises:
        ValueError: If one of the `feature_layers` gives no maps.
        NotDefinedError: If the stages are not known.
    """
    if named := explanandum.feature_layers:
        for name in named:
            layouts.of(explanandum, name)
        return list(named)
    info = getattr(explanandum.model, "feature_info", None) or []
    listed = [str(level["module"]) for level in info if level["reduction"] >= 2]
    for names in (listed, found_stages(explanandum)):
        known = [explanandum.layers.get(name) for name in names]
        if names and all(layer and layer.layout for layer in known):
            # Nothing may go around the last stage, nor around any that was not listed.
            tried = names[-1:] if names is listed or len(names) > 6 else names
            if all(layouts.swapped(explanandum, each, False)[1] < 0.05 for each in tried):
                return names
    raise NotDefinedError(
        f"{type(explanandum.model).__name__} has no known stages: name them, "
        "feature_layers: [layer1, layer2, ...] (names as in model.named_modules())"
    )


def five_stages(explanandum: Any) -> list[str]:
    """The `stages`, or five of them if there are more of the same resolution, as in a plain ViT.

    The trial passes that find them are made once for an explanandum, which keeps the names.
    """
    kept: dict[str, list[str]] = vars(explanandum)
    if "_five_stages" not in kept:
        names = stages(explanandum)
        grids = {layouts.of(explanandum, name).grid for name in names}
        plain = len(names) > 5 and len(grids) == 1
        kept["_five_stages"] = five_of(names) if plain else names
    return list(kept["_five_stages"])


def found_stages(explanandum: Any) -> list[str]:
    """Names of layers that make a pyramid, in any network, by the trial of its layers.

    They are the last layer of each resolution, from half that of the image on. Resolutions count as
    the same if they round to the same power of 2. Of the modules, those are considered that are
    nested the least while showing the most resolutions, such as `layer1` to `layer4` of a ResNet,
    or `features.1` to `features.7` of a Swin transformer. Resolutions must not rise again.

    If all layers have the same resolution, as in a ViT, they are the most numerous modules that
    stand side by side and are of the same class, such as `encoder.layers.encoder_layer_0` and on.
    """
    height, width = explanandum.input_size
    modules = dict(explanandum.model.named_modules())
    grids = {
        name: layer.layout.grid
        for name, layer in explanandum.layers.items()
        if layer.layout and not isinstance(modules[name], nn.AdaptiveAvgPool2d)
    }
    octaves = {
        name: round(math.log2(height * width / (rows * columns)) / 2)
        for name, (rows, columns) in grids.items()
    }
    best: dict[int, str] = {}
    for depth in sorted({name.count(".") for name in octaves}):
        names = [name for name, octave in octaves.items() if octave and name.count(".") <= depth]
        areas = [math.prod(grids[name]) for name in names]
        levels = {octaves[name]: name for name in names}
        if areas == sorted(areas, reverse=True) and len(levels) > len(best):
            best = levels
    chosen = list(best.values())
    if len(chosen) > 1 and grids[chosen[-1]] == (1, 1) and max(grids[chosen[-2]]) > 2:
        del chosen[-1]  # behind the pooling
    if len(chosen) > 1:
        return chosen
    alike: dict[Any, list[str]] = {}
    for name in octaves:
        alike.setdefault((name.rpartition(".")[0], type(modules[name])), []).append(name)
    blocks = max(alike.values(), key=len, default=[])
    return blocks if len(blocks) > 5 and octaves[blocks[0]] else chosen


class Sources(NamedTuple):
    """Where the levels of the feature pyramid come from.

    Attributes:
        names: Names of the layers that are recorded, empty if timm's network gives its features.
        kept: Indices of the features that become levels.
        resized: Whether they have one resolution and are resized to those of a CNN.
    """

    names: list[str]
    kept: list[int]
    resized: bool


def sources(explanandum: Any) -> Sources:
    """Sources of the feature pyramid of an explanandum, found by its trial for its input size.

    The pyramid thus has the same number of levels for images of any size.

    Raises:
        ValueError: If one of the `feature_layers` gives no maps.
        NotDefinedError: If the stages are not known.
    """
    grids = None if explanandum.feature_layers else _grids_of_timm(explanandum)
    if grids:
        below = [i for i, grid in enumerate(grids) if grid[1] < explanandum.input_size[1]]
        kept, resized = selected([grids[i] for i in below])
        return Sources([], [below[i] for i in kept], resized)
    names = stages(explanandum)
    return Sources(names, *selected([layouts.of(explanandum, name).grid for name in names]))


def selected(grids: list[tuple[int, int]]) -> tuple[list[int], bool]:
    """Indices of the features that become levels, and whether these must be resized.

    If several features have the same grid (h, w), the last one is a level. If all have the same,
    five of them are, and must be resized.
    """
    count = len(grids)
    if count > 1 and len(set(grids)) == 1:
        return five_of(list(range(count))), True
    return [i for i in range(count) if i == count - 1 or grids[i] != grids[i + 1]], False


def _grids_of_timm(explanandum: Any) -> list[tuple[int, int]] | None:
    """Grids of the maps of `forward_intermediates`, if its head gives the same logits, or None."""
    model = explanandum.model
    if not (hasattr(model, "forward_intermediates") and hasattr(model, "forward_head")):
        return None
    size = (explanandum.input_size[0], explanandum.input_size[1])
    inputs = explanandum._inputs(layouts.trial_images(size).to(explanandum.mean.device))
    with layouts.trying(explanandum), precision.passes(explanandum):
        exact = model(inputs)
        try:
            last, levels = model.forward_intermediates(inputs)
            close = (model.forward_head(last) - exact).norm() <= 0.01 * exact.norm()
            found = [layouts.seen(level, size).layout for level in levels]
        except Exception:  # whatever a family of timm raises that does not support it
            return None
    if not close or any(each is None or each.kind != "maps" for each in found):
        return None
    return [each.grid for each in found if each]


def read(explanandum: Any, inputs: Tensor) -> tuple[list[Tensor], Any]:
    """Feature pyramid and output of the network of an explanandum, for normalized inputs."""
    model, (names, kept, resized) = explanandum.model, explanandum.sources
    if names:
        with taps.recorded(model, names) as found:
            output = model(inputs)
        levels = [layouts.of(explanandum, n).to_maps(found[n], inputs.shape) for n in names]
    else:
        last, levels = model.forward_intermediates(inputs)
        output = model.forward_head(last)
    levels = [levels[i] for i in kept]
    return (at_strides(levels, inputs.shape[-2:]) if resized else levels), output


def five_of(blocks: list[Level]) -> list[Level]:
    """Blocks 2, 4, 6, 8 and 10 of a plain ViT's 12, as published, scaled to other depths."""
    return [blocks[min(len(blocks) - 1, round(len(blocks) * i / 12))] for i in (2, 4, 6, 8, 10)]


def at_strides(levels: list[Tensor], size: torch.Size) -> list[Tensor]:
    """Five maps, resized to strides 2 to 32 for images of `size` (H, W) by nearest neighbor."""
    sizes = [(-(-size[0] // s), -(-size[1] // s)) for s in (2, 4, 8, 16, 32)]
    return [F.interpolate(f, size=s, mode="nearest") for f, s in zip(levels, sizes, strict=True)]
