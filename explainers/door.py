"""The door of every explanation: checks and a fixed state, whoever calls and from wherever."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from explainers.explanandum import Explanandum
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.precision import exact

LOW, HIGH = -0.5, 1.5  # images in [0, 1], with room for added noise

Function = TypeVar("Function", bound=Callable[..., Tensor])
Check = Callable[["Explaining", Tensor, Tensor], None]


class Explaining(Protocol):
    """What the door needs to know of an `Explainer`."""

    explanandum: Explanandum
    needs_gradients: bool
    class_specific: bool


_INSIDE: ContextVar[tuple[Explaining, ...]] = ContextVar("_INSIDE", default=())
_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def of_targets(function: Function) -> Function:
    """Puts a function of images and targets (B, K), such as `attribute`, behind the door.

    The door is passed once for each call from outside. Calls of an explainer's functions by each
    other, also by way of `super()`, pass straight.

    On the way in, the images and targets are checked, see `check_inputs`. The function gets copies
    of them, the images in float32 and without gradients, so that it may do with them what it likes.
    It runs outside of inference mode, with gradients enabled if the explainer `needs_gradients`,
    and otherwise if the caller has them enabled. Autocast is off, except for the passes of the
    explanandum, see `precision.exact`. The default dtype is float32 and the default device the CPU.
    Threads that explain the same classifier wait for each other, because they share its hooks.

    On the way out, maps are float32. If the method is class-specific, a target without a class
    gives 0. Maps have no gradient if the explainer `needs_gradients` or the caller has them
    disabled. An empty batch gives an empty map, without a call.
    """
    return _guarded(function, _check_targets)


def of_classes(function: Function) -> Function:
    """Puts a function of images and classes (B, k), such as `class_maps`, behind the same door."""
    return _guarded(function, _check_classes)


def _guarded(function: Function, check: Check) -> Function:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        if any(args[0] is explainer for explainer in _INSIDE.get()):
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        explainer, images, asked, *rest = bound.args
        _check_images(explainer, images, True)
        check(explainer, images, asked)
        of_targets = check is _check_targets
        shape = (*(asked.shape[:1] if of_targets else asked.shape), *images.shape[-2:])
        if 0 in shape:
            return torch.zeros(shape, dtype=torch.float32, device=images.device)
        tracked = torch.is_grad_enabled() and not explainer.needs_gradients
        with _entered(explainer):
            pictures = images.detach().to(torch.float32, copy=True)
            try:
                maps = function(explainer, pictures, asked.clone(), *rest, **bound.kwargs)
            except RuntimeError as error:
                if reason := _reason(error, explainer):
                    raise ValueError(reason) from error
                raise
            if not isinstance(maps, Tensor) or maps.shape != shape:
                found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
                name = f"{type(explainer).__name__}.{function.__name__}"
                raise ValueError(f"{name} must return maps of shape {shape}, got {found}")
            _check_range(explainer, maps)
            maps = (maps if tracked else maps.detach()).to(torch.float32)
            if of_targets and explainer.class_specific:
                maps = maps.where(asked.any(dim=1)[:, None, None], 0.0)
            return maps.clone() if maps.is_inference() else maps

    return cast(Function, call)


def _check_range(explainer: Explaining, maps: Tensor) -> None:
    """Refuses finite values that float32 does not hold, which would pass for infinite ones."""
    if maps.dtype != torch.float64:
        return
    largest = float(maps.detach().abs().nan_to_num(nan=0.0, posinf=0.0).max())
    if largest > torch.finfo(torch.float32).max:
        raise ValueError(
            f"{type(explainer).__name__} gives maps with values up to {largest:.3g}, and maps are "
            "float32, which holds at most 3.4e+38: divide them by their largest magnitude"
        )


@contextmanager
def _entered(explainer: Explaining) -> Iterator[None]:
    """The state in which a method runs; on leaving, that of the caller."""
    gradients = explainer.needs_gradients or torch.is_grad_enabled()
    with ExitStack() as stack:
        stack.enter_context(_LOCKS.setdefault(explainer.explanandum.model, RLock()))
        stack.callback(_INSIDE.reset, _INSIDE.set((*_INSIDE.get(), explainer)))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(exact(explainer.explanandum))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:  # Lightning changes it, with precision bf16-true
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def check_inputs(
    explainer: Explaining, images: Tensor, targets: Tensor, values: bool = True
) -> None:
    """Raises a ValueError unless images and targets are what every method takes.

    Args:
        explainer: The explainer.
        images: Floating images (B, 3, H, W), finite and in [0, 1]. Noise may exceed that range by
            at most 0.5.
        targets: Multi-hot targets (B, K) bool.
        values: Whether to check the values as well. This waits for the images on a GPU.
    """
    _check_images(explainer, images, values)
    _check_targets(explainer, images, targets)


def _check_images(explainer: Explaining, images: Tensor, values: bool) -> None:
    expected = "expected images (B, 3, H, W) in [0, 1]"
    if not isinstance(images, Tensor):
        raise ValueError(f"{expected} as a tensor, got {type(images).__name__}")
    if torch._C._functorch.is_functorch_wrapped_tensor(images):
        raise ValueError(
            "torch.func cannot transform an explanation: call it outside of grad, vmap"
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        shape, fix = tuple(images.shape), ""
        if images.ndim == 3 and 3 in (shape[0], shape[-1]):
            fix = "; a single image: images[None]"
            fix += "" if shape[0] == 3 else ".permute(0, 3, 1, 2)"
        elif images.ndim == 4 and shape[-1] == 3:
            fix = "; channels last: images.permute(0, 3, 1, 2)"
        elif images.ndim == 4 and shape[1] == 1:
            fix = "; gray images: images.expand(-1, 3, -1, -1)"
        elif images.ndim == 4 and shape[1] == 4:
            fix = "; without transparency: images[:, :3]"
        raise ValueError(f"{expected}, got {shape}{fix}")
    if not images.is_floating_point():
        raise ValueError(f"{expected}, got {images.dtype}; 8-bit images: images / 255")
    device = explainer.explanandum.mean.device
    if images.device != device:
        raise ValueError(
            f"the images are on {images.device}, the explainer on {device}: "
            f"images.to({str(device)!r}), or explainer.to({str(images.device)!r})"
        )
    if not values or len(images) == 0:
        return
    low, high = torch.stack(images.detach().aminmax()).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{expected}, got values that are not finite (NaN or infinity)")
    if low < LOW or high > HIGH:
        raise ValueError(
            f"{expected}, got values from {low:.4g} to {high:.4g}; 8-bit images: images / 255; "
            "normalized images: images * std + mean, the explanandum normalizes them itself"
        )


def _check_targets(explainer: Explaining, images: Tensor, targets: Tensor) -> None:
    if explainer.explanandum.head_width == 0 and explainer.class_specific:
        raise NotDefinedError(
            f"{type(explainer).__name__} explains a class, and an encoder without a head has none; "
            "methods without classes are NEMU, and RaNEM with delta: unsupervised"
        )
    expected = (len(images), explainer.explanandum.num_classes)
    shape, dtype = tuple(getattr(targets, "shape", ())), getattr(targets, "dtype", type(targets))
    if not isinstance(targets, Tensor) or dtype != torch.bool or shape != expected:
        raise ValueError(
            f"expected multi-hot targets of shape {expected} and dtype bool, "
            f"got {shape} {dtype}; "
            f"from class indices: F.one_hot(indices, {expected[1]}).bool()"
        )
    _check_device("targets", images, targets)


def _check_classes(explainer: Explaining, images: Tensor, classes: Tensor) -> None:
    count, size = explainer.explanandum.num_classes, len(images)
    shape, dtype = tuple(getattr(classes, "shape", ())), getattr(classes, "dtype", type(classes))
    if dtype != torch.int64 or len(shape) != 2 or shape[0] != size:
        fix = "; one class for each image: classes[:, None]" if shape == (size,) else ""
        raise ValueError(
            f"expected classes of shape ({size}, k) and dtype int64, got {shape} {dtype}{fix}"
        )
    _check_device("classes", images, classes)
    if classes.numel():
        low, high = torch.stack(classes.aminmax()).tolist()
        if low < 0 or high >= count:
            raise ValueError(f"expected classes in [0, {count - 1}], got {low} to {high}")


def _check_device(name: str, images: Tensor, other: Tensor) -> None:
    if other.device != images.device:
        raise ValueError(
            f"the images are on {images.device}, the {name} on {other.device}: "
            f"{name}.to(images.device)"
        )


def _reason(error: RuntimeError, explainer: Explaining) -> str | None:
    """What is wrong with the explainer, if autograd says so."""
    name = type(explainer).__name__
    if "does not require grad" not in str(error):
        return None
    if explainer.needs_gradients:
        return f"{name} differentiates by a tensor without gradients: x.requires_grad_() first"
    return f"{name} differentiates: set needs_gradients = True in the class"
