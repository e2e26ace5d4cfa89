"""What curves follow other than a class, and the order of equal pixels."""

import pytest
import torch
from torch.nn import functional as F

import explainers
from explainers import Explanandum
from explainers.methods.cam import GradCAM
from explainers.methods.nem_u import NEMU
from explainers.metrics.faithfulness import CurveAUC, RISECurves, SLOCCurves
from tests import planted


def measured(metric, maps, images=None, subject=None):
    images = planted.scenes(1, maps.shape[1:])[0] if images is None else images
    subject = subject or planted.explanandum()
    targets = F.one_hot(torch.zeros(1, dtype=torch.int64), subject.num_classes).bool()
    found = metric.measure(images=images, maps=maps, targets=targets, explanandum=subject)
    return {name: value.item() for name, value in found.items()}


def test_similarity_of_a_layer_by_hand():
    # The levels hold the brightness of the quadrants, of which the first is 1 and the third 0.5.
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, :16, :16], images[:, :, 16:, :16] = 1.0, 0.5
    maps = images[:, 0] * 0.5 + planted.quadrant_masks(32, 32)[1]  # the empty second one first
    metric = CurveAUC(start="fill", steps=4, area={"rule": "mean"}, response={"kind": "similarity"})
    assert metric.setting((32, 32)).steps == 4
    alone = (1 + 1 / 1.25**0.5) / 2  # of (1, 0) and (1, 0.5)
    # Black, black, the first quadrant, the first and the third, all; black has the cosine 0.
    expected = (0.5 + 0.5 + alone + 1 + 1) / 5
    assert measured(metric, maps, images)["CurveAUC"] == pytest.approx(expected, abs=1e-3)


def test_the_gap_of_similarities_ranks_a_map_above_its_reverse():
    images = planted.scenes(1, (32, 32))[0]
    maps = planted.quadrant_masks(32, 32)[:1]
    options = {"kind": "similarity", "layer": "stages.2"}
    good, bad = (
        measured(RISECurves(steps=8, response=options), sign * maps, images) for sign in (1, -1)
    )
    assert good["Faithfulness"] > bad["Faithfulness"]


def test_equal_pixels_near_the_center_come_first():
    images = torch.zeros(1, 3, 6, 6)
    images[:, :, 2:4, 2:4] = 1.0
    metric = {
        ties: CurveAUC(start="fill", steps=9, value="logit", response={"ties": ties})
        for ties in ("order", "gaussian")
    }
    flat = torch.ones(1, 6, 6)
    # A ninth of the pixels is the center: its brightness is there from the second point on.
    found = {ties: measured(each, flat, images)["CurveAUC"] for ties, each in metric.items()}
    assert found["gaussian"] > found["order"]
    reverse = measured(metric["gaussian"], torch.arange(36.0).view(1, 6, 6), images)
    assert reverse == measured(metric["order"], torch.arange(36.0).view(1, 6, 6), images)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no value 'hit'"):
        CurveAUC(value="hit", response={"kind": "similarity"})
    with pytest.raises(ValueError, match="POS and NEG follow the class"):
        SLOCCurves(response={"kind": "similarity"})
    with pytest.raises(ValueError, match="kind must be one of"):
        RISECurves(response={"kind": "sums"})
    with pytest.raises(ValueError, match="none of the 4 levels"):
        measured(
            RISECurves(steps=2, response={"kind": "similarity", "layer": 9}), torch.rand(1, 32, 32)
        )


def encoder():
    return Explanandum("test_resnet", num_classes=0, input_size=[32, 32])


@pytest.mark.filterwarnings("ignore:.*no weights.*:UserWarning")
def test_an_encoder_without_a_head_is_explained_and_ranked(tmp_path):
    subject = encoder()
    assert subject.config["num_classes"] == 0
    method = NEMU(subject).eval()
    images = torch.rand(1, 3, 32, 32)
    targets = subject.predict(images)
    maps = method.attribute(images, targets)
    found = measured(RISECurves(steps=4, response={"kind": "similarity"}), maps, images, subject)
    assert 0 <= found["InsertionAUC"] <= 1
    with pytest.raises(explainers.explanandum.features.NotDefinedError, match="without a head"):
        GradCAM(subject).attribute(images, targets)
