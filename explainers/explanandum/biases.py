"""Biases of the layers of a classifier, and the layers' outputs before the activation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn


class Biased(NamedTuple):
    """A bias and the output that it was added to.

    Attributes:
        bias: Bias, in the shape of a channel vector that broadcasts to the output.
        output: Output of the layer before its activation.
    """

    bias: Tensor
    output: Tensor


@contextmanager
def biased(model: nn.Module) -> Iterator[list[Biased]]:
    """Records the outputs of all layers with a bias during the `with` block, with their biases.

    These are convolutions, linear layers, and batch norms, whose bias in eval mode is beta - mean *
    gamma / sqrt(var + eps). Of timm's batch norms that hold an activation, the output before it is
    recorded. Only outputs that require gradients are.

    Yields:
        The layers' biases and outputs, in the order in which they ran. A layer that runs twice is
        there twice.
    """
    found: list[Biased] = []
    handles = []

    def record(bias: Tensor, output: Tensor) -> Tensor | None:
        if not output.requires_grad:
            return None
        found.append(Biased(bias, output))
        return output.clone()  # goes on, so that changes in place do not reach the recorded one

    try:
        for module in model.modules():
            if (bias := bias_of(module)) is not None:
                inner = getattr(module, "drop", None)  # of a batch norm with an activation
                place = inner if isinstance(inner, nn.Module) else module
                handles.append(
                    place.register_forward_hook(lambda *call, own=bias: record(own, call[2]))
                )
        yield found
    finally:
        for handle in handles:
            handle.remove()


def bias_of(module: nn.Module) -> Tensor | None:
    """Bias of a layer in eval mode, in a shape that broadcasts to its output, or None."""
    bias = getattr(module, "bias", None)
    mean, variance = (getattr(module, f"running_{name}", None) for name in ("mean", "var"))
    if isinstance(mean, Tensor) and isinstance(variance, Tensor):
        scale = (variance + float(getattr(module, "eps", 0.0))).rsqrt()
        if isinstance(weight := getattr(module, "weight", None), Tensor):
            scale = scale * weight
        shift = -mean * scale + (bias if isinstance(bias, Tensor) else 0)
        return shift.view(-1, 1, 1)
    if not isinstance(bias, Tensor):
        return None
    if isinstance(module, nn.Linear):
        return bias
    if isinstance(module, nn.modules.conv._ConvNd):
        return bias.view(-1, *[1] * (module.weight.ndim - 2))
    return None
