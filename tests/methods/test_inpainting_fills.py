"""Fills that depend on the mask, in every method that takes a fill."""

import copy

import pytest
import torch

from explainers.functional import fills, masking
from explainers.functional.content import RowFills
from explainers.functional.fills import counted
from explainers.functional.inpainting import harmonic
from explainers.methods.amortized_sloc import AmortizedSLOC
from explainers.methods.evidence_nem import EvidenceNEM
from explainers.methods.extremal import ExtremalPerturbation
from explainers.methods.fido import FIDO
from explainers.methods.greedy_order import GreedyOrder
from explainers.methods.igos import IGOSPlusPlus
from explainers.methods.kernel_shap import KernelSHAP
from explainers.methods.lime import LIME
from explainers.methods.ltx import LTX
from explainers.methods.masking_explanation import MaskingExplanation
from explainers.methods.mp import MP, binary
from explainers.methods.mp2 import MP2
from explainers.methods.ra_nem import RaNEM
from explainers.methods.refined import Refined
from explainers.methods.rise import RISE
from explainers.methods.shapley import ShapleyExplainer
from explainers.methods.sliding_patch import SlidingPatch
from explainers.methods.sloc import SLOC
from tests import planted

ESTIMATOR = {"insertion": {"harmonic": 0.5, "mean": 0.5}, "deletion": {"harmonic": 1.0}}
# Arguments of a short run, and the images that are inpainted for one image and class.
METHODS = {
    SlidingPatch: ({"stride": 56, "patch": 56}, 16),
    LIME: ({"samples": 12}, 12),
    KernelSHAP: ({"samples": 12, "regions": "grid", "segments": 9}, 12),
    RISE: ({"masks": 9}, 9),
    SLOC: ({"masks": 12, "patches": {"probability": 0.5}}, 12 + 1),  # and one that keeps nothing
    MP: ({"steps": 3, "size": 7, "noise": 0.1}, 3),
    MP2: ({"size": 4, "chance": 0.0}, 8),
    FIDO: ({"steps": 2, "samples": 3, "size": 7}, 6),
    ExtremalPerturbation: ({"steps": 2, "areas": [0.1, 0.3]}, 4),
    MaskingExplanation: ({"steps": 2, "maps": 2}, 4),
    GreedyOrder: ({"grid": 2, "insertion_fill": "harmonic"}, 2 * (4 + 3 + 2)),
    IGOSPlusPlus: ({"steps": 1, "ig_steps": 2, "size": 7, "backtracks": 0, "lr": 1.0}, 16),
    Refined: ({"passes": 4, "estimator": ESTIMATOR}, None),
}


def built(kind):
    arguments, _ = METHODS[kind]
    if kind is not Refined:
        name = "deletion_fill" if kind is GreedyOrder else "fill"
        arguments = {**arguments, name: "harmonic"}
    return kind(planted.explanandum(), **arguments)


@pytest.mark.parametrize("kind", METHODS)
def test_a_map_takes_one_inpainting_for_each_masked_image_and_no_look_at_its_batch(kind):
    method, (images, targets) = built(kind), planted.scenes(2)
    with counted() as count:
        together = method.attribute(images, targets)
    expected = METHODS[kind][1]
    assert expected is None or count[0] in (2 * expected, 2 * expected - 1)  # SLOC shares one
    assert together.isfinite().all()
    alone = torch.cat(
        [method.attribute(i[None], t[None]) for i, t in zip(images, targets, strict=True)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    plain = copy.copy(method)
    plain.fill = "mean"
    # The first steps of the last two, which keep everything, follow the gradient of the mean color.
    if kind not in (Refined, GreedyOrder, ExtremalPerturbation, IGOSPlusPlus):
        assert not torch.equal(plain.attribute(images, targets), together)


def test_sp_g_is_the_drop_of_the_inpainted_image():
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(1)
    method = SlidingPatch(explanandum, patch=56, stride=112, fill="harmonic", batch_size=3)
    classes = targets.int().argmax(dim=1, keepdim=True)
    found = method.drops(images, classes)[0, 0]
    whole = explanandum.probabilities(images)[0, classes[0]]
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            masks = torch.ones(1, 32, 32)
            masks[:, 16 * row : 16 * row + 8, 16 * column : 16 * column + 8] = 0
            filled = harmonic(images, masks, mean=explanandum.mean)
            drop = whole - explanandum.probabilities(filled)[0, classes[0]]
            torch.testing.assert_close(found[row, column], drop[0])


def test_mp_g_shows_binary_masks_and_passes_the_gradient_on():
    masks = torch.tensor([[[0.2, 0.6], [0.9, 1.0]], [[0.0, 0.1], [0.5, 0.51]]], requires_grad=True)
    hard = binary(masks)
    assert hard.tolist() == [[[0, 0], [1, 1]], [[0, 0], [0, 1]]]
    (hard * torch.arange(8.0).view(2, 2, 2)).sum().backward()
    assert torch.equal(masks.grad, torch.arange(8.0).view(2, 2, 2))
    shown, explanandum = [], planted.explanandum()
    explanandum.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].detach()))
    images, targets = planted.scenes(1)
    MP(explanandum, steps=1, size=32, jitter=1, fill="black", binary=True).attribute(
        images, targets
    )
    for picture in shown:
        gap = torch.minimum((picture - images).abs(), picture.abs())
        torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-6)


