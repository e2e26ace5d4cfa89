"""Drawing of Shapes scenes: textured objects among distractors on a cluttered background."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.shapes_patterns import (
    SHAPES,
    Array,
    background,
    colour,
    edge,
    signed_distance,
    texture,
    unit_area,
)

Labels = NDArray[np.uint8]
PARTS = ("outline", "upper", "lower")
# Visible fraction of the object, and fraction of the image, that an object needs to count.
MIN_VISIBLE, MIN_AREA = 0.35, 0.006
OUTLINE = 0.11  # width of the outline in units of the radius of the object
SHADOW = 0.35  # reach of the soft shadow around an object, in the same units


class Scene(NamedTuple):
    """Image (H, W, 3) uint8; labels (H, W), 0 or class + 1; parts (H, W), 0 or part + 1."""

    image: NDArray[np.uint8]
    labels: Labels
    parts: Labels


class Item(NamedTuple):
    """A shape to draw, with its center relative to the image and its radius to sqrt(H * W)."""

    shape: int
    x: float
    y: float
    radius: float
    aspect: float
    textured: bool


def draw_scene(rng: np.random.Generator, size: tuple[int, int], allow_empty: bool = False) -> Scene:
    """Return a scene of 1 to 3 objects; the same random numbers give the same scene at any size.

    An object counts if at least 35 % of it is visible, on at least 0.6 % of the image. Objects that
    do not count have no label. Scenes without any label are drawn again unless `allow_empty`.
    """
    canvas, labels, parts = _attempt(rng, size)
    while not (allow_empty or labels.any()):
        canvas, labels, parts = _attempt(rng, size)
    canvas += rng.normal(0.0, 0.012, (*size, 1))  # sensor noise
    return Scene((np.clip(canvas, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8), labels, parts)


def _attempt(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Array, Labels, Labels]:
    canvas = background(rng, size)
    labels, parts = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    objects = layout(rng)
    distractors = [
        _item(rng, int(rng.integers(len(SHAPES))), _log_uniform(rng, 0.008, 0.09), textured=False)
        for _ in range(rng.integers(2, 7))
    ]
    # Large items are mostly drawn before small ones, so that few objects are hidden.
    for item in sorted(
        objects + distractors, key=lambda item: -item.radius * rng.uniform(0.6, 1.4)
    ):
        _draw(rng, item, canvas, labels, parts)
    for _ in range(rng.integers(0, 3)):
        _occlude(rng, canvas, labels, parts)
    pixels = math.prod(size)
    for item in objects:
        visible = np.count_nonzero(labels == item.shape + 1)
        whole = unit_area(item.shape) * item.radius**2 * pixels
        if visible < max(MIN_VISIBLE * whole, MIN_AREA * pixels):
            parts[labels == item.shape + 1] = 0
            labels[labels == item.shape + 1] = 0
    return canvas, labels, parts


def layout(rng: np.random.Generator) -> list[Item]:
    """Return 1 to 3 objects of different classes, preferably apart, each 3 to 28 % of the image."""
    items: list[Item] = []
    for shape in rng.permutation(len(SHAPES))[: 1 + rng.choice(3, p=(0.42, 0.37, 0.21))]:
        area = _log_uniform(rng, 0.03, 0.28)
        places = [_item(rng, int(shape), area, textured=True) for _ in range(4)]
        items.append(max(places, key=lambda place: _gap(place, items)))
    return items


def _gap(place: Item, items: list[Item]) -> float:
    gaps = [
        math.hypot(place.x - item.x, place.y - item.y) - place.radius - item.radius
        for item in items
    ]
    return min(gaps, default=0.0)


def _item(rng: np.random.Generator, shape: int, area: float, textured: bool) -> Item:
    radius = math.sqrt(area / unit_area(shape))
    margin = min(0.6 * radius, 0.4)
    x, y = rng.uniform(margin, 1.0 - margin, 2)
    return Item(shape, x, y, radius, _log_uniform(rng, 0.75, 1.33), textured)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _window(
    centre: tuple[float, float], reach: float, size: tuple[int, int]
) -> tuple[tuple[slice, slice], Array, Array]:
    """Return the box around a center (x, y) in pixels, and the offsets of its pixels from it."""
    x, y = centre
    rows = slice(max(0, math.floor(y - reach)), min(size[0], math.ceil(y + reach)))
    columns = slice(max(0, math.floor(x - reach)), min(size[1], math.ceil(x + reach)))
    dx: Array = np.arange(columns.start, columns.stop, dtype=np.float64) + (0.5 - x)
    dy: Array = np.arange(rows.start, rows.stop, dtype=np.float64) + (0.5 - y)
    return (rows, columns), dx[None, :], dy[:, None]


def _draw(
    rng: np.random.Generator,
    item: Item,
    canvas: Array,
    labels: Labels,
    parts: Labels,
) -> None:
    size = canvas.shape[0], canvas.shape[1]
    radius = item.radius * math.sqrt(math.prod(size))  # pixels
    angle, phase = rng.uniform(0.0, 2.0 * math.pi, 2)
    stretch = math.sqrt(item.aspect)
    fill = _pattern_colours(rng)
    reach = radius * (1.0 + SHADOW) * max(stretch, 1.0 / stretch) * math.sqrt(1.2)
    box, dx, dy = _window((item.x * size[1], item.y * size[0]), reach, size)
    u = (dx * math.cos(angle) + dy * math.sin(angle)) / (radius * stretch)
    v = (dy * math.cos(angle) - dx * math.sin(angle)) / (radius / stretch)
    distance = signed_distance(item.shape, u, v)
    if item.textured:
        mix = texture(item.shape, u, v, radius, phase)
    else:  # distractor in the same colors, plain or as a gradient
        mix = np.clip(0.5 + rng.choice((0.0, 0.6)) * u + rng.uniform(-0.5, 0.5), 0.0, 1.0)
    paint = fill[0] + mix[..., None] * (fill[1] - fill[0])
    paint += edge(distance + OUTLINE, radius)[..., None] * (fill[2] - paint)
    paint *= (1.0 - 0.16 * np.clip((dx + dy) / radius, -1.0, 1.0))[
        ..., None
    ]  # light from the top left
    shadow = 1.0 - 0.45 * np.clip(1.0 - distance / SHADOW, 0.0, 1.0) ** 2
    part = canvas[box]
    part *= shadow[..., None]
    part += edge(-distance, radius)[..., None] * (paint - part)
    inside = distance < 0.0
    labels[box][inside] = item.shape + 1 if item.textured else 0
    pieces = np.where(distance > -OUTLINE, 1, np.where(v < 0.0, 2, 3))
    parts[box][inside] = pieces[inside] if item.textured else 0


def _pattern_colours(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return a dark color, a light color and an outline color."""
    hue = rng.uniform()
    dark = colour(hue, rng.uniform(0.4, 0.95), rng.uniform(0.1, 0.42))
    light = colour(hue + rng.uniform(-0.5, 0.5), rng.uniform(0.15, 0.85), rng.uniform(0.78, 1.0))
    return dark, light, dark * 0.5 if rng.uniform() < 0.6 else light * 0.9


