"""Hooks into a classifier. Every hook is removed at the end of its `with` block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def watched(model: nn.Module, names: list[str], look: Callable[[str, Any], None]) -> Iterator[None]:
    """Calls `look(name, output)` whenever one of the named modules ends, during the `with` block.

    Raises:
        ValueError: If there is no such module.
    """
    modules, handles = dict(model.named_modules()), []
    if missing := [name for name in names if name not in modules]:
        raise ValueError(
            f"no module {missing[0]!r} in {type(model).__name__}; some names: {list(modules)[1:8]}"
        )
    try:
        for name in names:
            handles.append(modules[name].register_forward_hook(lambda *a, n=name: look(n, a[2])))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded(model: nn.Module, names: list[str]) -> Iterator[dict[str, Any]]:
    """Records the outputs of the named modules during the `with` block.

    Yields:
        The outputs by name, filled by each forward pass.

    Raises:
        ValueError: If there is no such module.
    """
    outputs: dict[str, Any] = {}
    with watched(model, names, lambda name, output: outputs.update({name: output})):
        yield outputs


@contextmanager
def replaced(model: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replaces the output of a layer by `change(output)` during the `with` block."""
    hook = model.get_submodule(layer).register_forward_hook(lambda *call: change(call[2]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def tapped(model: nn.Module, layers: list[str]) -> Iterator[dict[str, Tensor]]:
    """Records the outputs of layers during the `with` block, with gradients from there on.

    The autograd graph starts at the first of these layers to run, whose output is detached. A
    frozen network keeps no graph before it, whether or not the images require gradients, and no
    gradient reaches the images or the parameters.

    Yields:
        The outputs by name, filled by each forward pass.
    """
    taps: dict[str, Tensor] = {}
    handles = []

    def cut(name: str, output: Tensor) -> Tensor:
        start = output if taps else output.detach().requires_grad_()
        # A clone, because the network may modify the output in place. The recorded tensor then
        # holds the modified output.
        taps[name] = start.clone()
        return taps[name]

    try:
        for name in layers:
            module = model.get_submodule(name)
            handles.append(module.register_forward_hook(lambda *a, n=name: cut(n, a[2])))
        yield taps
    finally:
        for handle in handles:
            handle.remove()


class Count:
    """A hook that only counts the images in forward passes, in the first of some counts."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def __call__(self, module: nn.Module | None, inputs: object, output: Tensor) -> None:
        """Counts the images of a batch that a module has let through, outside of compiled code."""
        if not torch.compiler.is_compiling():
            self.counts[0] += len(output)


def looks(model: nn.Module) -> tuple[list[Count], bool]:
    """The hooks in the parts of a network that only count, and whether other ones look or change.

    The network's own hooks are left out, which run whatever its function `forward` does. A part
    whose function `forward` is replaced is changed.
    """
    everywhere = torch.nn.modules.module  # hooks of all modules
    found: list[Any] = [*everywhere._global_forward_hooks, *everywhere._global_forward_pre_hooks]
    for part in model.modules():
        if part is not model:
            found += [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
            found += ["forward"] if "forward" in vars(part) else []
    counts = [each for each in found if isinstance(each, Count)]
    return counts, len(counts) < len(found)


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """Counts the images in forward and backward passes during the `with` block.

    Yields:
        The counts of forward and backward passes, in a list that is updated in place.
    """
    counts = [0, 0]
    # A transformer has parameters of its own, beside its parts, of which a look runs some alone.
    weighted = [m for m in model.modules() if any(True for _ in m.parameters(False))]
    first = next((m for m in weighted if not any(True for _ in m.children())), model)

    def back(gradient: Tensor) -> None:
        counts[1] += len(gradient)

    def answered(_: nn.Module, __: object, output: Tensor) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(back)  # type: ignore[no-untyped-call]

    hooks = [first.register_forward_hook(Count(counts)), model.register_forward_hook(answered)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
