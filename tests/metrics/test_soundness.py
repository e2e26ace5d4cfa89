import math

import numpy as np
import pytest
import torch
from PIL import Image

from explainers.base import Explainer
from explainers.functional.fills import read_bank
from explainers.methods.constant import Constant
from explainers.metrics.soundness import (
    CompletenessSoundness,
    completeness,
    gaussian_ranks,
    soundness,
)
from tests import planted


class Quadrants(Explainer):
    """Each class's own quadrant; with `claim` every map shows that class's quadrant."""

    is_mask = True

    def __init__(self, explanandum, claim=None):
        super().__init__(explanandum)
        self.claim = claim

    def attribute(self, images, targets):
        shown = targets.int().argmax(1) if self.claim is None else [self.claim] * len(images)
        return planted.quadrant_masks(*images.shape[2:]).to(images)[shown]


def measure(explainer, images, **arguments):
    inputs = {"images": images, "explanandum": explainer.explanandum, "explainer": explainer}
    return CompletenessSoundness(**arguments).measure(**inputs)


def test_completeness_by_hand():
    area, clean = torch.tensor([0.4, 0.9, 0.0, 0.0, 0.2]), torch.tensor([0.8, 0.5, 0.5, 0.0, 0.9])
    expected = [0.5, 1.0, 0.01 / 0.5, 1.0, 0.2 / 0.9]
    torch.testing.assert_close(completeness(area, clean), torch.tensor(expected).double())
    assert completeness(area, clean, alpha=0.4)[0] == pytest.approx(1)
    assert completeness(area, clean, epsilon1=0.0)[2:4].tolist() == [0, 1]


def test_soundness_by_hand():
    area, clean = torch.tensor([0.4, 0.9, 0.0]), torch.tensor([0.05, 0.45, 0.3])
    torch.testing.assert_close(soundness(area, clean), torch.tensor([0.25, 0.5, 1.0]).double())
    assert soundness(area, clean, beta=0.2)[0] == pytest.approx(0.5)
    assert soundness(torch.zeros(1), torch.zeros(1), beta=0.0) == 1


def by_hand(explanandum, images, maps, label, points, fill):
    """Mean probability of a label; the last of equal pixels come first."""
    heights = []
    for j in range(1, points + 1):
        kept = torch.zeros_like(maps).flatten(1)
        for row, values in enumerate(maps.flatten(1)):
            ranking = sorted(range(len(values)), key=lambda p: (values[p].item(), p))
            kept[row, ranking[len(values) - round(j * len(values) / points) :]] = 1
        shown = torch.where(kept.view_as(maps)[:, None] > 0, images, fill)
        heights.append(explanandum.probabilities(shown)[:, label].double())
    return torch.stack(heights).mean(0)


def test_the_worst_label_by_hand():
    images, _ = planted.scenes(3, (4, 4))
    explainer = Quadrants(planted.explanandum())
    found = measure(explainer, images, points=8)
    clean = explainer.explanandum.probabilities(images).double()
    areas = torch.stack(
        [
            by_hand(explainer.explanandum, images, maps, label, 8, torch.zeros(3, 1, 1))
            for label, maps in enumerate(planted.quadrant_masks(4, 4)[:, None].expand(-1, 3, 4, 4))
        ],
        dim=1,
    )
    complete = (areas.clamp_min(0.01) / clean).clamp_max(1).amin(1)
    sound = (clean.clamp_min(0.1) / areas).clamp_max(1).amin(1)
    torch.testing.assert_close(found["Completeness"], complete, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found["Soundness"], sound, rtol=1e-5, atol=1e-7)


def test_a_map_of_the_right_quadrant_is_complete_and_made_up_evidence_unsound():
    images, _ = planted.scenes(1, (8, 8))
    dark = images.clone()
    dark[:, :, :4, :4] *= 0.5  # class 0 wins by a little: others can be made to win
    explanandum = planted.explanandum()
    honest = measure(Quadrants(explanandum), images)
    claims = measure(Quadrants(explanandum, claim=3), images)
    assert honest["Completeness"] > 0.9
    assert claims["Completeness"] < honest["Completeness"]
    wrong = measure(Quadrants(explanandum), dark)
    assert wrong["Soundness"] < 0.3
    assert wrong["Soundness"] < honest["Soundness"] + 1e-6


