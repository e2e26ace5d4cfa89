"""A copy of a frozen classifier that computes faster, for the many passes of a training."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from explainers.explanandum.frozen import Explanandum

TOLERANCE = 1e-3  # of the logits, relative to the largest


@torch.no_grad()
def folded(explanandum: Explanandum) -> Explanandum:
    """An explanandum with the same logits up to rounding, whose network computes faster.

    In eval mode, a batch norm scales and shifts each channel, which the convolution before it can
    do. What remains is computed in channels_last, where convolutions alone are faster. If no batch
    norm can be folded, or the logits of a trial differ by more than a thousandth of the largest,
    the explanandum itself is returned.

    Args:
        explanandum: The frozen classifier. Later changes of its weights do not reach the copy.
    """
    trial = torch.rand(
        (2, 3, *explanandum.input_size), generator=torch.Generator().manual_seed(0)
    ).to(explanandum.mean)
    faster = copy.copy(explanandum)
    faster._modules = {**explanandum._modules, "model": copy.deepcopy(explanandum.model)}
    before = faster(trial)
    if not _fold(faster, trial):
        return explanandum
    faster.model.to(memory_format=torch.channels_last)
    same = (faster(trial) - before).abs().max() <= TOLERANCE * before.abs().max()
    return faster if bool(same) else explanandum


def _fold(explanandum: Explanandum, trial: Tensor) -> int:
    """Folds each batch norm whose input is the output of a convolution; returns their number."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = module, output  # kept, so that no other tensor gets its id
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in outputs:
            pairs[module] = outputs[id(inputs[0])][0]

    hooks = [module.register_forward_hook(note) for module in explanandum.model.modules()]
    explanandum(trial)
    for hook in hooks:
        hook.remove()
    places = {
        child: (parent, name)
        for parent in explanandum.model.modules()
        for name, child in parent.named_children()
    }
    for norm, conv in pairs.items():
        if norm.running_mean is None or norm.running_var is None:  # a norm of the batch itself
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
            norm.weight, norm.bias,
        )  # fmt: skip
        conv.weight.requires_grad_(False)
        conv.bias.requires_grad_(False)
        parent, name = places[norm]
        # A batch norm of timm has its activation inside. The names of the layers stay.
        setattr(parent, name, nn.Sequential(OrderedDict(norm.named_children())))
    return len(pairs)
