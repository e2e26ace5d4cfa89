"""The part of a classifier behind one layer, run again without the part before it."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from explainers.explanandum import layouts
from explainers.explanandum.frozen import Explanandum
from explainers.explanandum.taps import watched

# Attributes of a module that decide what a call of it does.
REPLACED = ("_forward_hooks", "_forward_pre_hooks", "forward")


def finished_before(explanandum: Explanandum, layer: str) -> list[str]:
    """Names of the modules that have run before a layer ends, found by a trial pass.

    Modules inside of others that are named are left out, as are those that run more than once and
    those whose output is no tensor with one entry for each image. If the outputs of the others are
    known, they need not run again.
    """
    model, size = explanandum.model, explanandum.input_size
    images = layouts.trial_images((size[0], size[1])).to(explanandum.mean.device)
    before: list[str] = []
    calls: dict[str, int] = {}

    def look(name: str, output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        fits = isinstance(output, Tensor) and output.ndim > 0 and len(output) == len(images)
        if layer not in calls and fits:
            before.append(name)

    names = [
        name
        for name, module in model.named_modules()
        if name and not isinstance(module, torch.jit.ScriptModule)
    ]
    with layouts.trying(explanandum), watched(model, names, look):
        explanandum(images)
    once = {name for name in before if calls[name] == 1}
    return [name for name in before if name in once and not _ancestors(name) & once]


def _ancestors(name: str) -> set[str]:
    """Names of the modules that a module is in: "a.b.c" -> {"a", "a.b"}."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


@contextmanager
def settled(model: nn.Module, outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Modules return copies of the given outputs during the `with` block, and do nothing else.

    Neither do their hooks run.
    """
    parts = [vars(model.get_submodule(name)) for name in outputs]
    before = [{name: part[name] for name in REPLACED if name in part} for part in parts]
    try:
        for part, output in zip(parts, outputs.values(), strict=True):
            part.update({name: OrderedDict() for name in REPLACED})
            # A copy, because the network may modify it in place.
            part["forward"] = lambda *_, output=output, **__: output.clone()
        yield
    finally:
        for part, own in zip(parts, before, strict=True):
            del part["forward"]
            part.update(own)


class Tail:
    """The layers behind one layer, for a batch of images whose earlier outputs are kept.

    Args:
        explanandum: The classifier.
        layer: Name of the layer.
        before: Names of `finished_before`.
        images: Images (B, 3, H, W) in [0, 1], which are passed through the network once.

    Attributes:
        logits: Logits (B, K) of the images.
        output: Output of the layer.
        final: Output of the layer after what the network changes in it in place.
    """

    @torch.no_grad()
    def __init__(
        self, explanandum: Explanandum, layer: str, before: list[str], images: Tensor
    ) -> None:
        self.explanandum, self.layer, self.images = explanandum, layer, images
        self._kept: dict[str, Tensor] = {}
        changing: list[Tensor] = []

        def look(name: str, output: Tensor) -> None:
            self._kept[name] = output.clone()
            if name == layer:
                changing.append(output)

        with watched(explanandum.model, [*before, layer], look):
            self.logits = explanandum(images)
        self.output, (self.final,) = self._kept.pop(layer), changing

    @torch.no_grad()
    def rerun(self, row: int, outputs: Tensor) -> Tensor:
        """Logits (n, K) if the layer had given the outputs (n, ...) for image `row`."""
        count = len(outputs)
        known = {
            name: kept[row : row + 1].expand(count, *kept.shape[1:])
            for name, kept in self._kept.items()
        }
        with settled(self.explanandum.model, {**known, self.layer: outputs}):
            logits: Tensor = self.explanandum(self.images[row : row + 1].expand(count, -1, -1, -1))
        return logits
