"""Sanity check: a map should change when the weights of the network are randomized."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from explainers.functional import seeds
from explainers.metrics.base import PerImageMetric
from explainers.metrics.similarity import rank_similarity
from explainers.options import check_choices


def layers_top_down(network: nn.Module, leave_out: nn.Module | None = None) -> list[nn.Module]:
    """Modules with parameters of their own, last registered first, without those of `leave_out`."""
    known = set(leave_out.modules()) if leave_out is not None else set()
    return [
        module
        for module in reversed(list(network.modules()))
        if module not in known and next(module.parameters(recurse=False), None) is not None
    ]


def redraw(layer: nn.Module, seed: int) -> None:
    """Reinitialize the parameters and buffers of a layer in place, without those of its children.

    The new values are the same on every device. Layers without a reset method (class tokens,
    position embeddings, layer scales) are drawn from a normal distribution with the current mean
    and standard deviation of each parameter.
    """
    reset = "reset_parameters" if hasattr(layer, "reset_parameters") else "_reset_parameters"
    if not hasattr(layer, reset):
        generator = torch.Generator().manual_seed(seed)
        for old in layer.parameters(recurse=False):
            noise = torch.randn(old.shape, generator=generator).to(old)
            old.copy_(noise * old.std(correction=0) + old.mean())
        return
    fresh = copy.deepcopy(layer).cpu()
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        getattr(fresh, reset)()
    for own, new in zip(_own(layer), _own(fresh), strict=True):
        own.copy_(new)


def layer_seed(seed: int, place: int) -> int:
    """Seed of a layer, given its position from the top.

    The seed is far from the small seeds that networks are usually initialized with. One of those
    could redraw the first layer exactly as it was.
    """
    return seeds.combine(seed, place)


@contextmanager
def restored(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Restore every parameter and buffer of the layers, bit for bit, after the block."""
    saved = [(value, value.detach().clone()) for layer in layers for value in _own(layer)]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, before in saved:
                value.copy_(before)


def _own(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


class MPRT(PerImageMetric):
    """Rank correlation between a map and the map after the weights of a network are randomized.

    A value close to 0 is good: the map depends on what the network has learned. Tables rank a
    value below 0 as better than 0, although it is not better.

    If the map after randomization is constant, the value is 0, because that map contains no
    information about the original one. If the original map is constant, or a map after
    randomization is not finite, the value is missing.
    All weights are restored, bit for bit.

    Source: Adebayo et al., NeurIPS 2018. The default follows Ra-NEM's use of quantus' MPRT, which
    randomizes all layers from the top down and reports only the last Spearman correlation.

    Differences from the released code:
        - By default there is one randomization and one explanation, not one for each layer.
        - Maps keep their sign. The default of quantus is to take absolute values.
        - Every layer has its own seed.
        - Parameters without a reset method (class tokens, layer scales) are randomized too.
        - The mean over the layers excludes the original network, whose correlation of 1 quantus
          includes.

    Cost: one explanation, or with "cascade" one explanation for each layer.

    Range: [-1, 1].

    Blind to: whether the map is right: noise that depends on the weights is best.

    Args:
        layers: Layers to randomize. "all": all layers at once. "last": the topmost layer only.
            "cascade": one more layer from the top down before each explanation; this reports the
            last correlation, which equals that of "all", and as `/cascade` the mean over the
            layers.
        subject: Network to randomize. "explanandum": the classifier. Explainers that do not use it
            at inference (those that apply a network of their own to the image, such as
            DeepLabExplainer) return the same map and get exactly 1, which says nothing about what
            they have learned; explainers that read features of the classifier are affected.
            "explainer": the learned network of the explainer, without the classifier. The value is
            then called `MPRT/explainer`, and is missing for methods that learn nothing.
        absolute: Whether to correlate the absolute values of the maps.
        seed: Seed of the random weights.
    """

    needs = ("images", "targets", "maps", "explanandum", "explainer")
    needs_own_layers = True
    higher_is_better = False

    def __init__(
        self,
        layers: Literal["all", "last", "cascade"] = "all",
        subject: Literal["explanandum", "explainer"] = "explanandum",
        absolute: bool = False,
        seed: int = 0,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__()
        self.layers, self.subject, self.absolute, self.seed = layers, subject, absolute, seed
        name = "MPRT" if subject == "explanandum" else "MPRT/explainer"
        several = {"all": (name,), "last": (f"{name}/last",), "cascade": (name, f"{name}/cascade")}
        self.names = several[layers]

    def score(
        self, images: Tensor, targets: Tensor, maps: Tensor, explanandum: nn.Module, explainer: Any
    ) -> dict[str, Tensor]:
        """Correlations (B,) of maps (B, H, W) of images (B, 3, H, W) with the randomized maps."""
        own = self.subject == "explainer"
        layers = layers_top_down(explainer if own else explanandum, explanandum if own else None)
        layers = layers[:1] if self.layers == "last" else layers
        if not layers:
            return {name: torch.full((len(maps),), torch.nan) for name in self.names}
        found = []
        with restored(layers):
            for place, layer in enumerate(layers):
                redraw(layer, layer_seed(self.seed, place))
                if self.layers == "cascade" or place == len(layers) - 1:
                    found.append(self._correlation(maps, explainer.attribute(images, targets)))
        return dict(zip(self.names, (found[-1], torch.stack(found).mean(dim=0)), strict=False))

    def _correlation(self, before: Tensor, after: Tensor) -> Tensor:
        if self.absolute:
            before, after = before.abs(), after.abs()
        return rank_similarity(before, after)
