"""The published FunnyBirds scores on a bird of two parts and one object, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from explainers.base import Explainer
from explainers.evaluation.measure import score_batch, usable
from explainers.methods.constant import Constant
from explainers.metrics.parts import sufficiency
from explainers.metrics.rendered_parts import RenderedParts, design_sets, rival_pair
from tests import planted

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "funnybirds-small"
SIZE = 16


def scene():
    """A bird of class 0 in its quadrant: part 0 of 1.0, part 1 of 0.5; an object of 0.8 beside.

    The planted logit k is 20 times the mean brightness of quadrant k.
    """
    parts = torch.zeros(1, 4, 2, SIZE, SIZE, dtype=torch.bool)
    parts[0, 0, 0, :8, :2] = True
    parts[0, 0, 1, :8, 6:8] = True
    objects = torch.zeros(1, 2, SIZE, SIZE, dtype=torch.bool)
    objects[0, 0, :8, 12:14] = True
    planes = []
    for code in range(4):
        plane = torch.zeros(SIZE, SIZE)
        for part, value in enumerate((1.0, 0.5)):
            plane[parts[0, 0, part]] = value * (code >> part & 1)
        plane[objects[0, 0]] = 0.8
        planes.append(plane)
    without = planes[3].clone()
    without[objects[0, 0]] = 0
    shown = [plane.expand(3, -1, -1) for plane in (*planes, without, planes[3])]
    return {
        "images": shown[3][None].clone(),
        "parts": parts,
        "interventions": torch.stack(shown[:4])[None],
        "backgrounds": torch.stack(shown[4:])[None],
        "objects": objects,
        "shared": torch.tensor([[[True, True], [True, False], [False, True], [False, False]]]),
    }


class Bright(Explainer):
    """The image's brightness, in the target's quadrant or everywhere."""

    def __init__(self, explanandum, blind=False):
        super().__init__(explanandum)
        self.blind = blind

    def attribute(self, images, targets):
        quadrants = planted.quadrant_masks(*images.shape[2:]).to(images)
        own = quadrants[targets.int().argmax(1)]
        return images.mean(1) * (1 if self.blind else own)


def measure(explainer, **arguments):
    inputs = scene() | {"targets": torch.tensor([[True, False, False, False]])}
    inputs |= {"explainer": explainer, "explanandum": explainer.explanandum}
    inputs["maps"] = explainer.attribute(inputs["images"], inputs["targets"])
    values = RenderedParts(dilation=1, **arguments).measure(**inputs)
    return {name: value.item() for name, value in values.items()}


def test_a_faithful_map_by_hand():
    # Shares 2/3 and 1/3. Logits of class 0: 7.5, without part 0 2.5, without part 1 5; class 1: 4.
    found = measure(Bright(planted.explanandum()), thresholds=[0.1, 0.5, 0.9])
    assert found["RenderedCorrectness"] == 1
    # At 0.5 part 0 alone is important. Only both parts together are of no other class: half of a
    # sufficient set. Kept alone, 5 > 4: preserved. Without it, 2.5 < 4: deleted.
    assert found["RenderedChecks/0.500"] == pytest.approx(2.5 / 3)
    assert found["RenderedChecks/0.100"] == 1  # both parts
    assert found["RenderedChecks/0.900"] == pytest.approx((0 + 0 + 0) / 3)
    # Only the object is irrelevant, and has no share; the other object cannot be seen.
    assert [found[f"RenderedDistractibility/{t}"] for t in ("0.100", "0.500", "0.900")] == [1, 1, 1]


def test_a_map_of_the_brightness_is_distracted():
    found = measure(Bright(planted.explanandum(), blind=True), thresholds=[0.1, 0.5])
    # The object has a share of 0.8 / 2.3 = 0.35.
    assert found["RenderedDistractibility/0.100"] == 0
    assert found["RenderedDistractibility/0.500"] == 1
    flat = measure(Constant(planted.explanandum(), 1.0), thresholds=[0.01])
    assert np.isnan(flat["RenderedCorrectness"])  # equal shares have no order


def test_what_is_predicted_wrongly_has_no_checks():
    inputs = scene()
    inputs |= {"interventions": inputs["interventions"] * 0.2 + 0.0}
    inputs["interventions"][..., 12:14] = 0.8
    subject = planted.explanandum()
    inputs |= {"targets": torch.tensor([[True, False, False, False]]), "explanandum": subject}
    explainer = Bright(subject)
    maps = explainer.attribute(inputs["images"], inputs["targets"])
    values = RenderedParts([0.1], 1).measure(**inputs, maps=maps, explainer=explainer)
    assert np.isnan(values["RenderedChecks/0.100"].item())
    assert values["RenderedCorrectness"].item() == 1


def test_contrastivity_by_hand():
    class Chosen(Explainer):
        """Part 0 for class 1 and part 1 for class 2, or the same for both."""

        blind = False

        def attribute(self, images, targets):
            four = quarters(images.shape[2:])
            classes = targets.int().argmax(1).tolist()
            maps = {1: four[:2].sum(0), 2: four[2:].sum(0)}
            return torch.stack(
                [maps.get(0 if self.blind else k, torch.ones(SIZE, SIZE)) for k in classes]
            )

    def quarters(size):
        return planted.quadrant_masks(*size).float()

    shared = torch.zeros(1, 4, 4, dtype=torch.bool)
    shared[0, 0] = True
    shared[0, 1, :2] = True  # class 1 has parts 0 and 1, class 2 parts 2 and 3
    shared[0, 2, 2:] = True
    parts = torch.zeros(1, 4, 4, SIZE, SIZE, dtype=torch.bool)
    parts[0, 0] = quarters((SIZE, SIZE)).bool()
    shown = torch.zeros(1, 16, 3, SIZE, SIZE)
    for code in range(16):  # class 1 reacts to its quadrant, which is part 1; class 2 to part 2
        kept = [part for part in range(4) if code >> part & 1]
        shown[0, code] = parts[0, 0, kept].any(0).float() * 0.5
    subject = planted.explanandum()
    inputs = {
        "images": shown[:, 15], "targets": torch.eye(4, dtype=torch.bool)[:1], "parts": parts,
        "interventions": shown, "backgrounds": shown[:, :1], "shared": shared,
        "objects": torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool), "explanandum": subject,
        "maps": torch.ones(1, SIZE, SIZE),
    }  # fmt: skip
    explainer = Chosen(subject)
    good = RenderedParts([0.1], 1).measure(**inputs, explainer=explainer)
    assert good["RenderedContrastivity"].item() == 1
    explainer.blind = True
    assert (
        RenderedParts([0.1], 1)
        .measure(**inputs, explainer=explainer)["RenderedContrastivity"]
        .item()
        == 0
    )
    still = inputs | {"interventions": shown[:, 15:].expand(-1, 16, -1, -1, -1)}
    nothing = RenderedParts([0.1], 1).measure(**still, explainer=explainer)
    assert np.isnan(nothing["RenderedContrastivity"].item())


def test_pairs_of_classes_that_share_two_parts_each():
    rows = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]]
    shared = torch.tensor(rows).bool()
    assert rival_pair(shared, 0) == (1, 3)
    assert rival_pair(shared[:3], 0) is None


def test_images_without_the_target_have_no_value():
    inputs = scene() | {"targets": torch.tensor([[False, True, False, False]])}
    explainer = Bright(planted.explanandum())
    maps = explainer.attribute(inputs["images"], inputs["targets"])
    values = RenderedParts().measure(
        **inputs, maps=maps, explainer=explainer, explanandum=explainer.explanandum
    )
    assert all(np.isnan(value.item()) for value in values.values())


def test_the_threshold_is_chosen_for_the_data():
    metric = RenderedParts(thresholds=[0.1, 0.2])
    columns = {name: np.array([0.5, np.nan]) for name in metric.names}
    columns["RenderedChecks/0.200"] = np.array([0.9, 0.7])
    figures = metric.aggregate(columns)
    assert figures["RenderedCompleteness"] == pytest.approx((0.8 + 0.5) / 2)
    assert figures["RenderedOverall"] == pytest.approx((0.65 + 0.5 + 0.5) / 3)
    nobody = {name: np.array([np.nan]) for name in metric.names}
    assert np.isnan(list(metric.aggregate(nobody).values())).all()


def test_wrong_inputs_are_refused():
    for wrong in ({"thresholds": []}, {"dilation": 4}):
        with pytest.raises(ValueError, match="expected a threshold and an odd dilation"):
            RenderedParts(**wrong)
    inputs = scene() | {"targets": torch.tensor([[True, False, False, False]])}
    explainer = Bright(planted.explanandum())
    inputs |= {"interventions": inputs["interventions"][:, :3], "explainer": explainer}
    maps = torch.ones(1, SIZE, SIZE)
    with pytest.raises(ValueError, match="expected 4 interventions for 2 parts, got 3"):
        RenderedParts().measure(**inputs, maps=maps, explanandum=explainer.explanandum)
    with pytest.warns(UserWarning, match="the data have no .*interventions.*: left out Rendered"):
        assert usable([RenderedParts()], {"image": 1, "target": 1, "parts": 1}) == []


def test_in_a_batch_with_the_other_metrics():
    explainer = Bright(planted.explanandum())
    inputs = scene() | {"targets": torch.tensor([[True, False, False, False]])}
    inputs |= {
        "explanandum": explainer.explanandum,
        "logits": explainer.explanandum(inputs["images"]),
    }
    values, _ = score_batch(explainer, [RenderedParts(dilation=1)], inputs)
    assert values[0, "0"]["RenderedCorrectness"] == 1


@pytest.mark.data
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs ../shared/data/funnybirds-small")
def test_sufficient_sets_of_the_last_class_of_the_rendered_data():
    """Those that the README of the data lists, which the released code does not find."""
    parts = ["beak", "eye", "foot", "tail", "wing"]
    classes = json.loads((SAMPLE / "classes.json").read_text())
    designs = torch.tensor([[own["parts"][part] for part in parts] for own in classes])
    unique = design_sets(designs == designs[9], 9)
    pairs = {f"{a}+{b}" for i, a in enumerate(parts) for j, b in enumerate(parts) if i < j
             and unique[1 << i | 1 << j]}  # fmt: skip
    assert pairs == {
        "beak+eye", "beak+foot", "beak+tail", "eye+wing", "foot+tail", "foot+wing", "tail+wing",
    }  # fmt: skip
    assert not any(unique[1 << i] for i in range(5))
    assert sufficiency([0b00011], unique) == [1.0]