def test_forwards_and_maps_are_counted():
    images, _ = planted.scenes(2, (8, 8))
    explainer = Quadrants(planted.explanandum())
    shown = []
    explainer.explanandum.register_forward_hook(lambda m, i, o: shown.append(len(i[0])))
    measure(explainer, images)
    assert sum(shown) == 2 + 2 * 4 * 27  # the clean images once
    shown.clear()
    measure(explainer, images, top=2, points=4)
    assert sum(shown) == 2 + 2 * 2 * 3
    shown.clear()
    measure(explainer, images, start=0.2, end=0.6, points=10)
    assert sum(shown) == 2 + 2 * 4 * 5  # 0.2 ... 0.6


def test_ties_in_order_or_towards_the_centre():
    maps = torch.zeros(1, 5, 5)
    maps[0, 0, 0] = 1
    ranks = gaussian_ranks(maps)
    assert ranks[0, 0, 0] == 24
    assert ranks[0, 2, 2] == 23
    corners = [ranks[0, i, j].item() for i, j in ((0, 4), (4, 0), (4, 4))]
    assert sorted(corners) == [0, 1, 2]
    assert sorted(ranks.flatten().tolist()) == list(range(25))
    noise = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gaussian_ranks(noise).flatten(1).argsort(), noise.flatten(1).argsort())

    images, _ = planted.scenes(1, (8, 8))
    flat = Constant(planted.explanandum())
    in_order = by_hand(flat.explanandum, images, torch.zeros(1, 8, 8), 0, 28, torch.zeros(3, 1, 1))
    metric = CompletenessSoundness(top=1)
    clean = flat.explanandum.probabilities(images)[:, 0]
    inputs = (flat.explanandum, images, torch.zeros(1, 8, 8), torch.tensor([0]), clean)
    torch.testing.assert_close(metric.area(*inputs), in_order, rtol=1e-5, atol=1e-6)
    assert CompletenessSoundness(ties="gaussian").area(*inputs) > in_order  # its quadrant is last


@pytest.fixture
def bank(tmp_path):
    for i in range(5):
        grey = np.full((6, 9, 3), 50 * i, np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{i}.png")
    (tmp_path / "list.txt").write_text("no picture")
    return str(tmp_path)


def test_random_images_are_averaged(bank):
    images, _ = planted.scenes(2, (8, 8))
    explainer = Quadrants(planted.explanandum())
    found = measure(explainer, images, replacement="images", bank=bank, draws=3, seed=1, top=1)
    fills = read_bank(bank, 8, 8, 3, seed=1, resample="bilinear")
    assert len({fill.mean().item() for fill in fills}) == 3
    maps = planted.quadrant_masks(8, 8)[:2]
    areas = [
        torch.stack(
            [by_hand(explainer.explanandum, images, maps, label, 28, f) for f in fills]
        ).mean(0)[label]
        for label in (0, 1)
    ]
    clean = explainer.explanandum.probabilities(images).double().diagonal()
    expected = completeness(torch.stack(areas), clean)
    torch.testing.assert_close(found["Completeness"], expected, rtol=1e-5, atol=1e-7)
    alone = measure(explainer, images[1:], replacement="images", bank=bank, draws=3, seed=1, top=1)
    torch.testing.assert_close(alone["Completeness"], found["Completeness"][1:])


def test_sigmoid_classifiers_are_judged_by_their_own_probabilities():
    images, _ = planted.scenes(1, (4, 4))
    explainer = Quadrants(planted.explanandum(multi_label=True))
    found = measure(explainer, images, points=4, top=1)
    area = by_hand(
        explainer.explanandum, images, planted.quadrant_masks(4, 4)[:1], 0, 4, torch.zeros(3, 1, 1)
    )
    clean = explainer.explanandum(images)[:, 0].sigmoid()
    torch.testing.assert_close(found["Completeness"], completeness(area, clean))


def test_arguments_are_checked():
    for wrong, message in (
        ({"replacement": "images"}, "bank"),
        ({"bank": "somewhere"}, "bank"),
        ({"ties": "random"}, "ties"),
        ({"points": 0}, "at least 1"),
        ({"start": 0.99, "end": 0.995}, "none of 28"),
    ):
        with pytest.raises(ValueError, match=message):
            CompletenessSoundness(**wrong)
    assert CompletenessSoundness().direction("Soundness")
    assert math.isclose(CompletenessSoundness().kept[-1], 1)
