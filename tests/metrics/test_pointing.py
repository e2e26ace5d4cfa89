"""Pointing metrics by hand, on maps whose mass and order are known."""

import math

import pytest
import torch

from explainers.metrics.pointing import (
    EffectiveHeatRatio,
    EnergyPointingGame,
    PointingGame,
    RelevanceRankAccuracy,
    TopKIntersection,
    effective_heat,
    mass_inside,
    pointing_hit,
    top_inside,
)

# The object is the upper row; below, the last pixel is void in some tests.
MASK = torch.tensor([[[True, True, True], [False, False, False]]])
MAP = torch.tensor([[[4.0, -2.0, 1.0], [3.0, 0.0, 8.0]]])
VOID = torch.tensor([[[False, False, False], [False, False, True]]])


def point(row, column, size=40):
    maps = torch.zeros(1, size, size)
    maps[0, row, column] = 1
    return maps


def test_the_maximum_hits_up_to_less_than_15_pixels_from_the_object():
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 0, 0] = True
    # TorchRay accepts squared distances below 225: (9, 12) is at 15 exactly, (8, 12) below.
    for place, hit in (((0, 0), 1), ((14, 0), 1), ((15, 0), 0), ((9, 12), 0), ((8, 12), 1)):
        assert pointing_hit(point(*place), mask).item() == hit
    assert pointing_hit(point(0, 0), mask, tolerance=0).item() == 1
    assert pointing_hit(point(0, 1), mask, tolerance=0).item() == 0


def test_equal_maxima_hit_by_their_share():
    maps = torch.tensor([[[5.0, 0.0, 0.0], [5.0, 5.0, 5.0]]])
    assert pointing_hit(maps, MASK, tolerance=0).item() == 0.25


def test_mass_inside_by_hand():
    assert mass_inside(MAP, MASK).item() == 5 / 16
    assert mass_inside(MAP, MASK, VOID).item() == 5 / 8
    assert math.isnan(mass_inside(-MAP.abs(), MASK).item())


def test_highest_pixels_inside_by_hand():
    # The three highest are 8, 4 and 3, of which one is inside; without the void one 4, 3 and 1.
    assert top_inside(MAP, MASK).item() == pytest.approx(1 / 3)
    assert top_inside(MAP, MASK, void=VOID).item() == pytest.approx(2 / 3)
    assert [top_inside(MAP, MASK, k).item() for k in (1, 2, 4)] == [0, 0.5, 0.5]
    assert top_inside(MAP, MASK, 99).item() == 0.5
    # Of a constant map, each pixel counts by the same share, whatever their order.
    assert top_inside(torch.ones(1, 2, 3), MASK).item() == pytest.approx(0.5)


def test_effective_heat_by_hand():
    # Kept are 1.0, 0.5 and 0.5, of which 1.0 and one 0.5 are inside. Quantiles 0 to .5 are 0.5,
    # above they rise to 1.0 (limited to 0.99): heights 1.5 / 3 six times, then 1.0 / 1 five times.
    maps = torch.tensor([[[1.0, 0.5, 0.05], [0.5, 0.0, 0.09]]])
    assert effective_heat(maps, MASK).item() == pytest.approx(0.5 * 0.5 + 0.75 * 0.1 + 0.4)
    assert effective_heat(torch.zeros(1, 2, 3), MASK).item() == 0
    assert effective_heat(0.3 * torch.ones(1, 2, 3), MASK).item() == pytest.approx(0.15)


ALL = [
    PointingGame(), EnergyPointingGame(), RelevanceRankAccuracy(), TopKIntersection(k=3),
    EffectiveHeatRatio(),
]  # fmt: skip


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: type(metric).__name__)
def test_a_perfect_map_gets_1_and_an_empty_object_has_no_value(metric):
    maps = MASK.float().expand(2, -1, -1)
    masks = torch.cat([MASK, torch.zeros_like(MASK)])
    (values,) = metric.measure(maps=maps, mask=masks, void=VOID.expand(2, -1, -1)).values()
    assert values[0].item() == pytest.approx(1)
    assert values[1].isnan()
    assert metric.direction(metric.names[0])


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="tolerance >= 0, got -1"):
        PointingGame(tolerance=-1)
    with pytest.raises(ValueError, match="k >= 1, got 0"):
        TopKIntersection(k=0)
