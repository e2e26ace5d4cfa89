"""What each metric is handed, and which row its values come to."""

from types import SimpleNamespace

import pytest
import torch

from explainers.evaluation import measure
from explainers.evaluation.measure import check_columns, score_batch, timed, unit_maps
from explainers.methods.constant import Constant
from explainers.metrics.base import PerImageMetric
from explainers.metrics.classification import ClassSpecificity
from explainers.metrics.faithfulness import CurveAUC, RISECurves
from explainers.metrics.localization import MAE, SoftIoU
from explainers.metrics.randomization import MPRT
from explainers.metrics.seconds import Seconds
from tests import planted
from tests.support import SIZE, Truth


class Height(PerImageMetric):
    """Largest value of the map that it is handed."""

    needs = ("maps",)

    def __init__(self, name, unit=False, per_class=False):
        super().__init__()
        self.names, self.wants_unit_maps, self.per_class = (name,), unit, per_class

    def score(self, maps):
        return {self.names[0]: maps.amax(dim=(1, 2))}


class Area(Height):
    """Number of pixels of the object mask that it is handed."""

    needs = ("mask",)

    def score(self, mask):
        return {self.names[0]: mask.sum(dim=(1, 2))}


class Kept(PerImageMetric):
    """First logit of the image under its map."""

    names = ("kept",)
    needs = ("masked_logits",)

    def score(self, masked_logits):
        return {"kept": masked_logits[:, 0]}


def batch(*classes, masks=False):
    """White images whose targets are the given lists of classes."""
    targets = torch.zeros(len(classes), 4, dtype=torch.bool)
    for row, several in enumerate(classes):
        targets[row, several] = True
    explanandum = planted.explanandum()
    inputs = {
        "images": torch.ones(len(classes), 3, *SIZE),
        "targets": targets,
        "explanandum": explanandum,
    }
    if masks:
        inputs["masks"] = planted.quadrant_masks(*SIZE).bool() & targets[:, :, None, None]
    return Truth(explanandum), inputs


def test_a_merged_metric_fills_one_row_an_image_and_a_class_metric_one_a_class():
    explainer, inputs = batch([0], [1, 2])
    metrics = [Height("raw"), Height("unit", unit=True), Height("each", per_class=True), Seconds()]
    values, maps = score_batch(explainer, metrics, inputs)
    assert list(values) == [(0, "0"), (1, "1|2"), (1, "1"), (1, "2")]
    seconds = values[0, "0"]["seconds"]
    assert seconds > 0
    assert values[0, "0"] == {"raw": 3, "unit": 1, "each": 3, "seconds": seconds}
    assert values[1, "1|2"] == {"raw": 3, "unit": 1, "seconds": seconds}
    assert values[1, "1"] == values[1, "2"] == {"each": 3}
    quadrants = planted.quadrant_masks(*SIZE)
    assert torch.equal(maps, 3 * torch.stack([quadrants[0], quadrants[1] + quadrants[2]]))


def test_each_class_is_measured_with_its_own_map_and_mask():
    explainer, inputs = batch([3], [1, 2], masks=True)
    single = SoftIoU()
    single.per_class = True
    values, _ = score_batch(explainer, [Area("all"), Area("own", per_class=True), single], inputs)
    assert [values[key]["all"] for key in ((0, "3"), (1, "1|2"))] == [16, 32]
    for key in ((0, "3"), (1, "1"), (1, "2")):
        assert (values[key]["own"], values[key]["SoftIoU"]) == (16, 1)


def test_a_class_alone_in_its_target_is_not_explained_again():
    metrics = [Height("all"), Height("each", per_class=True)]
    for classes, explained in (([[0], [3], [1]], 3), ([[0], [1, 2, 3]], 2 + 2 + 1 + 1)):
        explainer, inputs = batch(*classes)
        Truth.calls = 0
        score_batch(explainer, metrics, inputs)
        assert Truth.calls == explained


