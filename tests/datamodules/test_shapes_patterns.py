"""Outlines, textures and noise at points that can be worked out by hand."""

import math

import numpy as np
import pytest

from datamodules.shapes_patterns import (
    SHAPES,
    background,
    colour,
    edge,
    noise,
    signed_distance,
    texture,
    unit_area,
)

PI, HALF = math.pi, math.sqrt(0.75)  # half the side of the triangle
TIP = [(math.sin(0.4 * PI * k), -math.cos(0.4 * PI * k)) for k in range(5)]
NOTCH = [
    (0.52 * math.sin(0.4 * PI * (k + 0.5)), -0.52 * math.cos(0.4 * PI * (k + 0.5)))
    for k in range(5)
]


def at(function, shape, points, *numbers):
    u, v = np.array(points, dtype=float).T
    return function(shape, u, v, *numbers)


@pytest.mark.parametrize(
    ("name", "outline", "elsewhere"),
    [
        ("disc", [(0.92, 0), (0, -0.92)], {(0, 0): -0.92, (3, 4): 4.08}),
        ("square", [(0.78, 0.5), (-0.78, -0.78)], {(0, 0): -0.78, (1.78, 0): 1}),
        ("triangle", [(0, -1), (HALF, 0.5), (-HALF, 0.5)], {(0, 0): -0.5, (0, 1): 0.5}),
        ("star", TIP + NOTCH, {}),
        ("cross", [(0.95, 0.34), (-0.34, 0.95), (0.34, -0.34)], {(0, 0): -0.34, (0.5, 0.5): 0.16}),
        ("ring", [(0.96, 0), (0, 0.36)], {(0, 0): 0.36, (0, -0.66): -0.3}),
    ],
)
def test_outlines_by_hand(name, outline, elsewhere):
    shape = SHAPES.index(name)
    np.testing.assert_allclose(at(signed_distance, shape, outline), 0, atol=1e-12)
    if elsewhere:
        found = at(signed_distance, shape, list(elsewhere))
        np.testing.assert_allclose(found, list(elsewhere.values()), atol=1e-12)


def test_a_star_is_the_same_after_a_fifth_of_a_turn():
    u, v = np.random.default_rng(0).uniform(-1, 1, (2, 50))
    turned = complex(math.cos(0.4 * PI), math.sin(0.4 * PI)) * (u + 1j * v)
    distance = signed_distance(3, u, v)
    np.testing.assert_allclose(signed_distance(3, turned.real, turned.imag), distance, atol=1e-9)
    assert (distance[np.hypot(u, v) < 0.4] < 0).all()
    assert (distance[np.hypot(u, v) > 1] > 0).all()


def test_areas_of_unit_shapes_by_hand():
    assert unit_area(0) == pytest.approx(np.pi * 0.92**2, rel=0.01)
    assert unit_area(1) == pytest.approx(1.56**2, rel=0.01)
    assert unit_area(2) == pytest.approx(3 * np.sqrt(3) / 4, rel=0.01)
    assert unit_area(3) == pytest.approx(5 * 0.52 * np.sin(np.pi / 5), rel=0.01)
    assert unit_area(4) == pytest.approx(4 * (2 * 0.95 * 0.34 - 0.34**2), rel=0.02)
    assert unit_area(5) == pytest.approx(np.pi * (0.96**2 - 0.36**2), rel=0.01)


