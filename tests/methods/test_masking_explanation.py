import math

import pytest
import torch
from PIL import Image
from torch import nn

from explainers import Explanandum
from explainers.methods.masking_explanation import MaskingExplanation, crops, disjoint
from tests import planted

FEW = {"steps": 40, "scale": 4, "l1": 1e-3}


class Linear(nn.Module):
    """Two logits, z / 2 and -z / 2, of z = sum of weights (H, W) times the mean of the channels."""

    num_classes = 2

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, images):
        z = (images.mean(dim=1) * self.weights.to(images)).sum(dim=(1, 2))
        return torch.stack([z / 2, -z / 2], dim=1)


class Score(Linear):
    """One independent logit z a class, of opposite sign."""

    def forward(self, images):
        return 2 * super().forward(images)


def linear(weights, kind=Linear):
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "input_size": [1, 1]}
    model = kind(torch.as_tensor(weights))
    return Explanandum(model, multi_label=kind is Score, **plain).double()


def white(weights):
    return torch.ones(1, 3, *torch.as_tensor(weights).shape, dtype=torch.float64)


@pytest.fixture
def bank(tmp_path):
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number,) * 3).save(tmp_path / f"{number}.png")
    return str(tmp_path)


# An image of two pixels, 1 and .5, that count 4 and 2, before a black and a white picture.
WEIGHTS = [[4.0, 2.0]]
PICTURE = torch.tensor([[[[1.0, 0.5]]] * 3]).view(1, 3, 1, 2).double()
ONE = [[0.5, 0.25], [0.5, 0.75]]  # a mask and its complement
FILLS = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 2).double()


def sigma(z):
    return 1 / (1 + math.exp(-z))


def first_step(masks, kind=Linear, wanted=0, fills=FILLS, **arguments):
    plain = {"l1": 0.0, "tv": 0.0, "maps": len(masks) - 1}
    method = MaskingExplanation(linear(WEIGHTS, kind), **plain | arguments)
    stack = torch.tensor(masks, dtype=torch.float64).view(1, len(masks), 1, 2)
    return method.losses(PICTURE, torch.tensor([wanted]), stack, fills).item()


def test_loss_of_one_mask_by_hand():
    # Black behind: 4 * .5 + 2 * .125 = 2.25; white behind: 4 * .5 + 2 * .75 = 3.5 more.
    black, white = 2.25, 2.25 + 3.5
    paper = -(math.log(sigma(black)) + math.log(sigma(white))) / 2
    assert first_step(ONE) == pytest.approx(paper, rel=1e-12)
    wrong = -(math.log(sigma(-black)) + math.log(sigma(-white))) / 2
    assert first_step(ONE, wanted=1) == pytest.approx(wrong, rel=1e-12)
    p = (sigma(black) + sigma(white)) / 2
    released = -math.log(math.exp(p) / (math.exp(p) + math.exp(1 - p)))
    assert first_step(ONE, loss="released") == pytest.approx(released, rel=1e-12)
    assert first_step(ONE, fills=FILLS[:1]) == pytest.approx(-math.log(sigma(2.25)), rel=1e-12)


def test_regularisers_of_one_mask_by_hand():
    base = first_step(ONE)
    assert first_step(ONE, l1=0.1) - base == pytest.approx(0.1 * 0.75)
    assert first_step(ONE, tv=2.0) - base == pytest.approx(2.0 * 0.25**2)
    bits = 1 + (0.25 * 2 + 0.75 * math.log2(4 / 3))  # of both pixels
    assert first_step(ONE, entropy=3.0) - base == pytest.approx(3.0 * bits * math.log(2) / 2)


def test_loss_of_two_masks_by_hand():
    masks = [[0.5, 0.25], [0.125, 0.5], [0.375, 0.25]]
    # Each alone, before black or before white: 4 * .375 + 2 * .25 = 2 more.
    seen = [4 * 0.5 + 2 * 0.125, 4 * 0.125 + 2 * 0.25]
    paper = sum(-math.log(sigma(z + more)) / 4 for z in seen for more in (0, 2))
    p = [(sigma(z) + sigma(z + 2)) / 2 for z in seen]
    released = sum(-math.log(math.exp(q) / (math.exp(q) + math.exp(1 - q))) / 2 for q in p)
    assert first_step(masks) == pytest.approx(paper, rel=1e-12)
    assert first_step(masks, loss="released") == pytest.approx(released, rel=1e-12)
    # Means over the two masks; the rest costs nothing.
    assert first_step(masks, l1=0.1) - paper == pytest.approx(0.1 * (0.75 + 0.625) / 2)
    assert first_step(masks, tv=2.0) - paper == pytest.approx(2.0 * (0.25**2 + 0.375**2) / 2)


