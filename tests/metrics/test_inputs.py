"""What metrics refuse, in one line that says what to do, and what they take as it comes."""

import re

import pytest
import torch
from torch.nn import functional as F

from explainers.metrics.faithfulness import RISECurves, SLOCCurves
from explainers.metrics.funnybirds import FunnyBirds
from explainers.metrics.inputs import finite
from explainers.metrics.localization import MAE, SoftAccuracy, SoftIoU
from explainers.metrics.localization_boxes import LocalizationError
from explainers.metrics.passes import Passes
from explainers.metrics.randomization import MPRT
from explainers.metrics.saliency import MaskSaliency
from explainers.metrics.segmentation import SegmentationScores
from tests import planted
from tests.metrics.test_missing import IDS, METRICS, scene

SIZE = (8, 8)


def inputs(**changes):
    images, targets = planted.scenes(2, SIZE)
    quadrants = planted.quadrant_masks(*SIZE)[:2]
    plain = {
        "images": images, "targets": targets, "labels": targets, "maps": quadrants / 2,
        "mask": quadrants.bool(), "void": torch.zeros(2, *SIZE, dtype=torch.bool),
        "boxes": torch.tensor([[[0.0, 0, 0, 4, 4]], [[-1.0, 0, 0, 0, 0]]]),
        "parts": torch.zeros(2, 4, 1, *SIZE, dtype=torch.bool),
        "explanandum": planted.explanandum(),
    }  # fmt: skip
    return plain | changes


LONG, BYTES = torch.rand(2, *SIZE) * 3 - 1, torch.full((2, *SIZE), 255, dtype=torch.uint8)
REFUSED = [
    (SoftAccuracy, {"maps": LONG}, "masking.minmax(maps)"),
    (
        SoftIoU,
        {"maps": torch.full((2, *SIZE), 1.5)},
        "maps must lie in [0, 1], got values from 1.5",
    ),
    (SoftIoU, {"maps": torch.full((2, *SIZE), 1.001)}, "maps must lie in [0, 1]"),
    (MaskSaliency, {"maps": torch.full((2, *SIZE), -0.1)}, "maps must lie in [0, 1]"),
    (SegmentationScores, {"maps": torch.full((2, *SIZE), 255.0)}, "maps must lie in [0, 1]"),
    (LocalizationError, {"maps": torch.full((2, *SIZE), 2.0)}, "maps must lie in [0, 1]"),
    (MAE, {"maps": LONG[:, None]}, "got (2, 1, 8, 8); drop the channel: maps[:, 0]"),
    (RISECurves, {"maps": torch.rand(2, 3, *SIZE)}, "maps must be (B, H, W), got (2, 3, 8, 8)"),
    (RISECurves, {"maps": LONG[:, 1:]}, "(B, H, W) with H = 8 as in images, got (2, 7, 8)"),
    (RISECurves, {"maps": LONG[:1]}, "with B = 2 as in images, got (1, 8, 8)"),
    (RISECurves, {"maps": BYTES}, "floating point, got torch.uint8; use maps.float()"),
    (SoftIoU, {"maps": BYTES.bool()}, "floating point, got torch.bool"),
    (SoftIoU, {"maps": [[0.0]]}, "maps must be a tensor, got list"),
    (SoftIoU, {"mask": BYTES}, "only 0 and 1, got values from 255 to 255; use mask > 0"),
    (SoftIoU, {"mask": torch.full((2, *SIZE), 0.5)}, "mask must be bool"),
    (SoftIoU, {"mask": torch.full((2, *SIZE), torch.nan)}, "mask must be bool"),
    (SoftIoU, {"mask": torch.ones(2, 4, 4)}, "mask must be (B, H, W) with H = 8 as in maps"),
    (SoftIoU, {"void": torch.full((2, *SIZE), -1)}, "void must be bool"),
    (RISECurves, {"targets": torch.tensor([0, 1])}, "F.one_hot(indices, K).bool()"),
    (RISECurves, {"targets": torch.ones(2, 3)}, "with K = 4 as in explanandum, got (2, 3)"),
    (SLOCCurves, {"targets": torch.ones(2, 4)}, "must be one-hot (B, K), since the metric follows"),
    (MaskSaliency, {"targets": torch.rand(2, 4)}, "targets must be bool"),
    (RISECurves, {"images": 255 * torch.rand(2, 3, *SIZE)}, "images must lie in [0, 1]"),
    (RISECurves, {"images": BYTES[:, None].expand(-1, 3, -1, -1)}, "use images.float() / 255"),
    (RISECurves, {"images": torch.rand(2, *SIZE, 3)}, "(B, 3, H, W), got (2, 8, 8, 3)"),
    (RISECurves, {"images": torch.rand(3, *SIZE)}, "images must be (B, 3, H, W), got (3, 8, 8)"),
    (LocalizationError, {"boxes": torch.zeros(2, 1, 4)}, "must be (B, M, 5), got (2, 1, 4)"),
    (LocalizationError, {"boxes": torch.full((2, 1, 5), 7.0)}, "begin with a class below 4"),
    (FunnyBirds, {"explainer": None}, "needs explainer"),
    (FunnyBirds, {"parts": LONG, "explainer": 1}, "parts must be (B, K, P, H, W)"),
    (MaskSaliency, {"masked_logits": torch.zeros(2, 4).long()}, "masked_logits must be floating"),
    (Passes, {"passes": torch.zeros(2)}, "passes must be (B, 2), got (2,)"),
]