def test_soft_masks_blend_the_image_with_a_fill_of_the_binary_mask():
    images = torch.rand(1, 3, 6, 6)
    masks = torch.rand(1, 6, 6, requires_grad=True)
    fill = planted.explanandum().fill("harmonic")
    shown = masking.blend(images, masks, fill)
    filled = harmonic(images, (masks.detach() >= 0.5).float())
    torch.testing.assert_close(shown, masking.blend(images, masks, filled))
    (gradient,) = torch.autograd.grad(shown.sum(), masks)
    # A kept pixel is its own fill; its gradient is that of a blend with the mean color.
    mean = planted.explanandum().mean.expand_as(images)
    behind = torch.where((masks >= 0.5)[:, None], mean, filled)
    torch.testing.assert_close(gradient, (images - behind).sum(dim=1))


LEARNED = {
    RaNEM: {"fills": ["mean", "harmonic"], "network": {"widths": [8] * 5}, "deletion": True},
    ShapleyExplainer: {"fill": "harmonic", "grid": 4, "network": {"width": 8}},
    AmortizedSLOC: {"fill": "harmonic", "network": {"width": 8}},
    LTX: {"fill": "harmonic"},
    EvidenceNEM: {"estimator": ESTIMATOR},
}


@pytest.mark.parametrize("kind", LEARNED)
def test_training_takes_an_inpainter(kind):
    method = kind(planted.explanandum(), **LEARNED[kind])
    images, targets = planted.scenes(4)
    with counted() as count:
        terms = method.loss_terms(
            {"image": images, "target": targets}, torch.Generator().manual_seed(0)
        )
        torch.stack(list(terms.values())).sum().backward()
    assert count[0] > 0
    learned = [p.grad for p in method.parameters() if p.requires_grad and p.grad is not None]
    assert sum(float(grad.abs().sum()) for grad in learned) > 0


def test_each_row_of_a_batch_may_have_a_fill_of_its_own():
    images, masks = torch.rand(3, 3, 5, 5), torch.ones(3, 5, 5)
    masks[:, 2] = 0
    known = torch.rand(3, 3, 5, 5)
    inpainter = planted.explanandum().fill("harmonic")
    found = RowFills(known, [(torch.tensor([1]), inpainter)])(images, masks)
    assert torch.equal(found[0], known[0])
    assert torch.equal(found[1], harmonic(images[1:2], masks[1:2])[0])
    with pytest.raises(ValueError, match="need the masks"):
        RowFills(known, [])(images)


def test_road_shows_the_same_noise_in_every_batch():
    images, masks = torch.rand(4, 3, 6, 6), torch.ones(4, 6, 6)
    masks[:, 2:4] = 0
    fill = planted.explanandum().fill("road", torch.Generator().manual_seed(3))
    together = fill(images, masks)
    alone = torch.cat([fill(i[None], m[None]) for i, m in zip(images, masks, strict=True)])
    torch.testing.assert_close(together, alone)
    assert isinstance(fill, fills.Inpainted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fill": "harmonik"}, "fill must be one of .*'harmonic'.* or the path of a file"),
        ({"fill": "nowhere.ckpt"}, "or the path of a file, got 'nowhere.ckpt'"),
        ({"fill": "images"}, "fill must be one of"),
    ],
)
def test_other_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RISE(planted.explanandum(), **arguments)


def test_a_method_that_integrates_a_path_names_the_fills_that_work():
    from explainers.methods.gradient_methods import GradientTimesInput as Path

    with pytest.raises(ValueError, match=r"baseline must be one of \['mean'"):
        Path(planted.explanandum(), baseline="harmonic")