def test_sigmoid_heads_are_binary_for_the_class():
    black, white = 2.25, 5.75
    paper = -(math.log(sigma(-black)) + math.log(sigma(-white))) / 2
    assert first_step(ONE, Score, wanted=1) == pytest.approx(paper, rel=1e-12)
    p = (sigma(-black) + sigma(-white)) / 2
    released = -math.log(math.exp(p) / (math.exp(p) + math.exp(1 - p)))
    assert first_step(ONE, Score, 1, loss="released") == pytest.approx(released, rel=1e-12)


def test_pixels_of_other_masks_show_the_mean_colour():
    seen = []
    explanandum = Explanandum(
        Linear(torch.ones(1, 2)), mean=[0.25] * 3, std=[0.5] * 3, input_size=[1, 2]
    )
    explanandum.double().model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    masks = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]]).double().view(1, 3, 1, 2)
    images = torch.tensor([1.0, 0.75]).double().view(1, 1, 1, 2).expand(1, 3, 1, 2)
    fills = torch.ones(1, 3, 1, 2).double()
    method = MaskingExplanation(explanandum, maps=2)
    method.losses(images, torch.tensor([0]), masks, fills)
    # Normalised image (1.5, 1), picture (1.5, 1.5); 0 is the mean colour.
    expected = torch.tensor([[1.5, 0.75], [0.0, 0.5 + 0.75]]).double()
    torch.testing.assert_close(seen[-1][:, 0, 0], expected)


