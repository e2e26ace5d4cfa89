import numpy as np
import pytest
import torch

from datamodules.shapes import Shapes
from explainers import Explanandum
from explainers.base import Explainer
from explainers.evaluation.measure import score_batch as run
from explainers.methods.constant import Constant, GroundTruth
from explainers.metrics.funnybirds import FunnyBirds, contrast
from explainers.metrics.parts import Deletions
from tests import planted


class Weighed(Explainer):
    """The image's brightness in the target's quadrant: what the planted classifier adds up."""

    def __init__(self, explanandum, sign=1.0, blind=False):
        super().__init__(explanandum)
        self.sign, self.blind = sign, blind

    def attribute(self, images, targets):
        quadrants = planted.quadrant_masks(*images.shape[2:]).to(images)
        shown = (
            quadrants[targets.int().argmax(1)] if not self.blind else quadrants[[0] * len(images)]
        )
        return self.sign * images.mean(1) * shown


def scene():
    """Two objects of two parts each, unequally bright, in quadrants 0 and 1; logits 7.5 and 4.5."""
    parts = torch.zeros(1, 4, 2, 16, 16, dtype=torch.bool)
    for k, left in ((0, 0), (1, 8)):
        parts[0, k, 0, :8, left : left + 2] = True
        parts[0, k, 1, :8, left + 6 : left + 8] = True
    image = torch.zeros(16, 16)
    for k, part, value in ((0, 0, 1.0), (0, 1, 0.5), (1, 0, 0.6), (1, 1, 0.3)):
        image[parts[0, k, part]] = value
    return image.expand(1, 3, -1, -1).clone(), parts


def measure(explainer, **arguments):
    images, parts = scene()
    targets = torch.tensor([[True, False, False, False]])
    metric = FunnyBirds(**arguments)
    inputs = {"images": images, "targets": targets, "parts": parts, "explainer": explainer}
    maps = explainer.attribute(images, targets)
    metric.update(
        torch.tensor([0]), torch.tensor([0]), **inputs, maps=maps, explanandum=explainer.explanandum
    )
    return {name: value.item() for name, value in metric.compute().items()}


def test_a_faithful_map_by_hand():
    # shares of its two parts: 2/3 and 1/3. Kept alone, part 0 leaves logit 5, part 1 logit 2.5,
    # against 4.5 of class 1: part 0 suffices, part 1 does not win.
    found = measure(Weighed(planted.explanandum()), thresholds=[0.01, 0.5, 0.9], dilation=1)
    # at 0.5 part 0 alone is important: sufficient, preserved, deleted: all 1. Irrelevant are the
    # other object's parts, which have no share: 1.
    assert found["FBCompleteness"] == pytest.approx(1)
    assert found["FBCorrectness"] == pytest.approx(1)
    assert found["FBContrastivity"] == 1
    assert found["FBOverall"] == pytest.approx(1)


def test_every_threshold_is_kept_an_image():
    images, parts = scene()
    targets = torch.tensor([[True, False, False, False]])
    explainer = Weighed(planted.explanandum())
    metric = FunnyBirds(thresholds=[0.01, 0.5, 0.9], dilation=1)
    values = metric.measure(
        images=images, targets=targets, parts=parts, explainer=explainer,
        maps=explainer.attribute(images, targets), explanandum=explainer.explanandum,
    )  # fmt: skip
    checks = [values[f"FBChecks/{t}"].item() for t in ("0.010", "0.500", "0.900")]
    assert checks == pytest.approx([1, 1, 0])
    calm = [values[f"FBDistractibility/{t}"].item() for t in ("0.010", "0.500", "0.900")]
    assert calm == [1, 1, 1]


def test_a_map_of_the_opposite_sign_is_wrong_and_never_important():
    found = measure(Weighed(planted.explanandum(), sign=-1.0), thresholds=[0.01])
    assert found["FBCorrectness"] != found["FBCorrectness"]  # no share at all: no order
    assert found["FBCompleteness"] == pytest.approx(0.5)  # distracted by nothing, at least
    assert found["FBContrastivity"] == 0


def test_a_map_blind_to_the_class_is_not_contrastive_and_a_flat_one_is_distracted():
    assert measure(Weighed(planted.explanandum(), blind=True))["FBContrastivity"] == 0
    flat = measure(Constant(planted.explanandum(), 1.0), thresholds=[0.01], dilation=1)
    assert flat["FBCompleteness"] == pytest.approx(0.5)  # everything is important
    assert np.isnan(flat["FBCorrectness"])
    assert np.isnan(flat["FBOverall"])


