"""Not finite is missing, in every metric, and no other value of the batch changes."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.functional import masking
from explainers.metrics.classification import ClassSpecificity
from explainers.metrics.faithfulness import CurveAUC, RISECurves, SLOCCurves
from explainers.metrics.funnybirds import FunnyBirds
from explainers.metrics.information import information_auc
from explainers.metrics.localization_boxes import CropSaliency
from explainers.metrics.random_logit import RandomLogit
from explainers.metrics.randomization import MPRT
from explainers.metrics.saliency import MaskSaliency
from explainers.metrics.sensitivity import AverageSensitivity
from explainers.metrics.similarity import MapSimilarity
from explainers.metrics.soundness import CompletenessSoundness
from tests import planted
from tests.metrics.test_processes import Classifier, Mixed, Spots, every_metric

METRICS = every_metric()
IDS = [type(metric).__name__ for metric in METRICS]


def scene():
    """Inputs of all metrics for three images, with maps in [0, 1]."""
    samples = Spots().test_dataloader().dataset[:3]
    batch = {
        key: torch.stack([s[key] for s in samples]) for key in samples[0] if key[0] not in "in"
    }
    images = torch.stack([sample["image"] for sample in samples])
    explainer = Mixed(Explanandum(Classifier(), mean=[0.0] * 3, std=[1.0] * 3))
    targets = F.one_hot(batch["target"].int().argmax(1), 4).bool()
    return {
        "images": images, "targets": targets, "labels": batch["target"], "void": batch["void"],
        "maps": masking.minmax(explainer.attribute(images, targets)), "parts": batch["parts"],
        "mask": masking.merge(batch["mask"].float(), targets), "seconds": torch.ones(3),
        "passes": torch.ones(3, 2), "explainer": explainer, "explanandum": explainer.explanandum,
    }  # fmt: skip


def same(found, expected, rows):
    """Whether the values of some rows are equal, up to the rounding of the classifier."""
    for name, values in expected.items():
        torch.testing.assert_close(
            found[name][rows], values[rows], rtol=1e-4, atol=1e-5, equal_nan=True
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_a_map_with_one_bad_pixel_has_no_value_and_leaves_the_others_alone(metric, value):
    inputs = scene()
    expected = metric.measure(**inputs)
    inputs["maps"][1, 3, 5] = value
    found = metric.measure(**inputs)
    assert all(column[1].isnan() for column in found.values())
    same(found, expected, [0, 2])
    nothing = metric.measure(**inputs | {"maps": torch.full_like(inputs["maps"], value)})
    assert all(column.isnan().all() and column.shape == (3,) for column in nothing.values())


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_an_image_with_logits_that_are_not_finite_has_no_value(metric):
    inputs = scene()
    expected = metric.measure(**inputs)
    logits = inputs["explanandum"](inputs["images"])
    logits[2, 1] = math.nan
    found = metric.measure(**inputs | {"logits": logits})
    assert all(column[2].isnan() for column in found.values())
    same(found, expected, [0, 1])


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_how_maps_are_stored_changes_no_value(metric):
    """Other types, layouts and graphs; half precision holds these maps exactly."""
    inputs = scene()
    maps = (inputs["maps"] * 128).round() / 128
    expected = metric.measure(**inputs | {"maps": maps})
    for stored in (
        maps.bfloat16(),
        maps.half(),
        maps.double(),
        maps.mT.contiguous().mT,
        maps.clone().requires_grad_(),
    ):
        found = metric.measure(**inputs | {"maps": stored})
        assert all(column.dtype == torch.float64 for column in found.values())
        for name in expected.keys() - {"SSIM", "HOG", "Spearman", "AverageSensitivity"}:
            assert torch.equal(found[name].nan_to_num(-9), expected[name].nan_to_num(-9)), name
        same(found, expected, [0, 1, 2])


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_constant_and_signed_maps_are_no_reason_to_stop(metric):
    inputs = scene()
    constant = metric.measure(**inputs | {"maps": torch.full_like(inputs["maps"], 0.5)})
    assert all(column.shape == (3,) for column in constant.values())
    signed = inputs | {"maps": 3 * inputs["maps"] - 1}
    if metric.wants_unit_maps:
        with pytest.raises(ValueError, match=r"maps must lie in \[0, 1\], got values from -1 to 2"):
            metric.measure(**signed)
    else:
        assert not any(column.isinf().any() for column in metric.measure(**signed).values())


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_no_images_and_one_image(metric):
    inputs = scene()
    for count in (0, 1):
        part = {k: v[:count] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        values = metric.measure(**part)
        assert all(column.shape == (count,) for column in values.values())
        assert set(values) == set(metric.names)
    alone = metric.clone()
    alone.update(torch.arange(0), torch.arange(0), **{**inputs, **{
        k: v[:0] for k, v in inputs.items() if isinstance(v, torch.Tensor)
    }})  # fmt: skip
    assert all(math.isnan(value) for value in alone.compute().values())


class Breaks(nn.Module):
    """The planted classifier, whose output for dark images is not finite."""

    num_classes = 4

    def __init__(self, value=math.nan):
        super().__init__()
        self.inner, self.value = planted.PlantedCNN(), value

    def forward(self, images):
        dark = images.mean(dim=(1, 2, 3)) < 0.4
        logits = self.inner(images)
        return torch.where(
            dark[:, None] & torch.tensor([False, False, True, False]), self.value, logits
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "metric",
    [
        RISECurves(steps=4, insertion_fill="black"),
        RISECurves(pixels=1, deletion_fill="black", insertion_fill="black", draws=60),
        SLOCCurves(steps=4, fill="black"),
        CurveAUC(steps=4, fill="black"),
        CurveAUC(steps=4, fill="black", value="hit"),
        CurveAUC(steps=4, fill="black", value="unchanged"),
        MaskSaliency(),
        CompletenessSoundness(points=4),
    ],
    ids=lambda metric: getattr(metric, "names", [str(metric)])[0],
)
def test_a_perturbed_image_whose_output_is_not_finite_takes_the_value_with_it(metric, value):
    subject = Explanandum(Breaks(value), mean=[0.0] * 3, std=[1.0] * 3, input_size=[8, 8])
    images = torch.stack([torch.full((3, 8, 8), 0.5), torch.full((3, 8, 8), 0.6)])
    images[:, :, :4, :4] += torch.tensor([0.2, 0.0])[:, None, None, None]
    targets = torch.eye(4)[[0, 0]].bool()
    maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    explainer = Mixed(planted.explanandum())
    found = metric.measure(
        images=images, maps=maps, targets=targets, explanandum=subject, explainer=explainer
    )
    assert all(column.isnan().all() for column in found.values())


class Sometimes(Mixed):
    """Maps that are finite for one image only."""

    def attribute(self, images, targets):
        maps = super().attribute(images, targets)
        maps[(images - self.good).abs().mean(dim=(1, 2, 3)) > 0.04, 0, 0] = math.inf
        return maps


@pytest.mark.parametrize(
    "metric",
    [
        AverageSensitivity(draws=2, radius=0.02), MPRT(), MPRT("cascade", absolute=True),
        MapSimilarity(seeds=[1, 2]), CompletenessSoundness(points=4), ClassSpecificity([0, 1]),
        FunnyBirds(), RandomLogit(),
    ],
    ids=lambda metric: type(metric).__name__,
)  # fmt: skip
def test_explained_again_with_a_map_that_is_not_finite_is_missing(metric):
    inputs = scene()
    explainer = Sometimes(inputs["explanandum"])
    explainer.good = inputs["images"][0]
    found = metric.measure(**inputs | {"explainer": explainer})
    same(found, metric.measure(**inputs), [0])
    assert any(column[0].isfinite() for column in found.values())
    # The third image shows one object alone: FunnyBirds explains no other class of it.
    rows = [1] if isinstance(metric, FunnyBirds) else [1, 2]
    assert all(column[rows].isnan().all() for column in found.values())


def test_a_score_that_is_not_a_number_leaves_no_information_curve():
    bytes_ = np.array([10.0, 15.0, 20.0])
    assert information_auc(bytes_, np.array([0.0, 0.5, 1.0])) == 0.5
    for scores in ([math.nan, 0.5, 1.0], [0.0, math.nan, 1.0], [0.0, 0.5, math.nan]):
        assert math.isnan(information_auc(bytes_, np.array(scores)))


def test_a_crop_that_is_not_finite_takes_all_thresholds_with_it():
    subject = Explanandum(Breaks(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[8, 8])
    images = torch.full((2, 3, 8, 8), 0.3)
    images[:, :, 2:] = 0.9
    maps = torch.zeros(2, 8, 8)
    maps[0, :2], maps[1, 2:] = 1.0, 1.0  # around the dark rows, and around the others
    found = CropSaliency().measure(
        images=images, maps=maps, targets=torch.eye(4)[:2].bool(), explanandum=subject
    )
    assert all(column.isnan().tolist() == [True, False] for column in found.values())
