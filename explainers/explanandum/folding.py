"""A frozen classifier that computes faster, for the many passes of a training or a test."""

import copy
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from explainers.explanandum.frozen import Explanandum

TOLERANCE = 1e-3  # of the logits, relative to the largest


class Speedup(ABC):
    """A faster way of computing a frozen classifier's passes, put in place by `apply`."""

    @abstractmethod
    def apply(self) -> bool:
        """Has the classifier compute faster; returns whether it can."""

    @abstractmethod
    def undo(self) -> None:
        """Gives the classifier its own network again."""

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Computes exactly within the block."""
        self.undo()
        try:
            yield
        finally:
            self.apply()


class Folding(Speedup):
    """Has the convolutions of a frozen classifier do the work of the batch norms behind them.

    In eval mode, a batch norm scales and shifts each channel, which the convolution before it can
    do. What remains is computed in channels_last, where convolutions alone are faster. The logits
    are the same up to rounding. The features of a convolution whose batch norm is folded are those
    behind the batch norm.

    It changes the network in place, until `undo`. Weights must not be loaded or saved meanwhile.

    Args:
        explanandum: The frozen classifier.
    """

    def __init__(self, explanandum: Explanandum) -> None:
        self.explanandum = explanandum
        self._convolutions: list[tuple[nn.Conv2d, Tensor, Tensor | None]] = []
        self._norms: list[tuple[nn.Module, str, nn.Module]] = []
        self._channels_last = explanandum.channels_last

    @torch.inference_mode(False)  # where nothing could be differentiated through the weights
    @torch.no_grad()
    def apply(self) -> bool:
        """Folds all batch norms that can be; returns whether any can.

        Nothing is folded if the logits of a trial differ by more than a thousandth of the largest.
        """
        subject = self.explanandum
        generator = torch.Generator().manual_seed(0)
        trial = torch.rand((2, 3, *subject.input_size), generator=generator).to(subject.mean)
        before = subject(trial)
        places = {
            child: (parent, name)
            for parent in subject.model.modules()
            for name, child in parent.named_children()
        }
        for norm, conv in _pairs(subject, trial).items():
            if norm.running_mean is None or norm.running_var is None:  # a norm of the batch itself
                continue
            self._convolutions.append((conv, conv.weight, conv.bias))
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
                norm.weight, norm.bias,
            )  # fmt: skip
            conv.weight.requires_grad_(False)
            conv.bias.requires_grad_(False)
            parent, name = places[norm]
            self._norms.append((parent, name, norm))
            # A batch norm of timm has its activation inside. The names of the layers stay.
            setattr(parent, name, nn.Sequential(OrderedDict(norm.named_children())))
        if not self._norms:
            return False
        subject.channels_last = True
        subject.model.to(memory_format=torch.channels_last)
        if (subject(trial) - before).abs().max() <= TOLERANCE * before.abs().max():
            return True
        self.undo()
        return False

    @torch.inference_mode(False)
    @torch.no_grad()
    def undo(self) -> None:
        """Gives the network its own weights and batch norms again."""
        for conv, weight, bias in reversed(self._convolutions):  # one may have been folded twice
            conv.weight, conv.bias = weight, bias
        for parent, name, norm in self._norms:
            setattr(parent, name, norm)
        if self._norms:
            self.explanandum.channels_last = self._channels_last
            if not self._channels_last:
                self.explanandum.model.to(memory_format=torch.contiguous_format)
        self._convolutions.clear()
        self._norms.clear()


def folded(explanandum: Explanandum) -> Explanandum:
    """A copy with a folded network, see `Folding`; the explanandum itself if none can be folded.

    Args:
        explanandum: The frozen classifier. Later changes of its weights do not reach the copy.
    """
    faster = copy.copy(explanandum)
    faster._modules = {**explanandum._modules, "model": copy.deepcopy(explanandum.model)}
    return faster if Folding(faster).apply() else explanandum


def _pairs(explanandum: Explanandum, trial: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Each batch norm whose input is the output of a convolution, with that convolution."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = module, output  # kept, so that no other tensor gets its id
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in outputs:
            pairs[module] = outputs[id(inputs[0])][0]

    hooks = [module.register_forward_hook(note) for module in explanandum.model.modules()]
    try:
        explanandum(trial)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
