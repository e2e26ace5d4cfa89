import math

import pytest
import torch

from explainers.methods.ltx import LTX
from tests import planted
from tests.support import save


def stubbed(mask, **arguments):
    """LTX whose network always gives one mask, and an image whose class is the first quadrant."""
    method = LTX(planted.explanandum(), **arguments)
    method.network.forward = lambda explanandum, images: torch.tensor(mask).logit()[None, None]
    image = torch.tensor([[0.8, 0.4], [0.4, 0.4]]).expand(1, 3, 2, 2)
    return method, image


@pytest.mark.parametrize(
    ("loss", "size"),
    [
        ("sound", 30 * 0.375),
        ("released", 50 * (math.log1p(math.exp(0.75)) + 3 * math.log1p(math.exp(0.25))) / 4),
    ],
)
def test_terms_by_hand(loss, size):
    method, image = stubbed([[0.75, 0.25], [0.25, 0.25]], loss=loss, prediction=2.0)
    terms = method.loss_terms({"image": image}, torch.Generator())
    logits = 20 * torch.tensor([0.6, 0.1, 0.1, 0.1])  # of the masked image on black
    assert terms["prediction"].item() == pytest.approx(
        -2 * logits.log_softmax(0)[0].item(), rel=1e-3
    )
    assert terms["mask"].item() == pytest.approx(size, rel=1e-5)


def test_with_sigmoid_heads_the_error_is_that_of_the_class_alone():
    method, image = stubbed([[0.1, 0.25], [0.25, 0.25]])
    method.explanandum.multi_label = True
    terms = method.loss_terms({"image": image}, torch.Generator())
    assert terms["prediction"].item() == pytest.approx(math.log1p(math.exp(-20 * 0.08)), rel=1e-4)


def test_hidden_pixels_show_the_fill():
    for fill, brightness in (("black", 0.0), ("mean", 0.5)):
        method, image = stubbed([[0.001, 0.001], [0.001, 0.001]], fill=fill)
        method.explanandum.mean.fill_(0.5)
        shown = []
        method.explanandum.register_forward_pre_hook(lambda _, args, s=shown: s.append(args[0]))
        method.error(image, torch.zeros(1, 2, 2), torch.tensor([0]))
        assert torch.equal(shown[0], torch.full((1, 3, 2, 2), brightness))


def test_pos_by_hand():
    """Of 100 pixels, 25 are of the class, and 75 of the others, which are half as bright."""
    method = LTX(planted.explanandum())
    image = 0.4 + 0.4 * planted.quadrant_masks(10, 10)[:1].expand(1, 3, 10, 10)
    right = planted.quadrant_masks(10, 10)[:1]
    # The class falls behind as soon as 13 of its 25 pixels are hidden: at the third point.
    assert method.pos(image, right, torch.tensor([0])) == pytest.approx(100 * (0.05 + 0.1))
    # Only the class is left from 80 % on, of which the last point hides 15 of 25.
    assert method.pos(image, 1 - right, torch.tensor([0])) == pytest.approx(90)
    assert method.pos(image, right, torch.tensor([1])) == pytest.approx(0, abs=80)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_it_learns_where_the_class_is(kind):
    torch.manual_seed(0)
    method = LTX(planted.explanandum(kind), mask=2.0)
    groups = [(method.network.head, 0.3), (method.network.trunk, 2e-3)]
    optimizer = torch.optim.Adam([{"params": part.parameters(), "lr": lr} for part, lr in groups])
    found = []
    for step in range(25):
        images, targets = planted.scenes(8, seed=step + 1)
        loss = sum(method.loss_terms({"image": images}, torch.Generator()).values())
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    masks = method.eval().attribute(images, ~targets)  # whatever the target
    quadrants = planted.quadrant_masks(32, 32)[targets.int().argmax(1)]
    inside, outside = (masks * quadrants).sum() / 256, (masks * (1 - quadrants)).sum() / 768
    assert sum(found[-5:]) < 0.7 * sum(found[:5])
    assert inside > 2 * outside
    assert not method.class_specific


