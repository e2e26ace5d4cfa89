"""Masks of limited detail: a smooth maximum over a coarse grid of parameters."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

COLDNESS = 20.0  # inverse temperature of the smooth maximum; the paper's temperature is 1/20


def smooth_masks(parameters: Tensor, size: tuple[int, int], spacing: int, sigma: float) -> Tensor:
    """Masks (n, A, H, W) in [0, 1], in which no detail is smaller than the kernel.

    Each pixel is the smooth maximum of the parameters v_j around it, weighted by a kernel k of
    their distances d_j in pixels:

        sum_j f_j exp(20 f_j) / sum_j exp(20 f_j)  with  f_j = k(d_j) v_j
        k(d) = exp(-2 max(d / sigma - 1/2, 0)^2)

    The sums include the parameters that are at most 1 + ceil(sigma / spacing) cells away. Outside
    the image the outermost parameters are repeated. With zeros instead, the mask would at first be
    largest at the border of the image, and it would stay there.

    Source: Fong et al. 2019.

    Args:
        parameters: Parameters (n, A, h, w) in [0, 1], each in the middle of a square cell.
        size: Height and width of the masks in pixels.
        spacing: Side of a cell in pixels.
        sigma: Width of the kernel in pixels.
    """
    radius = _radius(spacing, sigma)
    padded = F.pad(parameters, [radius] * 4, mode="replicate")
    first = spacing * radius - (spacing - 1) / 2
    return _pool(padded, spacing, sigma, first)[..., : size[0], : size[1]]


def torchray_masks(parameters: Tensor, spacing: int, sigma: float) -> Tensor:
    """Masks of TorchRay's generator, the image and a border around it, (n, A, H', W').

    Differences from `smooth_masks`: parameters lie at the top left pixels of their cells, and
    parameters outside the image are 0. The image begins at row and column round(sigma). Below and
    to the right of it, the border is narrower.

    Source: `MaskGenerator` of TorchRay.

    Args:
        parameters: Parameters (n, A, h, w) in [0, 1].
        spacing: Side of a cell in pixels.
        sigma: Width of the kernel in pixels.
    """
    padding = 1 + math.ceil(2 * sigma / spacing)
    masks = _pool(F.pad(parameters, [padding] * 4), spacing, sigma, spacing * padding - sigma)
    height, width = (side - spacing + 1 for side in masks.shape[-2:])
    return masks[..., :height, :width]


def _radius(spacing: int, sigma: float) -> int:
    """Number of cells in each direction that the smooth maximum covers."""
    return 1 + math.ceil(sigma / spacing)


def _pool(parameters: Tensor, spacing: int, sigma: float, first: float) -> Tensor:
    """Smooth maxima (n, A, H', W') of padded parameters, of each window of 2 radius + 1 cells.

    Args:
        parameters: Parameters (n, A, h, w), padded.
        spacing: Side of a cell in pixels.
        sigma: Width of the kernel in pixels.
        first: Distance in pixels from a window's first parameter to the first pixel of its cell.
    """
    side = 2 * _radius(spacing, sigma) + 1
    rows, columns = (length - side + 1 for length in parameters.shape[-2:])
    around = F.unfold(parameters.flatten(0, 1).unsqueeze(1), side)
    kernel = _kernel(spacing, sigma, side, first).to(parameters)
    pooled: Tensor = _SmoothMaximum.apply(around.mT.flatten(0, 1), kernel)
    cells = pooled.view(len(around), rows, columns, spacing**2).permute(0, 3, 1, 2)
    masks = F.pixel_shuffle(cells, spacing)
    return masks.reshape(*parameters.shape[:2], *masks.shape[-2:])


def _kernel(spacing: int, sigma: float, side: int, first: float) -> Tensor:
    """Kernel weights (spacing^2, side^2) in float64.

    A row belongs to a pixel of a cell, a column to one of the parameters of its window.
    """
    pixels = torch.arange(spacing, dtype=torch.float64) + first
    line = (pixels[:, None] - spacing * torch.arange(side)).square()
    distance = (line[:, None, :, None] + line[None, :, None, :]).sqrt()
    kernel = (-2 * (distance / sigma - 0.5).clamp(min=0).square()).exp()
    return kernel.flatten(2).flatten(0, 1)


class _SmoothMaximum(torch.autograd.Function):
    """Smooth maxima (R, P) of the rows of values (R, J), weighted by each row of a kernel (P, J).

    The R P J products take about a hundred times the memory of the masks. They are therefore
    computed for a part of the rows at a time, and again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, kernel: Tensor) -> Tensor:
        maxima, totals = values.new_empty(2, len(values), len(kernel)).unbind(0)
        for part in _parts(values, kernel):
            scaled = COLDNESS * kernel * values[part, None]
            powers = scaled.exp()
            torch.sum(powers, dim=2, out=totals[part])
            maxima[part] = powers.mul_(scaled).sum(dim=2) / (COLDNESS * totals[part])
        ctx.save_for_backward(values, kernel, maxima, totals)
        return maxima

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        values, kernel, maxima, totals = ctx.saved_tensors
        result = torch.empty_like(values)
        # Derivative by f = kernel * value: exp(20 f) / total * (1 + 20 (f - maximum)).
        for part in _parts(values, kernel):
            scaled = COLDNESS * kernel * values[part, None]
            slopes = scaled.exp().mul_(scaled.add_((1 - COLDNESS * maxima[part])[:, :, None]))
            share = gradients[0][part] / totals[part]
            torch.sum(slopes.mul_(kernel).mul_(share[:, :, None]), dim=1, out=result[part])
        return result, None


def _parts(values: Tensor, kernel: Tensor) -> list[slice]:
    # Number of products that fit into the cache of a CPU, or into the memory of a GPU.
    room = 2**17 if values.device.type == "cpu" else 2**26
    rows = max(1, room // kernel.numel())
    return [slice(start, start + rows) for start in range(0, len(values), rows)]