def test_seconds_are_those_of_the_explanation_divided_among_its_images(monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    explainer, inputs = batch([0], [1])
    values, _ = score_batch(explainer, [Seconds(), Height("x")], inputs)
    assert [row["seconds"] for row in values.values()] == [2, 2]


def test_masked_logits_are_those_of_what_the_unit_map_keeps():
    explainer, inputs = batch([0], [1], [0, 1])
    values, _ = score_batch(explainer, [Kept()], inputs)
    # The map of class 0 keeps the white quadrant 0 whole, that of class 1 blacks it out.
    found = [row["kept"] for row in values.values()]
    assert found == pytest.approx([planted.SCALE, 0, planted.SCALE], abs=1e-4)


def test_what_a_later_batch_lacks_is_missing():
    explainer, inputs = batch([0], [1])
    values, _ = score_batch(explainer, [MAE(), Height("x")], inputs | {"logits": None})
    assert [list(v) for v in values.values()] == [["x", "seconds"]] * 2


def test_maps_are_scaled_unless_they_are_masks():
    maps = torch.tensor([[[1.0, 3.0]], [[0.0, 0.5]]])
    explanandum = planted.explanandum()
    assert unit_maps(Truth(explanandum), maps).tolist() == [[[0, 1]], [[0, 1]]]
    assert unit_maps(Constant(explanandum), maps) is maps


@pytest.mark.parametrize("needed", [True, False])
def test_gradients_are_on_for_those_who_need_them(needed):
    class Looks(Truth):
        needs_gradients = needed

        def attribute(self, images, targets):
            assert torch.is_grad_enabled() == needed
            return super().attribute(images, targets) * self.weight

    _, inputs = batch([0])
    with torch.no_grad():
        maps, _ = timed(Looks(inputs["explanandum"]), inputs["images"], inputs["targets"])
    assert not maps.requires_grad
    assert maps.max() == 3


class Broken(Truth):
    """The truth, but for one image with a pixel that is not finite."""

    row, value = 0, torch.nan

    def attribute(self, images, targets):
        maps = super().attribute(images, targets)
        maps[self.row, 0, 0] = self.value
        return maps


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_map_that_is_not_finite_has_no_values_and_stays_visible(value):
    explainer, inputs = batch([0], [1], [2], masks=True)
    metrics = [
        SoftIoU(),
        Height("raw"),
        Height("each", per_class=True),
        Kept(),
        RISECurves(steps=2),
    ]
    expected, plain = score_batch(explainer, metrics, inputs)
    broken = Broken(inputs["explanandum"])
    broken.value = value
    values, maps = score_batch(broken, metrics, inputs)
    assert all(v != v for v in values[0, "0"].values())
    assert "seconds" not in values[0, "0"]
    for row in ((1, "1"), (2, "2")):
        assert values[row].keys() == expected[row].keys()
        assert all(values[row][n] == v for n, v in expected[row].items() if n != "seconds")
    assert torch.equal(maps[1:], plain[1:])
    # Not the constant map 0: the pixel shows, the others are scaled among themselves.
    torch.testing.assert_close(maps[0, 0, 0], torch.tensor(value), equal_nan=True)
    assert torch.equal(maps[0].flatten()[1:], plain[0].flatten()[1:])


def test_an_image_whose_logits_are_not_finite_is_not_explained():
    explainer, inputs = batch([0], [1], [2, 3], masks=True)
    logits = torch.zeros(3, 4)
    logits[1, 2] = torch.nan
    Truth.calls = 0
    metrics = [SoftIoU(), Height("each", per_class=True)]
    values, maps = score_batch(explainer, metrics, inputs | {"logits": logits})
    assert Truth.calls == 2 + 1 + 1 + 1  # two images, then class by class
    assert values.pop((1, "")) == {}
    assert list(values) == [(0, "0"), (2, "2|3"), (2, "2"), (2, "3")]
    assert [values[row]["SoftIoU"] for row in ((0, "0"), (2, "2|3"))] == [1, 1]
    assert maps[1].isnan().all()
    assert maps[[0, 2]].isfinite().all()
    Truth.calls = 0
    values, maps = score_batch(explainer, metrics, inputs | {"logits": logits * torch.nan})
    assert values == {(0, ""): {}, (1, ""): {}, (2, ""): {}}
    assert maps.shape == (3, *SIZE)
    assert maps.isnan().all()
    assert Truth.calls == 0


def test_two_metrics_cannot_write_one_column():
    check_columns([])
    check_columns([RISECurves(), CurveAUC(), CurveAUC(name="b"), MPRT(), MPRT("last"), Seconds()])
    for metrics, said in (
        (
            [SoftIoU(), MAE(), SoftIoU()],
            "SoftIoU and SoftIoU both write 'SoftIoU': score them in two runs",
        ),
        ([CurveAUC(), CurveAUC(steps=3)], "'CurveAUC': give CurveAUC another `name`"),
        ([RISECurves(steps=3), RISECurves()], "both write 'InsertionAUC'"),
        ([MPRT(), MPRT("cascade")], "both write 'MPRT'"),
        ([ClassSpecificity([0]), ClassSpecificity([1])], "both write 'ClassSpecificity/own'"),
        ([CurveAUC(name="MAE"), MAE()], "CurveAUC and MAE both write 'MAE': give CurveAUC another"),
        ([Seconds(), Seconds()], "both write 'seconds'"),
    ):
        with pytest.raises(ValueError, match=said):
            check_columns(metrics)