def _occlude(rng: np.random.Generator, canvas: Array, labels: Labels, parts: Labels) -> None:
    """Draw a twig or a leaf over the scene."""
    size = canvas.shape[0], canvas.shape[1]
    scale = math.sqrt(math.prod(size))
    x, y = rng.uniform(0.05, 0.95, 2)
    length = scale * rng.uniform(0.15, 0.4)
    leaf = rng.uniform() < 0.5
    width = length * rng.uniform(0.2, 0.4) if leaf else scale * rng.uniform(0.015, 0.04)
    angle = rng.uniform(0.0, math.pi)
    tone = colour(rng.uniform(0.05, 0.35), rng.uniform(0.2, 0.7), rng.uniform(0.15, 0.6))
    box, dx, dy = _window((x * size[1], y * size[0]), length + width, size)
    along, across = (
        dx * math.cos(angle) + dy * math.sin(angle),
        dy * math.cos(angle) - dx * math.sin(angle),
    )
    if leaf:
        distance = abs(across) - width * np.clip(1.0 - (along / length) ** 2, 0.0, None)
    else:
        bent = across - width * np.sin(along / length * 3.0)
        distance = np.hypot(np.clip(abs(along) - length, 0.0, None), bent) - width
    vein = 0.75 + 0.5 * edge(across, 1.0)
    part = canvas[box]
    part += np.clip(0.5 - distance, 0.0, 1.0)[..., None] * (tone * vein[..., None] - part)
    labels[box][distance < 0.0] = 0
    parts[box][distance < 0.0] = 0
