"""What curve metrics share, on points that are known."""

import pytest
import torch

from explainers.metrics.curve_metric import CurveMetric, curve_values
from explainers.metrics.faithfulness import RISECurves, SLOCCurves
from explainers.metrics.monte_carlo import half_width
from explainers.perturbation.curves import Curve, Responses
from tests import planted


class Whole(CurveMetric):
    """Area under the logit while pixels turn black, and the number of points looked at."""

    names = ("area", "points")

    def setting(self, size):
        return Curve(pixels=1, fill="black")

    def score(self, images, maps, targets, explanandum):
        setting = self.setting(maps.shape[1:])
        (found,) = self.run([setting], images, maps, targets, explanandum)
        points = torch.full((len(images),), found.logit.shape[1])
        return {"area": self.area(found.logit), "points": points}


def measured(metric, **inputs):
    """Values of two white images whose maps rank the followed quadrant, 4 of 16 pixels, first."""
    images, quadrants = torch.ones(2, 3, 4, 4), planted.quadrant_masks(4, 4)[:2]
    given = {"images": images, "maps": quadrants, "targets": torch.eye(4)[:2].bool()}
    return metric.measure(explanandum=planted.explanandum(), **given | inputs)


def test_an_area_by_hand():
    # The logit falls from 20 to 0 over the first 4 of 16 steps.
    found = measured(Whole())
    torch.testing.assert_close(found["area"], torch.full((2,), 40 / 16).double(), atol=1e-5, rtol=0)
    assert found["points"].tolist() == [17, 17]


def test_drawn_points_all_count_alike():
    # Without the start: 15, 10, 5 and 13 zeros.
    found = measured(Whole(draws=16))
    torch.testing.assert_close(found["area"], torch.full((2,), 30 / 16).double(), atol=1e-5, rtol=0)
    assert measured(Whole(draws=3))["points"].tolist() == [3, 3]


@pytest.mark.parametrize("draws", [None, 5])
def test_batches_and_their_layout_change_no_value(draws):
    expected = measured(Whole(draws))
    for batch_size, channels_last in ((1, True), (7, False)):
        found = measured(Whole(draws, batch_size, channels_last))
        torch.testing.assert_close(found["area"], expected["area"], atol=1e-5, rtol=0)


def test_points_of_a_curve_as_numbers():
    """Two images along three points; the classes followed are 1 and 0."""
    found = Responses(
        probability=torch.tensor([[0.9, 0.4, 0.1], [0.8, 0.7, 0.6]]),
        logit=torch.tensor([[3.0, 1.0, -2.0], [2.0, 1.5, 1.0]]),
        top=torch.tensor([[1, 2, 0], [2, 0, 2]]),
        clean=torch.tensor([1, 2]),
    )
    targets = torch.tensor([[0, 1, 0], [1, 0, 0]]).bool()
    assert curve_values(found, "probability", targets) is found.probability
    assert torch.equal(curve_values(found, "logit", targets), found.logit)
    assert curve_values(found, "hit", targets).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert curve_values(found, "unchanged", targets).tolist() == [[1, 0, 0], [1, 0, 1]]
    lost = found._replace(probability=torch.tensor([[0.9, torch.nan, 0.1], [0.8, 0.7, 0.6]]))
    for value in ("probability", "logit", "hit", "unchanged"):
        assert curve_values(lost, value, targets).isnan().nonzero().tolist() == [[0, 1]]


def test_too_few_draws_are_refused():
    for draws in (0, -1):
        with pytest.raises(ValueError, match=f"draws must be at least 1 or None, got {draws}"):
            Whole(draws)
    with pytest.raises(ValueError, match=r"draws must be in \[1, 16\], got 17"):
        measured(Whole(draws=17))


def areas(metric):
    """Values of two planted scenes under random maps."""
    images, targets = planted.scenes(2, (8, 8))
    maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = {"targets": targets, "explanandum": planted.explanandum()}
    return metric.measure(images=images, maps=maps, **inputs)


def test_a_few_drawn_points_estimate_the_whole_area():
    whole, every = areas(RISECurves(pixels=1)), areas(RISECurves(pixels=1, draws=64))
    few, again = (areas(RISECurves(pixels=1, draws=16)) for _ in range(2))
    for name in ("InsertionAUC", "DeletionAUC"):
        # All points but the first, each counting alike: the trapezoid counts the ends half.
        torch.testing.assert_close(every[name], whole[name], atol=1 / 64, rtol=0)
        assert not torch.equal(few[name], every[name])
        assert ((few[name] - every[name]).abs() <= half_width(16, 64)).all()
        assert torch.equal(few[name], again[name])


def test_unchanged_answers_compare_with_the_whole_image_also_at_drawn_points():
    whole, every = areas(SLOCCurves(steps=64)), areas(SLOCCurves(steps=64, draws=64))
    for name in ("POS", "NEG", "DEL", "INS"):
        torch.testing.assert_close(every[name], whole[name], atol=100 / 64, rtol=0)


def test_the_table_says_how_far_an_estimate_may_be_off():
    assert RISECurves().note((224, 224)) == ""
    note = RISECurves(pixels=1, draws=100).note((224, 224))
    assert note.startswith(
        "InsertionAUC, DeletionAUC, Faithfulness: areas from 100 of 50176 points"
    )
    assert f"{half_width(100, 50176):.3f}" in note
