import math

import pytest
import torch

from explainers.methods.casm import CASM, roughness
from tests import planted

MASK = torch.tensor([[[0.75, 0.25], [0.25, 0.25]]])


def terms(mask, multi_label=False, target=0, **arguments):
    """Terms of an image of 2 x 2 pixels, whose logits are 20 times the brightness of each."""
    method = CASM(planted.explanandum(multi_label=multi_label), **arguments)
    method.network.forward = lambda features, size: mask
    image = torch.tensor([[0.8, 0.4], [0.4, 0.4]]).expand(1, 3, 2, 2)
    targets = torch.zeros(1, 4, dtype=torch.bool)
    if target is not None:
        targets[0, target] = True
    found = method.loss_terms({"image": image, "target": targets}, torch.Generator())
    return {name: value.item() for name, value in found.items()}


def test_terms_by_hand():
    found = terms(MASK)
    kept, removed = 20 * torch.tensor([0.6, 0.1, 0.1, 0.1]), 20 * torch.tensor([0.2, 0.3, 0.3, 0.3])
    assert found["kept"] == pytest.approx(-kept.log_softmax(0)[0].item(), rel=1e-3, abs=1e-6)
    p = removed.softmax(0)
    assert found["removed"] == pytest.approx((p * p.log()).sum().item(), rel=1e-3)
    assert found["kept_area"] == pytest.approx(-(1 - 0.375))  # predicted from the kept part
    assert found["removed_area"] == pytest.approx(-10 * (1 - 0.375))  # and lost without it
    # Two differences of 0.5; the border holds 0.75 in a corner, which counts twice, and 6 x 0.25.
    border = 2 * 0.75**2 + 6 * 0.25**2
    assert found["tv"] == pytest.approx(2 * 1e-3 * (2 * 0.25 + 0.3 * border) / 2, rel=1e-4)


def test_areas_are_free_unless_the_mask_succeeds():
    wrong = torch.tensor([[[0.1, 0.9], [0.25, 0.25]]])  # keeps another class, and loses nothing
    found = terms(wrong)
    assert found["kept_area"] == found["removed_area"] == 0
    assert found["removed"] < 0
    unseen = terms(MASK, target=1)  # the label is not predicted for the whole image
    assert unseen["removed"] == unseen["removed_area"] == unseen["kept_area"] == 0
    assert unseen["kept"] > 9


def test_the_weights_are_those_of_the_areas():
    found = terms(MASK, kept_area=2.0, removed_area=15.0, tv=0.0)
    assert found["kept_area"] == pytest.approx(-2 * 0.625)
    assert found["removed_area"] == pytest.approx(-15 * 0.625)
    assert found["tv"] == 0


def test_sigmoid_heads_have_their_own_probability_and_entropy():
    found = terms(MASK, multi_label=True)
    assert found["kept"] == pytest.approx(math.log1p(math.exp(-12)), rel=1e-2)
    p = 1 / (1 + math.exp(-4))
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert found["removed"] == pytest.approx(-entropy, rel=1e-3)
    assert found["kept_area"] == pytest.approx(-0.625)
    assert found["removed_area"] == 0  # it is still above 0.5


def test_an_image_without_a_label_adds_only_the_variation():
    found = terms(MASK, multi_label=True, target=None)
    assert found.pop("tv") > 0
    assert set(found.values()) == {0.0}


def test_roughness_of_a_step():
    step = torch.zeros(1, 3, 3)
    step[0, 1, 1] = 2.0  # no border; four differences of 2
    assert roughness(step).tolist() == [8.0]


@pytest.mark.parametrize(("kind", "ratio"), [("cnn", 3), ("vit", 1.1)])
def test_it_learns_where_the_class_is(kind, ratio):
    torch.manual_seed(0)
    method = CASM(planted.explanandum(kind))
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=0.01)
    found = []
    for step in range(50):
        images, targets = planted.scenes(8, seed=step + 1)
        batch = {"image": images, "target": targets}
        loss = sum(method.loss_terms(batch, torch.Generator()).values())
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        masks = method.eval().attribute(images, ~targets)  # whatever the target
    quadrants = planted.quadrant_masks(32, 32)[targets.int().argmax(1)]
    inside, outside = (masks * quadrants).sum() / 256, (masks * (1 - quadrants)).sum() / 768
    assert sum(found[-10:]) < sum(found[:10]) - 4
    assert inside > ratio * outside
    assert not method.class_specific


def test_a_width_must_be_positive():
    with pytest.raises(ValueError, match="width of at least 1, got 0"):
        CASM(planted.explanandum(), width=0)