@pytest.mark.parametrize(
    ("name", "light", "dark"),
    [
        ("disc", [(PI / 16, 0), (PI / 16, 0.7)], [(-PI / 16, 0), (3 * PI / 16, 0)]),  # stripes
        ("square", [(PI / 14, PI / 14), (-PI / 14, -PI / 14)], [(PI / 14, -PI / 14)]),  # checks
        ("triangle", [(0.2, 0.18), (0, 0.54)], [(0, 0.18), (0.2, 0.54), (0.2, 0)]),  # dots
        ("star", [(PI / 30, 0), (0, -PI / 30)], [(PI / 10, 0)]),  # rings
        ("cross", [(0, PI / 22), (PI / 14, PI / 22 - 0.13)], [(0, -PI / 22)]),  # waves
        ("ring", [(0.26, 0.16), (0, 0.48)], [(0, 0.16), (0.26, 0.48), (0.26, 0)]),  # bricks
    ],
)
def test_textures_by_hand(name, light, dark):
    shape = SHAPES.index(name)
    assert at(texture, shape, light, 1000.0, 0.0).tolist() == [1] * len(light)
    assert at(texture, shape, dark, 1000.0, 0.0).tolist() == [0] * len(dark)


@pytest.mark.parametrize(("name", "reach"), [("triangle", 0.125), ("ring", 0.26 - 0.045)])
def test_every_second_row_of_dots_and_bricks_is_shifted_by_a_half(name, reach):
    shape = SHAPES.index(name)
    height, width = {"triangle": (0.36, 0.4), "ring": (0.32, 0.52)}[name]
    for row, middle in ((0, width / 2), (1, 0.0), (2, width / 2)):
        for sign in (-1, 1):
            points = [(middle + sign * (reach + d), (row + 0.5) * height) for d in (-0.01, 0.01)]
            assert at(texture, shape, points, 1000.0, 0.0).tolist() == [1, 0]


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_textures_use_both_colours(shape):
    side = np.linspace(-1, 1, 64)
    u, v = np.meshgrid(side, side)
    values = texture(shape, u, v, 100.0, 1.0)[signed_distance(shape, u, v) < -0.1]
    assert 0.15 < values.mean() < 0.85
    assert ((values < 0.02) | (values > 0.98)).mean() > 0.6


def test_edges_by_hand():
    assert edge(np.array([-1.0, 0.0, 0.025, 1.0]), 10.0).tolist() == [0.0, 0.5, 0.75, 1.0]


def test_hues_wrap_around():
    assert colour(0.0, 1.0, 1.0).tolist() == [1, 0, 0]
    np.testing.assert_allclose(colour(1 / 3 + 2, 1.0, 0.5), [0, 0.5, 0], atol=1e-12)
    np.testing.assert_allclose(colour(-1 / 3, 0.5, 1.0), [0.5, 0.5, 1], atol=1e-12)


class Ramp:
    """In place of random numbers, a ramp over the rows of each grid."""

    def uniform(self, low, high, shape):
        return np.broadcast_to(np.arange(-1.0, shape[1] - 1)[:, None], shape)


def test_noise_is_a_cubic_spline_which_keeps_ramps():
    """B-splines reproduce linear functions: the value is the place in cells, times 2 amplitudes."""
    field = noise(Ramp(), (8, 5), {4: 0.5, 2: 0.25}, 2)
    place = (np.arange(8) + 0.5) / 8
    expected = place * 4 * 2 * 0.5 + place * 2 * 2 * 0.25
    np.testing.assert_allclose(field, np.broadcast_to(expected[:, None], (2, 8, 5)), atol=1e-12)


def test_noise_is_smooth():
    field = noise(np.random.default_rng(0), (32, 40), {4: 1.0}, 2)
    assert field.shape == (2, 32, 40)
    assert abs(np.diff(field, axis=2)).max() < 0.3


def test_a_background_takes_the_same_random_numbers_at_any_size():
    rngs = [np.random.default_rng(3) for _ in range(3)]
    small, large, again = (
        background(rng, size)
        for rng, size in zip(rngs, [(48, 48), (96, 96), (48, 48)], strict=True)
    )
    assert len({rng.uniform() for rng in rngs}) == 1
    np.testing.assert_array_equal(small, again)
    assert abs(large.reshape(48, 2, 48, 2, 3).mean((1, 3)) - small).mean() < 0.02
    assert 0.02 <= small.min() < small.max() <= 0.98
    assert small.std(axis=(0, 1)).min() > 0.03  # no plain colour
