"""Inputs of a metric: their checks, and which images of a batch have a value."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from explainers.door import HIGH, LOW
from explainers.explanandum import Explanandum
from explainers.functional import masking

# Images come first: the other inputs must have their size.
SHAPES = {
    "images": ("B", 3, "H", "W"),
    "maps": ("B", "H", "W"),
    "targets": ("B", "K"),
    "labels": ("B", "K"),
    "logits": ("B", "K"),
    "masked_logits": ("B", "K"),
    "mask": ("B", "H", "W"),
    "void": ("B", "H", "W"),
    "boxes": ("B", "M", 5),
    "parts": ("B", "K", "P", "H", "W"),
    "interventions": ("B", "S", 3, "H", "W"),
    "backgrounds": ("B", "N", 3, "H", "W"),
    "objects": ("B", "N", "H", "W"),
    "shared": ("B", "K", "P"),
    "seconds": ("B",),
    "passes": ("B", 2),
    "inpaintings": ("B",),
}
FLOATING = {
    "images": "; use images.float() / 255",
    "maps": "; use maps.float()",
    "logits": "",
    "masked_logits": "",
}
BINARY = {
    "targets": "targets > 0",
    "labels": "labels > 0",
    "mask": "mask > 0",
    "void": "void > 0",
    "parts": "parts > 0",
    "objects": "objects > 0",
    "shared": "shared > 0",
}
ONE_HOT = "from class indices: F.one_hot(indices, K).bool()"


class Asks(Protocol):
    """What a metric says about its inputs, see `PerImageMetric`."""

    needs: tuple[str, ...]
    optional: tuple[str, ...]
    per_class: bool
    wants_unit_maps: bool


def prepare(metric: Asks, given: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """Inputs that a metric uses, checked and without the images that cannot have a value.

    An image has no value if its map or the classifier's output is not finite, or if no class of it
    is explained. Logits that are needed but not given are computed if possible.

    Args:
        metric: The metric.
        given: All inputs by name, also those that the metric does not use. None counts as missing.

    Returns:
        The inputs of the images that have a value, and which of the batch these are, (B,) bool.

    Raises:
        ValueError: If an input is missing, or has another shape, type or range than it must have.
    """
    inputs = {name: value for name, value in given.items() if value is not None}
    _check_needs(metric, inputs)
    used = {*metric.needs, *metric.optional}
    if used & {"logits", "masked_logits"} and "explanandum" in inputs:
        used |= {"images", "explanandum"} & inputs.keys()
    if metric.wants_unit_maps or "masked_logits" in used:
        used |= {"maps"} & inputs.keys()
    checked = _checked(metric, {name: inputs[name] for name in inputs if name in used})
    size = next(len(value) for value in checked.values() if isinstance(value, Tensor))
    known = torch.ones(size, dtype=torch.bool)
    for name in ("maps", "logits"):  # also where the metric does not look at them itself
        value = inputs.get(name)
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == size:
            known &= finite(value)
    if "targets" in checked:
        known &= checked["targets"].any(dim=1).cpu()
    checked = _rows(checked, known)
    for name, compute in (("logits", _logits), ("masked_logits", _masked_logits)):
        if name in metric.needs and bool(known.any()):
            if name not in checked:
                checked[name] = _exact_enough(compute(checked))
            kept = finite(checked[name])
            known[known.clone()] = kept
            checked = _rows(checked, kept)
    return {n: v for n, v in checked.items() if n in (*metric.needs, *metric.optional)}, known


def finite(values: Tensor) -> Tensor:
    """Whether all values of each row of a tensor (B, ...) are finite, (B,) bool on the CPU."""
    return values.detach().flatten(1).isfinite().all(dim=1).cpu()


def masked_logits(explanandum: Explanandum, images: Tensor, maps: Tensor) -> Tensor:
    """Logits (B, K) of images (B, 3, H, W) masked by maps (B, H, W) in [0, 1].

    The mean color replaces what the maps remove.
    """
    images = _exact_enough(images)
    logits: Tensor = explanandum(masking.blend(images, maps.to(images), explanandum.mean))
    return logits


def _logits(inputs: Mapping[str, Any]) -> Tensor:
    logits: Tensor = inputs["explanandum"](inputs["images"])
    return logits


def _masked_logits(inputs: Mapping[str, Any]) -> Tensor:
    return masked_logits(inputs["explanandum"], inputs["images"], inputs["maps"])


def _check_needs(metric: Asks, inputs: Mapping[str, Any]) -> None:
    computable = set()
    if {"images", "explanandum"} <= inputs.keys():
        computable = {"logits", "masked_logits"} if "maps" in inputs else {"logits"}
    if missing := [n for n in metric.needs if n not in inputs and n not in computable]:
        raise ValueError(
            f"{type(metric).__name__} needs {', '.join(missing)}; "
            f"got only {', '.join(inputs) or 'nothing'}"
        )


def _rows(inputs: Mapping[str, Any], kept: Tensor) -> dict[str, Any]:
    if bool(kept.all()):
        return dict(inputs)
    return {
        name: value[kept.to(value.device)]
        if isinstance(value, Tensor) and value.ndim and len(value) == len(kept)
        else value
        for name, value in inputs.items()
    }


def _checked(metric: Asks, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as plain tensors on the device of the images: at least float32, or bool."""
    checked = dict(inputs)
    sizes: dict[Any, tuple[int, str]] = {}
    if isinstance(classes := getattr(inputs.get("explanandum"), "num_classes", None), int):
        sizes["K"] = classes, "explanandum"
    images = inputs.get("images")
    for name in (n for n in SHAPES if n in inputs):
        value = inputs[name]
        try:
            if not isinstance(value, Tensor):
                raise ValueError(f"must be a tensor, got {type(value).__name__}")
            value = value.detach()
            if isinstance(images, Tensor):
                value = value.to(images.device)
            _check_shape(name, value, sizes)
            value = _typed(name, value)
            _check_values(metric, name, value, sizes.get("K", (0, ""))[0])
        except ValueError as error:
            raise ValueError(f"{type(metric).__name__}: {name} {error}") from None
        checked[name] = _exact_enough(value)
        if name == "maps" and metric.wants_unit_maps:
            checked[name] = checked[name].clamp(0, 1)  # of what rounding left outside
    return checked


