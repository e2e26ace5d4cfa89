import math
import warnings

import pytest
import torch

from explainers.explanandum.gradients import pyramid_maps, standardise
from explainers.explanandum.taps import counted
from explainers.methods.amortized_sloc import AmortizedSLOC, completeness_gaps, roughness
from explainers.optimization import completeness
from explainers.perturbation.patches import PatchSums, draw_patches
from tests import planted
from tests.support import Scenes, fit_trainer, save

SIZE = (32, 32)


def trained(method, steps, lr=2e-3):
    """Takes a few steps of Adam on planted scenes; the method is then in eval mode."""
    optimizer = torch.optim.Adam(method.network.parameters(), lr=lr)
    method.train()
    for step in range(steps):
        images, _ = planted.scenes(8, SIZE, seed=step + 1)
        terms = method.loss_terms({"image": images}, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    method.eval()


def test_the_loss_is_that_of_sloc_times_the_number_of_pixels():
    generator = torch.Generator().manual_seed(0)
    groups = [draw_patches(3, (9, 12), side, 0.5, generator) for side in (2, 5)]
    masks = torch.cat([group.pixels(0, 3) for group in groups])
    maps, wanted = (torch.randn(2, *shape, generator=generator) for shape in ((9, 12), (6,)))
    parts = completeness_gaps(maps, masks.expand(2, -1, -1, -1), wanted) + roughness(maps, 0.3, 0.2)
    gap = completeness.Gap(PatchSums(groups), 0.0, (0.3, 0.2))
    torch.testing.assert_close(parts, completeness.loss(gap, maps, wanted))


def test_terms_by_hand():
    """One mask that keeps everything, so that its response is that to the whole image."""
    method = AmortizedSLOC(planted.explanandum(), masks=2, probability=1.0, lambda2=0.5)
    ramp = torch.arange(8.0).expand(1, 8, 8)
    method.network.forward = lambda seen, size: ramp
    image = torch.zeros(1, 3, 8, 8)
    image[..., :4, :4] = 0.2
    terms = method.loss_terms({"image": image}, torch.Generator())
    p = math.exp(4) / (math.exp(4) + 3)  # the logit is 20 times the brightness
    assert terms["gap"].item() == pytest.approx(0.5 * (p - 0.25 - p * (1 + 3.5)) ** 2, rel=1e-4)
    assert terms["absolute"].item() == pytest.approx(0.01 / 3 * p * 4.5, rel=1e-4)
    assert terms["smooth"].item() == pytest.approx(0.5 * p**2, rel=1e-4)


def test_responses_are_those_of_the_masked_images():
    method = AmortizedSLOC(planted.explanandum(), masks=3, fill="kernel_blur")
    images, targets = planted.scenes(5, SIZE)
    classes = targets.int().argmax(1)
    masks = method.draw_masks(5, SIZE, torch.Generator().manual_seed(0))
    fills = method.explanandum.fill("kernel_blur")(images)
    found = method.responses(images, fills, masks, classes)
    base = method.explanandum.probabilities(fills)[range(5), classes]
    for i in range(3):
        shown = fills + (images - fills) * masks[:, i, None]
        seen = method.explanandum.probabilities(shown)[range(5), classes]
        torch.testing.assert_close(found[:, i], seen - base)


def test_masks_are_of_both_sides_and_of_all_probabilities_and_differ_between_images():
    method = AmortizedSLOC(planted.explanandum(), masks=5, sides=[7, 28])  # 2 and 8 pixels
    masks = method.draw_masks(64, (64, 64), torch.Generator().manual_seed(0))
    assert masks.shape == (64, 5, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        again = method.draw_masks(64, (64, 64), torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, masks, rtol=0, atol=0)
    edges = masks.diff(dim=2).abs().mean(dim=(2, 3))
    fine, coarse = edges[:, 0::2].mean(dim=1), edges[:, 1::2].mean(dim=1)
    assert bool((fine > 2 * coarse).all())
    shares = masks[:, 0::2].mean(dim=(1, 2, 3))  # of 3 masks with one probability
    assert 0.15 < shares.min() < 0.25
    assert 0.75 < shares.max() < 0.85
    assert len({tuple(each.flatten().tolist()) for each in masks[:, 0]}) == 64


def test_untrained_with_evidence_it_is_pyramid_cam():
    method = AmortizedSLOC(planted.explanandum(), evidence=True).eval()
    images, targets = planted.scenes(3, SIZE, seed=2)
    classes = targets.int().argmax(1, keepdim=True)
    maps = method.attribute(images, targets)
    expected = pyramid_maps(method.explanandum, images, classes)[:, 0]
    torch.testing.assert_close(standardise(maps), expected, rtol=1e-3, atol=1e-3)
    probabilities = method.explanandum.probabilities(images).gather(1, classes)[:, 0]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), probabilities, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("evidence", [False, True])
def test_it_learns_to_predict_the_responses_to_unseen_masks(kind, evidence):
    torch.manual_seed(0)
    method = AmortizedSLOC(planted.explanandum(kind), evidence, masks=4)
    images, targets = planted.scenes(8, SIZE, seed=999)
    masks = method.draw_masks(8, SIZE, torch.Generator().manual_seed(99))
    fills = method.explanandum.mean.expand(1, 3, *SIZE)
    wanted = method.responses(images, fills, masks, targets.int().argmax(1))
    quadrants = planted.quadrant_masks(*SIZE)[targets.int().argmax(1)]
    trained(method, 25)
    maps = method.attribute(images, targets).detach()
    flat, truth = torch.full((8, *SIZE), 0.75 / 1024), 0.75 * quadrants / 256
    found = [completeness_gaps(each, masks, wanted).mean() for each in (flat, truth, maps)]
    assert found[2] < 0.6 * found[1] < found[0]  # responses are no sums, not even of the truth
    inside, outside = (maps * quadrants).sum() / 256, (maps * (1 - quadrants)).sum() / 768
    assert inside > 3 * outside


def test_with_evidence_any_class_can_be_explained():
    torch.manual_seed(0)
    method = AmortizedSLOC(planted.explanandum(), evidence=True)
    trained(method, 5)
    images = torch.cat([planted.scenes(2, SIZE)[0][i : i + 1] for i in (0, 1)])
    images[:, :, 16:, 16:] += 0.55  # a second quadrant, less bright
    classes = torch.tensor([[0, 3], [1, 3]])
    maps = method.class_maps(images, classes)
    mass = (maps[:, :, None] * planted.quadrant_masks(*SIZE)).sum(dim=(3, 4))
    assert torch.equal(mass.argmax(dim=2), classes)


def test_without_evidence_another_class_is_told_once():
    method = AmortizedSLOC(planted.explanandum()).eval()
    images, targets = planted.scenes(2, SIZE)
    with pytest.warns(UserWarning, match="AmortizedSLOC explains the predicted class only"):
        first = method.attribute(images, ~targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(method.attribute(images, ~targets), first)


@pytest.mark.parametrize("evidence", [False, True])
def test_a_forward_pass_and_with_evidence_a_backward_pass(evidence):
    method = AmortizedSLOC(planted.explanandum(), evidence).eval()
    images, targets = planted.scenes(3, SIZE)
    with counted(method.explanandum.model) as passes:
        method.attribute(images, targets)
    assert passes == [3, 3 * evidence]
    with counted(method.explanandum.model) as passes:
        method.loss_terms({"image": images}, torch.Generator())
    assert passes == [3 + 1 + 3 * 8, 3 * evidence]  # the images, the fill and the masks


@pytest.mark.parametrize("evidence", [False, True])
def test_a_fit_ends_in_a_checkpoint_that_loads_alone(evidence, tmp_path):
    method = AmortizedSLOC(planted.explanandum(), evidence, masks=2)
    trainer = fit_trainer(tmp_path, inference_mode=True, max_epochs=1, max_steps=-1)
    trainer.fit(method, Scenes(4))  # which also validates
    assert trainer.callback_metrics["val/gap"] > 0
    assert method.faster == []
    again = AmortizedSLOC.load_from_checkpoint(save(method, tmp_path / "own.ckpt")).eval()
    images, targets = planted.scenes(2)
    torch.testing.assert_close(
        again.attribute(images, targets), method.eval().attribute(images, targets)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"masks": 1},
        {"sides": []},
        {"sides": [0]},
        {"probability": 0.0},
        {"probability": 1.1},
        {"lambda1": -1.0},
        {"lambda2": -1.0},
    ],
)
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match="expected positive sides"):
        AmortizedSLOC(planted.explanandum(), **options)
