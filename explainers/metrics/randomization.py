"""Sanity check: a map should change when what it explains is drawn anew at random."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from explainers.metrics.base import PerImageMetric
from explainers.metrics.similarity import spearman
from explainers.options import check_choices


def layers_top_down(network: nn.Module, leave_out: nn.Module | None = None) -> list[nn.Module]:
    """Modules that own parameters, the last registered first, without those of `leave_out`."""
    known = set(leave_out.modules()) if leave_out is not None else set()
    return [
        module
        for module in reversed(list(network.modules()))
        if module not in known and next(module.parameters(recurse=False), None) is not None
    ]


def redraw(layer: nn.Module, seed: int) -> None:
    """Initialise a layer's own parameters and buffers anew, in place; the same on every device.

    A layer that cannot reset itself (class tokens, position embeddings, layer scales) draws from
    the normal distribution with its parameters' present mean and standard deviation.
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
    """Seed of the layer at a place from the top.

    It is far from the small seeds that networks are made with: one of those would draw the first
    layer exactly as it was.
    """
    return hash((seed, place)) & (2**63 - 1)


@contextmanager
def restored(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Put every parameter and buffer of the layers back, bit for bit, after the block."""
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
    """Rank correlation of a map and the map after the network's weights were drawn at random.

    Close to 0 is good: the map depends on what was learned. A figure below 0 ranks as better than
    0, which it is not. What is randomised is the `subject`:

    - "explanandum": the classifier. A trained explainer that does not look at it at inference (an
      own network on the image, such as DeepLabExplainer) gives the same map, hence exactly 1: true,
      and no statement about what it learned. One that reads the classifier's features reacts.
    - "explainer": the explainer's own learned network, the classifier left alone. Missing for
      methods that learn nothing.

    Source: Adebayo et al., NeurIPS 2018; default as Ra-NEM runs quantus' MPRT: all layers
    randomised from the top down, only the last correlation, Spearman. Differs: one randomisation
    and one explanation instead of one a layer; maps enter with their sign (quantus: absolute values
    unless told otherwise); every layer has its own seed, and parameters without a reset of their
    own (class tokens, layer scales) are drawn too; quantus' mean over layers counts the untouched
    network's 1 as well. A map that is constant afterwards counts 0,
    since it says nothing of the former; one that was constant before is missing. All weights are
    put back, bit for bit.

    Cost: one explanation; with "cascade" one a layer.

    Args:
        layers: "all" at once; "last": the topmost alone; "cascade": one more from the top down
            before each explanation, which reports the last correlation (that of "all") and, as
            `/cascade`, the mean over the layers.
        subject: See above; the figure of "explainer" is called `MPRT/explainer`.
        absolute: Correlate |map|.
        seed: Of the weights.
    """

    needs = ("images", "targets", "maps", "explanandum", "explainer")
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
        """Correlations (B,) of the maps (B, H, W) of images (B, 3, H, W) with the randomised."""
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
        spread = (after.amax(dim=(1, 2)) - after.amin(dim=(1, 2))).cpu()
        told = (before.amax(dim=(1, 2)) > before.amin(dim=(1, 2))).cpu()
        return spearman(before, after).masked_fill((spread == 0) & told, 0.0)