def _exact_enough(value: Tensor) -> Tensor:
    half = value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _check_shape(name: str, value: Tensor, sizes: dict[Any, tuple[int, str]]) -> None:
    shape = SHAPES[name]
    written = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    got = f"got {tuple(value.shape)}"
    if value.ndim != len(shape):
        fix = ""
        if value.ndim == 4 and len(shape) == 3 and value.shape[1] == 1:
            fix = f"; drop the channel: {name}[:, 0]"
        if value.ndim == 1 and shape == ("B", "K"):
            fix = f"; {ONE_HOT}"
        raise ValueError(f"must be {written}, {got}{fix}")
    for letter, length in zip(shape, value.shape, strict=True):
        expected, source = sizes.setdefault(letter, (length, name))
        if isinstance(letter, int):
            expected, source = letter, ""
        if length != expected:
            why = f" with {letter} = {expected} as in {source}" if source else ""
            raise ValueError(f"must be {written}{why}, {got}")


def _typed(name: str, value: Tensor) -> Tensor:
    if name in FLOATING:
        if not value.is_floating_point():
            raise ValueError(f"must be floating point, got {value.dtype}{FLOATING[name]}")
        return value
    if name in BINARY and value.dtype != torch.bool:
        if bool(((value != 0) & (value != 1)).any()):
            low, high = value.min().item(), value.max().item()
            raise ValueError(
                f"must be bool or hold only 0 and 1, got values from {low:.4g} to {high:.4g}; "
                f"use {BINARY[name]}"
            )
        return value.bool()
    return value


def _check_values(metric: Asks, name: str, value: Tensor, classes: int) -> None:
    known = value[value.isfinite()] if value.is_floating_point() else value
    if not known.numel():
        return
    low, high = known.min().item(), known.max().item()
    got = f"got values from {low:.4g} to {high:.4g}"
    if name == "images" and not LOW <= low <= high <= HIGH:
        raise ValueError(f"must lie in [0, 1], {got}")
    if name == "maps" and metric.wants_unit_maps:
        slack = max(4 * torch.finfo(value.dtype).eps, 1e-5)
        if not -slack <= low <= high <= 1 + slack:
            raise ValueError(
                f"must lie in [0, 1], {got}; scale them, as the Score callback does: "
                "explainers.functional.masking.minmax(maps)"
            )
    if name == "targets" and metric.per_class and bool((value.sum(dim=1) > 1).any()):
        raise ValueError(
            "must be one-hot (B, K), since the metric follows one class an image; update once for "
            "each class, with the map of that class"
        )
    if name == "boxes" and not -1 <= value[..., 0].min() <= value[..., 0].max() < classes:
        raise ValueError(f"must begin with a class below {classes}, or -1 in unused rows, {got}")
