"""What stands around a network: wrappers that hide it, and layers that already normalize."""

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

# Names under which libraries keep the mean and std of a normalization layer.
_PAIRS = [(f"{prefix}mean", f"{prefix}std") for prefix in ("", "_", "pixel_", "image_")]


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside wrappers that compute the same.

    These are `nn.DataParallel`, `DistributedDataParallel`, `AveragedModel`, the result of
    `torch.compile`, and an `nn.Sequential` with a single child.

    Raises:
        ValueError: If the model is no module, or was built in inference mode.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"expected a classifier by name or an nn.Module, got {type(model).__name__}; "
            "wrap a function in an nn.Module"
        )
    if any(weight.is_inference() for weight in model.parameters()):
        raise ValueError(
            "the classifier was built in inference mode, so that nothing can be differentiated "
            "through it: build it outside of torch.inference_mode()"
        )
    while True:
        inner: Any = None
        if isinstance(model, nn.DataParallel | DistributedDataParallel | AveragedModel):
            inner = model.module
        elif "_orig_mod" in model._modules:
            inner = model._modules["_orig_mod"]
        elif type(model) is nn.Sequential and len(model) == 1:
            inner = model[0]
        if inner is None:
            return model
        model = inner


def own_normalization(model: nn.Module) -> str | None:
    """Class name of a layer that subtracts a mean and divides by a std, if there is one."""
    for module in model.modules():
        for pair in _PAIRS:
            values = [getattr(module, name, None) for name in pair]
            if all(_count(value) in (1, 3) for value in values):
                return type(module).__name__
    return None


def _count(value: Any) -> int:
    """Number of elements of a tensor or of a list of numbers; 0 of anything else."""
    if hasattr(value, "numel"):
        return int(value.numel())
    return len(value) if isinstance(value, list | tuple) else 0