def test_contrast_counts_only_what_the_classifier_tells_apart():
    logits = torch.tensor([[0.0, 10.0], [10.0, 10.0]])
    shares = torch.tensor([[0.9], [0.1]])
    reacts = Deletions(
        torch.tensor([0]), logits, *[torch.empty(0, 2)] * 2, {1: torch.tensor([10.0, 0.0])}
    )
    assert contrast(reacts, 0, shares, {1: shares.flip(0)}) == 1
    assert contrast(reacts, 0, shares, {1: torch.tensor([[0.8], [0.05]])}) == 0.5
    assert contrast(reacts, 0, shares, {1: shares}) == 0
    same = reacts._replace(objects={1: torch.tensor([0.0, 10.0])})
    assert np.isnan(contrast(same, 0, shares, {1: shares.flip(0)}))
    assert np.isnan(contrast(reacts, 0, shares, {}))


def test_the_threshold_is_chosen_for_the_data():
    metric = FunnyBirds(thresholds=[0.1, 0.2])
    columns = {name: np.array([0.5, np.nan]) for name in metric.names}
    columns["FBChecks/0.100"] = np.array([1.0, 0.0])
    columns["FBChecks/0.200"] = np.array([0.6, 0.6])
    columns["FBDistractibility/0.200"] = np.array([0.8, np.nan])
    figures = metric.aggregate(columns)
    assert figures["FBCompleteness"] == pytest.approx((0.6 + 0.8) / 2)
    assert figures["FBOverall"] == pytest.approx((0.7 + 0.5 + 0.5) / 3)
    nobody = {name: np.array([np.nan]) for name in metric.names}
    assert np.isnan(list(metric.aggregate(nobody).values())).all()


class ShapesOracle(torch.nn.Module):
    """Class k by the area of its true mask that still differs from the mean colour."""

    num_classes = 6

    def __init__(self, masks):
        super().__init__()
        self.masks = masks

    def forward(self, images):
        seen = images.abs().sum(1, keepdim=True) > 1e-6  # normalised: the mean is 0
        return (self.masks * seen).flatten(2).sum(2) / 10 - 3


def test_shapes_ground_truth_is_best():
    data = Shapes(image_size=[48, 48], test_images=12, parts=True, batch_size=12)
    batch = next(iter(data.test_dataloader()))
    metric = FunnyBirds(dilation=1)  # the objects are small
    figures = {}
    for row in range(12):
        oracle = ShapesOracle(batch["mask"][row : row + 1].float())
        explanandum = Explanandum(oracle, multi_label=True, mean=[0.5] * 3, input_size=[48, 48])
        inputs = {
            "images": batch["image"][row : row + 1],
            "targets": batch["target"][row : row + 1],
            "parts": batch["parts"][row : row + 1],
            "masks": batch["mask"][row : row + 1],
            "explanandum": explanandum,
        }
        truth = GroundTruth(explanandum)
        truth.feed(inputs["images"], inputs["masks"])
        for name, explainer in (("truth", truth), ("flat", Constant(explanandum, 1.0))):
            values, _ = run(explainer, [metric], inputs)
            for (_, label), columns in values.items():
                if label.isdigit() and "FBCorrectness" in columns:
                    rows = figures.setdefault(name, [])
                    rows.append([columns[n] for n in metric.names])
    found = {
        name: metric.aggregate(dict(zip(metric.names, np.array(rows).T, strict=True)))
        for name, rows in figures.items()
    }
    assert found["truth"]["FBCompleteness"] > found["flat"]["FBCompleteness"] + 0.1
    assert found["truth"]["FBCorrectness"] > 0.99
    assert found["truth"]["FBContrastivity"] == 1
    assert found["flat"]["FBContrastivity"] == 0


def test_arguments_and_targets_without_parts():
    for wrong in ({"dilation": 4}, {"thresholds": []}):
        with pytest.raises(ValueError, match="odd dilation"):
            FunnyBirds(**wrong)
    explainer = Weighed(planted.explanandum())
    images, parts = scene()
    targets = torch.tensor([[False, False, True, False]])
    values = FunnyBirds().measure(
        images=images, targets=targets, parts=parts, explainer=explainer,
        maps=explainer.attribute(images, targets), explanandum=explainer.explanandum,
    )  # fmt: skip
    assert all(column.isnan().all() for column in values.values())
