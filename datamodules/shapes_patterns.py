"""Elements of Shapes scenes: outlines, class textures, colors, noise and backgrounds."""

import colorsys
import functools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SHAPES = ("disc", "square", "triangle", "star", "cross", "ring")


def signed_distance(shape: int, u: Array, v: Array) -> Array:
    """Return the approximate distance to the outline of a shape of radius 1, negative inside."""
    if shape == 0:
        return np.hypot(u, v) - 0.92
    if shape == 1:
        return np.maximum(abs(u), abs(v)) - 0.78
    if shape == 2:  # three half-planes
        sides = np.maximum(abs(u) * math.sqrt(0.75) - v * 0.5, v)
        return sides - 0.5
    if shape == 3:  # folded by symmetry into a tenth of a turn, with one line from tip to notch
        angle = abs((np.arctan2(u, -v) / (0.4 * math.pi) + 0.5) % 1.0 - 0.5) * 0.4 * math.pi
        radius = np.hypot(u, v)
        notch = 0.52
        ex, ey = notch * math.cos(math.pi / 5) - 1.0, notch * math.sin(math.pi / 5)
        along, across = radius * np.cos(angle) - 1.0, radius * np.sin(angle)
        return (across * -ex + along * ey) / math.hypot(ex, ey)
    if shape == 4:
        return np.minimum(
            np.maximum(abs(u) - 0.95, abs(v) - 0.34), np.maximum(abs(u) - 0.34, abs(v) - 0.95)
        )
    return abs(np.hypot(u, v) - 0.66) - 0.3


def texture(shape: int, u: Array, v: Array, sharp: float, phase: float) -> Array:
    """Return the texture of a class in [0, 1]; `sharp` is the number of pixels per unit length."""
    if shape == 0:  # stripes
        return edge(np.sin(8.0 * u + phase) / 8.0, sharp)
    if shape == 1:  # checks
        return edge(np.sin(7.0 * u + phase) * np.sin(7.0 * v + phase) / 7.0, sharp)
    if shape == 2:  # dots, with every second row shifted
        row = np.floor(v / 0.36 + phase)
        across = ((u / 0.4 + 0.5 * (row % 2)) % 1.0 - 0.5) * 0.4
        down = ((v / 0.36 + phase) % 1.0 - 0.5) * 0.36
        return edge(0.125 - np.hypot(across, down), sharp)
    if shape == 3:  # rings
        return edge(np.sin(15.0 * np.hypot(u, v) + phase) / 15.0, sharp)
    if shape == 4:  # waves
        return edge(np.sin(11.0 * (v + 0.13 * np.sin(7.0 * u)) + phase) / 11.0, sharp)
    row = np.floor(v / 0.32 + phase)  # bricks
    across = abs((u / 0.52 + 0.5 * (row % 2)) % 1.0 - 0.5) * 0.52
    down = abs((v / 0.32 + phase) % 1.0 - 0.5) * 0.32
    return edge(np.minimum(0.26 - across, 0.16 - down) - 0.045, sharp)


def edge(distance: Array, sharp: float) -> Array:
    """Return 1 where `distance` is positive, else 0, with a ramp of one pixel (1 / sharp)."""
    return np.clip(0.5 + distance * sharp, 0.0, 1.0)


@functools.cache
def unit_area(shape: int) -> float:
    """Return the area of a shape of radius 1, to about three digits."""
    side = (np.arange(400) + 0.5) / 200.0 - 1.0
    u, v = np.broadcast_arrays(side[None, :], side[:, None])
    return float((signed_distance(shape, u, v) < 0).mean() * 4.0)


def colour(hue: float, saturation: float, value: float) -> Array:
    """Return the RGB color (3,) in [0, 1]; the hue wraps around at 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


@functools.lru_cache(maxsize=256)
def _spline(pixels: int, cells: int) -> Array:
    """Return cubic B-spline weights (pixels, cells + 3) that upsample a coarse grid smoothly."""
    position = (np.arange(pixels) + 0.5) / pixels * cells
    distance = abs(position[:, None] + 1.0 - np.arange(cells + 3)[None, :])
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    far = np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0
    return np.where(distance < 1.0, near, far)


def noise(
    rng: np.random.Generator, size: tuple[int, int], octaves: dict[int, float], channels: int
) -> Array:
    """Return smooth noise (channels, H, W), the sum of `octaves` {cells per side: amplitude}."""
    total = np.zeros((channels, *size))
    for cells, amplitude in octaves.items():
        grid = rng.uniform(-1.0, 1.0, (channels, cells + 3, cells + 3)) * (2.0 * amplitude)
        total += _spline(size[0], cells) @ grid @ _spline(size[1], cells).T
    return total


def background(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Return a background (H, W, 3) of three grainy materials with ragged borders."""
    ragged = {2: 0.8, 5: 0.5, 11: 0.28, 24: 0.14}
    regions = noise(rng, size, ragged, 2)
    grain = noise(rng, size, {6: 0.5, 13: 0.4, 29: 0.42, 61: 0.5}, 1)[0]
    tint = noise(rng, size, {3: 0.06, 9: 0.05, 27: 0.04}, 3)
    hue = rng.uniform()
    picture = np.empty((*size, 3))
    picture[:] = _material(rng, hue)
    strength = np.full(size, rng.uniform(0.05, 0.2))
    for region in regions:
        cover = edge(
            region - rng.uniform(-0.1, 0.4), math.exp(rng.uniform(math.log(1.5), math.log(12.0)))
        )
        picture += cover[..., None] * (_material(rng, hue) - picture)
        strength += cover * (rng.uniform(0.05, 0.28) - strength)
    picture *= (1.0 + grain * strength * 2.2)[..., None]
    picture += tint.transpose(1, 2, 0) * rng.uniform(0.3, 1.0)
    return np.clip(picture, 0.02, 0.98, out=picture)


def _material(rng: np.random.Generator, hue: float) -> Array:
    return colour(hue + rng.normal(0.0, 0.12), rng.uniform(0.08, 0.5), rng.uniform(0.22, 0.8))
