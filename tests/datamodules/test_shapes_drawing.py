"""Scenes: which objects they hold, exact labels and parts, and what a class needs to count."""

import numpy as np
import pytest

from datamodules import shapes_drawing
from datamodules.shapes_drawing import Item, draw_scene, layout
from datamodules.shapes_patterns import unit_area

SIDE = 40


def test_layouts_hold_one_to_three_classes_of_the_promised_sizes():
    layouts = [layout(np.random.default_rng(seed)) for seed in range(400)]
    counts = np.bincount([len(items) for items in layouts], minlength=4) / 400
    np.testing.assert_allclose(counts, [0, 0.42, 0.37, 0.21], atol=0.08)
    for items in layouts:
        assert len({item.shape for item in items}) == len(items)
        for item in items:
            assert 0.03 <= unit_area(item.shape) * item.radius**2 <= 0.28
            margin = min(0.6 * item.radius, 0.4)
            assert margin <= min(item.x, item.y) <= max(item.x, item.y) <= 1 - margin
            assert 0.75 <= item.aspect <= 1.33
            assert item.textured


def drawn(*items, seed=0):
    """Canvas, labels and parts of items drawn one over the other on grey."""
    canvas = np.full((SIDE, SIDE, 3), 0.5)
    labels, parts = np.zeros((2, SIDE, SIDE), np.uint8)
    rng = np.random.default_rng(seed)
    for item in items:
        shapes_drawing._draw(rng, item, canvas, labels, parts)
    return canvas, labels, parts


DISC = Item(shape=0, x=0.5, y=0.5, radius=0.3, aspect=1.0, textured=True)  # 12 pixels of 40


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_and_parts_of_a_disc_are_those_of_its_circles(seed):
    _, labels, parts = drawn(DISC, seed=seed)
    offset = np.arange(SIDE) + 0.5 - SIDE / 2
    distance = np.hypot(offset, offset[:, None])
    np.testing.assert_array_equal(labels, distance < 0.92 * 12)
    np.testing.assert_array_equal(parts == 1, labels.astype(bool) & (distance > 0.81 * 12))
    # A line through the centre, at a random angle, divides the rest.
    np.testing.assert_array_equal((parts == 2)[::-1, ::-1], parts == 3)
    np.testing.assert_array_equal((parts == 2) | (parts == 3), distance <= 0.81 * 12)


def test_a_disc_changes_the_picture_inside_and_shades_what_is_near():
    canvas, labels, _ = drawn(DISC)
    change = abs(canvas - 0.5).max(axis=2)
    offset = np.arange(SIDE) + 0.5 - SIDE / 2
    distance = np.hypot(offset, offset[:, None]) - 0.92 * 12
    assert (change[labels > 0] > 0).mean() > 0.95
    assert (canvas[(distance > 1) & (distance < 2)] < 0.5).all()  # shadow
    assert (change[distance > 0.35 * 12 + 1] == 0).all()


def test_what_lies_above_hides_what_lies_below():
    square = DISC._replace(shape=1, radius=0.15)
    _, labels, parts = drawn(DISC, square)
    assert set(np.unique(labels)) == {0, 1, 2}
    plain = drawn(DISC, square._replace(textured=False))
    hidden = labels == 2  # the same outline, but no object
    assert hidden.sum() == pytest.approx(1.56**2 * 6**2, rel=0.1)
    np.testing.assert_array_equal(plain[1], np.where(hidden, 0, labels))
    np.testing.assert_array_equal(plain[2], np.where(hidden, 0, parts))


def test_twigs_and_leaves_take_labels_away_where_they_lie():
    lost = 0
    for seed in range(6):
        canvas, labels, parts = drawn(DISC)
        before = canvas.copy(), labels.copy(), parts.copy()
        shapes_drawing._occlude(np.random.default_rng(seed), canvas, labels, parts)
        covered = before[1] != labels
        lost += covered.sum()
        np.testing.assert_array_equal(labels, np.where(covered, 0, before[1]))
        np.testing.assert_array_equal(parts, np.where(covered, 0, before[2]))
        assert (abs(canvas - before[0]).max(axis=2)[covered] > 0).all()
    assert lost > 20


@pytest.fixture
def alone(monkeypatch):
    """Scenes of 100 pixels a side with one given object and nothing else."""
    draw = shapes_drawing._draw

    def scene(item):
        monkeypatch.setattr(shapes_drawing, "layout", lambda rng: [item])
        return draw_scene(np.random.default_rng(0), (100, 100), allow_empty=True)

    monkeypatch.setattr(
        shapes_drawing,
        "_draw",
        lambda rng, item, *planes: item.textured and draw(rng, item, *planes),
    )
    monkeypatch.setattr(shapes_drawing, "_occlude", lambda *planes: None)
    return scene


def test_a_class_counts_from_35_percent_of_it_and_0_6_percent_of_the_image(alone):
    # A circle whose centre lies 0.2 or 0.25 of its radius outside shows 37.4 or 34.3 % of itself.
    for outside, counts in ((0.2, True), (0.25, False)):
        scene = alone(DISC._replace(x=-outside * 0.92 * 0.3))
        assert scene.labels.any() == scene.parts.any() == counts
    for radius, counts in ((0.05, True), (0.045, False)):  # 66 and 54 pixels
        scene = alone(DISC._replace(radius=radius))
        assert scene.labels.any() == scene.parts.any() == counts


def test_scenes_keep_their_promises():
    for seed in range(20):
        scene = draw_scene(np.random.default_rng(seed), (48, 36))
        assert scene.image.shape == (48, 36, 3)
        assert scene.image.dtype == scene.labels.dtype == scene.parts.dtype == np.uint8
        np.testing.assert_array_equal(scene.labels > 0, scene.parts > 0)
        areas = np.bincount(scene.labels.ravel(), minlength=7)[1:]
        assert 1 <= (areas > 0).sum() <= 3
        assert areas[areas > 0].min() >= 0.006 * 48 * 36


def test_a_scene_is_its_seed():
    first, again, other = (draw_scene(np.random.default_rng(s), (24, 24)) for s in (1, 1, 2))
    for plane, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(plane, same)
    assert (first.image != other.image).mean() > 0.5


def test_a_scene_looks_alike_at_twice_the_size():
    small, large = (draw_scene(np.random.default_rng(5), (side, side)) for side in (96, 192))
    assert (large.labels[::2, ::2] == small.labels).mean() > 0.98
    coarse = large.image.reshape(96, 2, 96, 2, 3).mean((1, 3))
    assert abs(coarse - small.image).mean() < 8


def test_empty_scenes_only_on_request():
    hidden = 167  # in this scene nothing is visible enough
    assert not draw_scene(np.random.default_rng(hidden), (24, 24), allow_empty=True).labels.any()
    assert draw_scene(np.random.default_rng(hidden), (24, 24)).labels.any()
