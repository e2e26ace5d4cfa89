"""Resized maps, and maps of single classes without storing those of all classes."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def upsample(maps: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w), resized bilinearly to (B, C, *size)."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def select_classes(logits: Tensor, targets: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Full-resolution logits (N, *size) of the N true (image, class) pairs of targets (B, C)."""
    return upsample(logits[targets].unsqueeze(1), size).squeeze(1)


def gather_classes(logits: Tensor, classes: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Full-resolution logits (B, k, *size) of the given classes (B, k) int64."""
    index = classes[:, :, None, None].expand(-1, -1, *logits.shape[-2:])
    return upsample(logits.gather(1, index), size)


def max_over_classes(
    logits: Tensor, allowed: Tensor, size: torch.Size | tuple[int, int], chunk: int = 32
) -> Tensor:
    """Pixelwise maximum (B, *size) of the upsampled logits (B, C, h, w) over the allowed classes.

    The result is exactly `upsample(logits, size)`, masked by `allowed` (B, C) bool and reduced by a
    maximum, but not all classes are stored at full resolution. The class with the maximum is found
    without gradients, `chunk` classes at a time, among those that can have it anywhere. Only the
    values of these classes are then interpolated with gradients. An image without an allowed class
    gives -inf, without gradient.
    """
    with torch.no_grad():
        classes = _listed(allowed)  # (B, m)
        if classes.shape[1] > chunk:
            classes = _listed(
                torch.zeros_like(allowed).scatter(1, classes, _competing(logits, classes))
            )
        winner = classes[:, :1, None].expand(-1, *size)
        if classes.shape[1] > 1:
            best = logits.new_full((len(logits), *size), -torch.inf)
            for part in torch.split(classes, chunk, dim=1):
                values, index = gather_classes(logits, part, size).max(dim=1)
                own = part.gather(1, index.flatten(1)).view_as(index)
                winner = torch.where(values > best, own, winner)
                best = torch.maximum(values, best)
    values = _interpolate_at(logits, winner)
    return values.masked_fill(~allowed.any(dim=1)[:, None, None], -torch.inf)


def _listed(chosen: Tensor) -> Tensor:
    """Chosen classes (B, m) in ascending order, of chosen (B, C) bool; the first fills up a row."""
    count = max(1, int(chosen.sum(dim=1).max()))
    order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    return order.where(chosen.gather(1, order), order[:, :1])


def _competing(logits: Tensor, classes: Tensor) -> Tensor:
    """Whether a class (B, m) can be the largest of them anywhere between the positions of logits.

    An interpolated value lies between the least and the largest of the four values around it.
    """
    index = classes[:, :, None, None].expand(-1, -1, *logits.shape[-2:])
    corners = F.pad(logits.gather(1, index).float(), [1] * 4, mode="replicate")
    most, least = F.max_pool2d(corners, 2, 1), -F.max_pool2d(-corners, 2, 1)
    slack = 1e-5 * corners.abs().amax(dim=(1, 2, 3), keepdim=True)  # for rounding
    return (most >= least.amax(dim=1, keepdim=True) - slack).flatten(2).any(dim=2)


def _interpolate_at(maps: Tensor, classes: Tensor) -> Tensor:
    """Bilinearly interpolated value (B, H, W) of the class (B, H, W) chosen at each pixel."""
    batch, _, h, w = maps.shape
    rows = _corners(h, classes.shape[1], maps.device)
    columns = _corners(w, classes.shape[2], maps.device)
    flat = maps.flatten(1)
    out = torch.zeros(classes.shape, dtype=maps.dtype, device=maps.device)
    for y, weight_y in rows:
        for x, weight_x in columns:
            index = (classes * h + y[:, None]) * w + x[None, :]
            corner = flat.gather(1, index.flatten(1)).view(batch, *classes.shape[1:])
            out = out + corner * (weight_y[:, None] * weight_x[None, :]).to(maps.dtype)
    return out


def _corners(small: int, large: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The two source positions of every target position in a bilinear resize, and their weights."""
    position = (
        (torch.arange(large, dtype=torch.float64, device=device) + 0.5) * (small / large) - 0.5
    ).clamp(min=0)
    low = position.floor().long().clamp(max=small - 1)
    fraction = position - low
    return [(low, 1 - fraction), ((low + 1).clamp(max=small - 1), fraction)]


def resize(
    masks: Tensor, size: tuple[int, int], mode: Literal["nearest", "bilinear"] = "bilinear"
) -> Tensor:
    """Masks (n, ..., h, w), resized to (n, ..., H, W) with pixel centers aligned."""
    flat = masks.flatten(1, -3) if masks.ndim > 3 else masks.unsqueeze(1)
    corners = None if mode == "nearest" else False
    large = F.interpolate(flat, size=size, mode=mode, align_corners=corners)
    return large.view(*masks.shape[:-2], *size)