def test_refinement_finds_any_class_and_changes_no_weight():
    torch.manual_seed(0)
    method = LTX(planted.explanandum(), mask=5.0, refine={"steps": 12, "lr": 0.2}).eval()
    method.freeze()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    images, _ = planted.scenes(2)
    images = 0.5 + 0.1 * images
    classes = torch.tensor([[2, 1], [0, 3]])
    maps = method.class_maps(images, classes)
    mass = (maps[:, :, None] * planted.quadrant_masks(32, 32)).sum(dim=(3, 4))
    assert torch.equal(mass.argmax(dim=2), classes)
    assert method.class_specific
    assert method.needs_gradients
    torch.testing.assert_close(dict(method.state_dict()), before, rtol=0, atol=0)
    assert not any(p.requires_grad for p in method.parameters())
    alone = method.attribute(images[1:], torch.tensor([[True, False, False, False]]))
    torch.testing.assert_close(alone[0], maps[1, 0])


def test_selection_keeps_the_first_best_map_before_its_step(monkeypatch):
    torch.manual_seed(0)
    areas = [40.0, 20.0, 30.0, 20.0]
    seen = []

    def pos(images, masks, classes):
        seen.append(masks)
        return areas[len(seen) - 1]

    method = LTX(planted.explanandum(), refine={"steps": 4, "lr": 0.1, "select": "pos"})
    monkeypatch.setattr(method, "pos", pos)
    images, targets = planted.scenes(1)
    assert torch.equal(method.attribute(images, targets), seen[1])
    assert len(seen) == 4
    seen.clear()
    areas[1] = 5.0  # below 6, which ends it
    assert torch.equal(method.attribute(images, targets), seen[1])
    assert len(seen) == 2
    seen.clear()
    method.refine["steps"] = 1
    first = method.masks(method.network, images)[1]
    torch.testing.assert_close(method.attribute(images, targets), first.detach())


def test_selection_never_refines_the_map_of_a_class_that_is_not_the_top_one():
    torch.manual_seed(0)
    method = LTX(planted.explanandum(), refine={"steps": 9, "lr": 0.2, "select": "pos"})
    image = torch.full((1, 3, 32, 32), 0.4) + 0.4 * planted.quadrant_masks(32, 32)[0]
    maps = method.class_maps(image, torch.tensor([[3]]))[0]
    torch.testing.assert_close(maps, method.masks(method.network, image)[1].detach())


def test_the_first_step_lowers_the_loss_of_the_image():
    torch.manual_seed(0)
    method = LTX(planted.explanandum(), refine={"steps": 1, "lr": 1e-3})
    images, targets = planted.scenes(1, seed=3)
    classes = targets.int().argmax(1)

    def loss(masks):
        return float(5 * method.error(images, masks, classes) + 30 * masks.mean())

    plain = method.masks(method.network, images)[1].detach()
    assert loss(method.attribute(images, targets)) < loss(plain)


def test_a_checkpoint_is_loaded_with_other_options(tmp_path):
    torch.manual_seed(0)
    method = LTX(planted.explanandum()).eval()
    torch.nn.init.constant_(method.network.trunk.stem.weight, 0.5)  # as if it were trained
    loaded = LTX.load_from_checkpoint(save(method, tmp_path / "ltx.ckpt")).eval()
    images, targets = planted.scenes(2)
    assert torch.equal(loaded.attribute(images, targets), method.attribute(images, targets))
    refined = LTX.load_from_checkpoint(tmp_path / "ltx.ckpt", refine={"steps": 2, "lr": 0.1})
    assert refined.refine == {"steps": 2, "lr": 0.1, "prediction": 5.0, "select": "last"}
    assert refined.class_specific
    assert not torch.equal(refined.attribute(images, targets), method.attribute(images, targets))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="refine needs steps >= 0 and lr > 0, got -1"):
        LTX(planted.explanandum(), refine={"steps": -1})
    with pytest.raises(ValueError, match="select must be one of"):
        LTX(planted.explanandum(), refine={"select": "best"})
    with pytest.raises(ValueError, match="loss must be one of"):
        LTX(planted.explanandum(), loss="bce")