@pytest.mark.parametrize(("kind", "changes", "said"), REFUSED)
def test_unfit_inputs_are_refused_in_one_line(kind, changes, said):
    with pytest.raises(ValueError, match=f"{kind.__name__}.*{re.escape(said)}") as error:
        kind().measure(**inputs(**changes))
    assert "\n" not in str(error.value)


def test_what_fits_after_a_plain_conversion_is_taken():
    plain = inputs()
    expected = SoftIoU().measure(**plain)["SoftIoU"]
    assert expected.tolist() == [0.5, 0.5]
    for mask in (plain["mask"].byte(), plain["mask"].float(), plain["mask"].long()):
        found = SoftIoU().measure(**plain | {"mask": mask, "void": plain["void"].long()})
        assert torch.equal(found["SoftIoU"], expected)
    rounded = torch.where(plain["mask"], 1 + 2**-23, -(2.0**-30))
    assert SoftAccuracy().measure(**inputs(maps=rounded))["SoftAccuracy"].tolist() == [1, 1]
    curves = RISECurves(steps=4)
    expected = curves.measure(**plain)
    found = curves.measure(**plain | {"targets": plain["targets"].long()})
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_a_metric_does_not_use_is_not_looked_at():
    values = SoftIoU().measure(**inputs(targets="none", images=0, labels=[1], boxes=torch.ones(7)))
    assert values["SoftIoU"].tolist() == [0.5, 0.5]


def test_images_of_which_no_class_is_explained_are_missing_where_targets_are_used():
    nothing = inputs(targets=torch.tensor([[False] * 4, [False, True, False, False]]))
    for metric in (RISECurves(steps=4), SLOCCurves(steps=4), MaskSaliency()):
        found = metric.measure(**nothing)
        assert all(column.isnan().tolist() == [True, False] for column in found.values())
    assert SoftIoU().measure(**nothing)["SoftIoU"].tolist() == [0.5, 0.5]


def test_an_explanandum_of_two_classes():
    images, targets = planted.scenes(2, SIZE)
    subject = planted.explanandum()
    subject.classes, subject.num_classes = [0, 1], 2
    part = inputs(images=images, targets=targets[:, :2], explanandum=subject)
    assert RISECurves(steps=4).measure(**part)["DeletionAUC"].isfinite().all()
    with pytest.raises(ValueError, match="K = 2 as in explanandum"):
        RISECurves(steps=4).measure(**part | {"targets": targets})


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_a_caller_in_mixed_precision_changes_the_classifier_alone(metric):
    given = scene()
    expected = metric.measure(**given)
    with torch.autocast("cpu", torch.bfloat16):
        found = metric.measure(**given)
    for name, values in expected.items():
        assert torch.equal(found[name].isnan(), values.isnan())
        if "explanandum" not in metric.needs and "explainer" not in metric.needs:
            assert torch.equal(found[name].nan_to_num(), values.nan_to_num())


def test_masks_are_blended_in_full_precision_whatever_the_caller_does():
    given = inputs(maps=torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0)))
    shown = []
    subject = given["explanandum"]
    subject.model.register_forward_pre_hook(lambda _, args: shown.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        MaskSaliency().measure(**given)
    assert torch.equal(shown[-1], given["images"] * given["maps"][:, None])


def test_indices_and_labels():
    metric, given = RISECurves(steps=4), inputs()
    ids = torch.arange(2)
    for index, label, said in (
        (ids.float(), ids, r"index must be \(2,\) int64, got \(2,\) torch.float32"),
        (torch.arange(3), ids, r"index must be \(2,\) int64, got \(3,\)"),
        (ids, torch.arange(3), r"label must be \(2,\) int64, got \(3,\)"),
        (ids, ids.flip(0), "label must be the class of targets"),
    ):
        with pytest.raises(ValueError, match=said):
            metric.update(index, label, **given)
    with pytest.raises(ValueError, match=r"index must name each image of the batch once.*\[5, 5\]"):
        SoftIoU().update(torch.tensor([5, 5]), **given)
    metric.update(ids.int(), ids, **given)
    assert metric.per_image()[0].tolist() == [[0, 0], [1, 1]]


def test_rows_that_are_finite():
    values = torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0], [0.0, -torch.inf]])
    assert finite(values).tolist() == [True, False, False, False]
    assert finite(values[:0]).tolist() == []


def test_re_explaining_metrics_ask_for_the_same():
    class Blank:
        needs_masks = False
        is_mask = True

        def attribute(self, images, targets):
            return torch.zeros_like(images[:, 0])

    several = F.one_hot(torch.tensor([0, 1]), 4).bool() | F.one_hot(torch.tensor([2, 3]), 4).bool()
    found = MPRT().measure(**inputs(targets=several, explainer=Blank()))
    assert found["MPRT"].tolist() == [0, 0]  # a map of two classes at once, then a constant one