def test_one_step_of_adam_moves_every_parameter_by_lr():
    method = MaskingExplanation(linear(WEIGHTS), steps=1, scale=1, lr=0.05, l1=0.2, tv=0.0)
    found = method.class_maps(PICTURE, torch.tensor([[0, 1]]))[0, :, 0]
    # Slopes at one half: -4 / (1 + e^2.5) + .2 < 0 and -1 / (1 + e^2.5) + .2 > 0; wrong class: > 0.
    up, down = sigma(0.05), sigma(-0.05)
    expected = torch.tensor([[up, down], [down, down]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_optimum_of_a_known_size():
    # All 16 pixels count 1: the slope -sigma(-z) + .1 of each vanishes at z = ln 9, z the mask sum.
    weights = torch.ones(4, 4).double()
    method = MaskingExplanation(linear(weights), steps=400, scale=1, l1=0.1, tv=0.0)
    found = method.class_maps(white(weights), torch.tensor([[0]]))
    assert found.sum().item() == pytest.approx(math.log(9), abs=1e-3)
    torch.testing.assert_close(found, torch.full_like(found, math.log(9) / 16), rtol=0, atol=1e-4)


def test_only_pixels_worth_their_price_are_kept():
    # With those of weight 1 kept, z = 4: weight .2 gains .2 * sigma(-4) = .0036 < .01 < sigma(-4).
    weights = torch.full((4, 4), 0.2).double()
    weights[1] = 1.0
    method = MaskingExplanation(linear(weights), steps=600, scale=1, l1=0.01, tv=0.0)
    found = method.attribute(white(weights), torch.tensor([[True, False]]))[0]
    assert found[1].min() > 0.95
    assert found[[0, 2, 3]].max() < 0.05


def explains(weights, tv):
    """Probabilities of the right and the wrong label under their own masks, and the masks."""
    method = MaskingExplanation(linear(weights), steps=400, lr=0.2, scale=1, l1=0.0, tv=tv)
    masks = method.class_maps(white(weights), torch.tensor([[0, 1]]))[0]
    seen = white(weights) * masks[:, None]
    return method.explanandum.probabilities(seen).diagonal(), masks


def test_variation_makes_a_linear_classifier_sound():
    # Theorem 5.1: intervals explain the right label and never the wrong one, single pixels do both.
    weights = 0.5 * torch.tensor([[2.0, -1.0] * 16]).double()
    assert all(weights[0, i : i + 8].sum() > 0 for i in range(25))
    (right, wrong), masks = explains(weights, tv=0.0)
    assert right > 0.99
    assert wrong > 0.99  # the odd pixels alone
    assert masks[1, 0].diff().abs().sum() > 20  # an interval has 2 at most
    (right, wrong), masks = explains(weights, tv=2.0)
    assert right > 0.99
    assert masks[0].mean() > 0.7  # the whole row, an interval
    assert masks[0].diff().abs().max() < 0.01
    # The optimum, from L-BFGS-B: the odd pixels at 0.0276, the last at twice that, the others at 0.
    assert wrong.item() == pytest.approx(0.558, abs=0.01)
    assert masks[1].mean().item() == pytest.approx(0.0147, abs=0.003)


@pytest.mark.parametrize("maps", [1, 2, 4])
def test_masks_sum_to_one_and_each_explains_the_class(maps):
    explanandum = planted.explanandum()
    images, targets = planted.scenes(2, (16, 20))
    classes = targets.nonzero()[:, 1:]
    method = MaskingExplanation(explanandum, **FEW | {"maps": maps, "scale": 2})
    found = method.ensembles(images, classes)
    assert found.shape == (2, 1, maps + 1, 16, 20)
    torch.testing.assert_close(found.sum(dim=2), torch.ones(2, 1, 16, 20))
    for mask in found[:, 0, :-1].unbind(dim=1):
        seen = explanandum.probabilities(images * mask[:, None])
        assert seen[targets].min() > 0.8
    assert torch.equal(method.class_maps(images, classes), found[:, :, :-1].amax(dim=2))
    method.combine = "mean"
    assert torch.equal(method.class_maps(images, classes), found[:, :, :-1].mean(dim=2))


@pytest.mark.parametrize("maps", [2, 4])
def test_several_masks_differ_and_from_the_released_start_they_do_not(maps):
    images, targets = planted.scenes(2)
    classes = targets.nonzero()[:, 1:]
    settings = {"steps": 100, "scale": 1, "l1": 1e-3, "tv": 0.0, "maps": maps}
    for start, least, most in (("noise", -0.1, 0.6), ("zeros", 0.9999, 1.0001)):
        method = MaskingExplanation(planted.explanandum(), start=start, **settings)
        for masks in method.ensembles(images, classes)[:, 0, :-1].flatten(2):
            assert least < torch.corrcoef(masks)[0, 1] < most
    single = [
        MaskingExplanation(planted.explanandum(), start=start, seed=seed, steps=3)
        for start, seed in (("noise", 0), ("zeros", 1))
    ]
    assert torch.equal(*(method.class_maps(images, classes) for method in single))


def test_cells_are_interpolated_after_the_softmax():
    parameters = torch.tensor([[[0.0, 100.0]], [[0.0, 0.0]], [[0.0, 0.0]]])[None]
    found = disjoint(parameters, (2, 4))
    first = torch.tensor([1 / 3, 1 / 2, 5 / 6, 1.0])  # a quarter and three quarters on the way
    torch.testing.assert_close(found[0, 0], first.expand(2, 4))
    torch.testing.assert_close(found[0, 1], found[0, 2])
    single = disjoint(torch.tensor([[[[0.0, 100.0]]]]), (1, 4))
    torch.testing.assert_close(single[0, :, 0, 1], torch.tensor([0.625, 0.375]))
    images, targets = planted.scenes(1, (9, 9))
    found = MaskingExplanation(planted.explanandum(), **FEW).attribute(images, targets)
    assert torch.linalg.matrix_rank(found[0], rtol=1e-4) == 3  # 9 pixels over 3 cells of scale 4


def pictures_seen(method, images, classes):
    """What stands behind masks of one half: (steps, pairs, draws, 3, H, W)."""
    seen = []
    hook = method.explanandum.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    method.class_maps(images, classes)
    hook.remove()
    owners = images.repeat_interleave(classes.shape[1], dim=0)[:, None]
    steps = [torch.cat(seen[step :: method.steps]).detach() for step in range(method.steps)]
    return torch.stack([2 * x.view(-1, method.draws, *images.shape[1:]) - owners for x in steps])


@pytest.mark.parametrize("augment", [False, True])
def test_all_pairs_see_the_same_pictures(bank, augment):
    images, _ = planted.scenes(2, (8, 8))
    classes = torch.tensor([[0, 1], [3, 0]])
    # So small an lr leaves the masks at one half.
    setting = {"steps": 2, "lr": 1e-9, "fill": "images", "bank": bank, "augment": augment}
    method = MaskingExplanation(planted.explanandum(), **setting, pairs=3)
    behind = pictures_seen(method, images, classes)
    assert behind.shape == (2, 4, 10, 3, 8, 8)
    torch.testing.assert_close(behind, behind[:, :1].expand_as(behind))
    assert not torch.allclose(behind[0], behind[1])  # each step draws anew
    number = 255 * behind[:, 0].mean(dim=(2, 3, 4)) / 40  # pictures are grey, crops too
    torch.testing.assert_close(number, number.round(), rtol=0, atol=1e-3)
    assert set(number.round().flatten().tolist()) == {0, 1, 2, 3, 4, 5}
    other = MaskingExplanation(planted.explanandum(), **setting, seed=1)
    assert not torch.allclose(behind, pictures_seen(other, images, classes))


@pytest.mark.parametrize(("maps", "draws"), [(1, 1), (2, 1), (3, 5)])
def test_passes_are_steps_times_maps_times_draws(bank, maps, draws):
    explanandum = planted.explanandum()
    forward, backward = [], []

    def count(_, inputs, logits):
        forward.append(len(inputs[0]))
        logits.register_hook(lambda slopes: backward.append(len(slopes)))

    explanandum.register_forward_hook(count)
    images, _ = planted.scenes(2, (8, 8))
    source = {"fill": "images", "bank": bank, "draws": draws} if draws > 1 else {}
    method = MaskingExplanation(explanandum, steps=7, maps=maps, pairs=3, **source)
    method.class_maps(images, torch.tensor([[0, 1], [2, 2]]))
    assert sum(forward) == sum(backward) == 4 * 7 * maps * draws
    assert max(forward) == 3 * maps * draws


@pytest.mark.parametrize("loss", ["paper", "released"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_it_finds_the_quadrant_behind_other_pictures(bank, loss, multi_label):
    setting = FEW | {"fill": "images", "bank": bank, "draws": 3, "loss": loss}
    images, targets = planted.scenes(2, (16, 16))
    explanandum = planted.explanandum(multi_label=multi_label)
    found = MaskingExplanation(explanandum, **setting, tv=0.0).attribute(images, targets)
    inside = found[:, None] * planted.quadrant_masks(16, 16)
    assert torch.equal(inside.sum(dim=(2, 3)).argmax(dim=1), targets.int().argmax(dim=1))


def test_crops_are_windows_of_the_picture():
    ramp = torch.arange(32.0).add(0.5).div(32).expand(32, 32)
    picture = torch.stack([ramp, ramp.mT, 0 * ramp]).expand(400, 3, 32, 32)
    found = crops(picture, torch.Generator().manual_seed(0))
    # The ramps' slopes are the window's sides; in the middle, for the border is flat.
    across, down = 32 * found[:, 0, 0].diff(dim=1)[:, 15], 32 * found[:, 1, :, 0].diff(dim=1)[:, 15]
    area, ratio = (across * down).abs(), (across / down).abs()
    assert area.min() > 0.079
    assert area.mean().item() == pytest.approx(0.54, abs=0.03)
    whole = torch.maximum(across.abs(), down) > 0.999  # sides were cut
    assert (whole | (ratio > 0.74) & (ratio < 1.34)).all()
    assert (across < 0).float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert (down > 0).all()
    centres = found[area < 0.25, 0, 0].mean(dim=1)
    assert centres.min() < 0.35
    assert centres.max() > 0.65


@pytest.mark.parametrize(
    "wrong",
    [{name: 0} for name in ("steps", "scale", "maps", "draws", "pairs", "lr")]
    + [{name: -1.0} for name in ("l1", "tv", "entropy")]
    + [{name: "pink"} for name in ("combine", "loss", "fill", "start")]
    + [{"fill": "images"}, {"fill": "mean", "bank": "pictures"}],
)
def test_wrong_arguments_are_refused(wrong):
    name, value = list(wrong.items())[-1]
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        MaskingExplanation(planted.explanandum(), **wrong)
