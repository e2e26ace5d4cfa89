"""Exact arithmetic around a classifier whose own passes may use a lower precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


@contextmanager
def exact(explanandum: Any) -> Iterator[None]:
    """Turns the caller's autocast off during the `with` block, except for the classifier's passes.

    Everything inside the block computes in float32. `Explanandum.forward` and
    `Explanandum.features_and_logits` go on using the data type of the caller's autocast. Blocks may
    be nested.

    Args:
        explanandum: The `Explanandum` whose passes keep the autocast.
    """
    device = explanandum.mean.device.type
    if not torch.is_autocast_enabled(device):
        yield
        return
    before = explanandum.autocast_dtype
    explanandum.autocast_dtype = torch.get_autocast_dtype(device)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        explanandum.autocast_dtype = before


def passes(explanandum: Any) -> AbstractContextManager[Any]:
    """Context of a pass of the classifier's network: the caller's autocast, on or off."""
    if explanandum.autocast_dtype is None:
        return nullcontext()
    return torch.autocast(explanandum.mean.device.type, dtype=explanandum.autocast_dtype)


def own_dtype(network: nn.Module) -> torch.dtype | None:
    """Data type of the network's first floating-point weight. None if it has none."""
    for tensors in (network.parameters(), network.buffers()):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor.dtype
    return None
