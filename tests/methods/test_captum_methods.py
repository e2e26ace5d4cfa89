import inspect

import pytest
import torch
from captum import attr
from torch import nn

from explainers import Explanandum
from explainers.functional.masking import minmax
from explainers.functional.smoothing import smooth_inside
from explainers.methods.captum_methods import IntegratedGradients, Saliency
from tests import planted

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]


class Linear(nn.Module):
    """Logits W x + b of normalised images of 5 by 4 pixels."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 3, 5, 4, generator=generator))

    def forward(self, images):
        return torch.einsum("kchw,bchw->bk", self.weight, images) + 7


class Curved(Linear):
    def forward(self, images):
        return super().forward(images.tanh())


@pytest.fixture
def linear():
    return Explanandum(Linear(), mean=MEAN, std=STD)


@pytest.fixture
def curved():
    return Explanandum(Curved(), mean=MEAN, std=STD)


@pytest.fixture
def images():
    return torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))


CLASSES = torch.tensor([[0, 2], [1, 1]])
FIRST = torch.tensor([[True, False, False], [False, True, False]])


@pytest.mark.parametrize("channels", ["max", "mean", "sum"])
def test_saliency_of_a_linear_classifier_is_its_weights(linear, images, channels):
    size = linear.model.weight[[0, 1]].abs() / torch.tensor(STD).view(3, 1, 1)
    expected = {"max": size.amax(1), "mean": size.mean(1), "sum": size.sum(1)}[channels]
    found = Saliency(linear, channels).attribute(images, FIRST)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_the_gradient_of_a_probability_by_the_chain_rule(linear, images):
    p = linear.probabilities(images)[:, :, None, None, None]
    weights = linear.model.weight / torch.tensor(STD).view(3, 1, 1)
    gradients = p * (weights - (p * weights).sum(dim=1, keepdim=True))  # (B, K, 3, H, W)
    found = Saliency(linear, score="probability").class_maps(images, CLASSES)
    torch.testing.assert_close(found[0], gradients[0, [0, 2]].abs().amax(dim=1))


def test_smooth_saliency_is_the_saliency_smoothed(linear, images):
    raw = Saliency(linear).attribute(images, FIRST)
    found = Saliency(linear, smooth=3, sigma=2.0).attribute(images, FIRST)
    torch.testing.assert_close(found, smooth_inside(raw, 3, 2.0))


@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_integrated_gradients_of_a_linear_classifier(linear, images, baseline):
    start = torch.tensor(MEAN).view(3, 1, 1) if baseline == "mean" else torch.zeros(3, 1, 1)
    weights = linear.model.weight[[0, 1]] / torch.tensor(STD).view(3, 1, 1)
    parts = weights * (images - start)
    expected = {
        "sum_abs": parts.abs().sum(dim=1),
        "mean_clamp": parts.mean(dim=1).clamp(min=0),
        "sum": parts.sum(dim=1),
    }
    for channels, maps in expected.items():
        method = IntegratedGradients(linear, 3, baseline, channels, internal_batch_size=4)
        torch.testing.assert_close(method.attribute(images, FIRST), maps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_integrated_gradients_are_complete(curved, images, score):
    method = IntegratedGradients(curved, channels="sum", score=score, internal_batch_size=7)
    found = method.class_maps(images, CLASSES).sum(dim=(2, 3))
    value = curved if score == "logit" else curved.probabilities
    expected = value(images) - value(curved.mean.expand_as(images))
    torch.testing.assert_close(found, expected.gather(1, CLASSES), rtol=1e-3, atol=1e-4)


def test_the_number_of_steps_is_captums(curved):
    own = inspect.signature(attr.IntegratedGradients.attribute).parameters["n_steps"].default
    assert IntegratedGradients(curved).n_steps == own == 50


def test_steps_in_flight_do_not_change_the_map(curved, images):
    maps = [
        IntegratedGradients(curved, internal_batch_size=size).attribute(images, FIRST)
        for size in (1, 1000)
    ]
    torch.testing.assert_close(*maps)


def test_several_true_targets_are_merged_and_none_gives_nothing(linear, images):
    targets = torch.tensor([[True, False, True], [False, False, False]])
    method = IntegratedGradients(linear, 2, channels="sum")
    found = method.attribute(images, targets)
    alone = method.class_maps(images, torch.tensor([[0, 2], [0, 2]]))
    assert torch.equal(found[0], minmax(alone[0]).amax(dim=0))
    assert not found[1].any()


def test_one_true_target_is_never_rescaled_whatever_the_batch_holds(linear, images):
    mixed = FIRST.clone()
    mixed[0, 2] = True
    method = IntegratedGradients(linear, 2, channels="sum")
    alone = method.attribute(images[1:], FIRST[1:])
    torch.testing.assert_close(method.attribute(images, mixed)[1:], alone)
    assert alone.min() < 0


@pytest.mark.parametrize("method", [Saliency, IntegratedGradients])
def test_nothing_is_left_behind(curved, images, method):
    images.requires_grad_()
    before = images.detach().clone()
    with torch.no_grad():
        found = method(curved).attribute(images, FIRST)
    assert found.abs().sum() > 0
    assert images.requires_grad
    assert images.grad is None
    assert all(p.grad is None and not p.requires_grad for p in curved.parameters())
    assert torch.equal(images.detach(), before)


@pytest.mark.parametrize("method", [Saliency, IntegratedGradients])
def test_classes_have_different_maps(method):
    images = torch.full((1, 3, 32, 32), 0.5)
    found = method(planted.explanandum()).class_maps(images, torch.arange(4)[None])[0]
    inside = planted.quadrant_masks(32, 32).bool()
    assert (found[inside] > 0).all()
    assert not found[~inside].any()


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (Saliency, {"channels": "min"}),
        (Saliency, {"smooth": 4}),
        (Saliency, {"smooth": 3, "sigma": 0.0}),
        (Saliency, {"score": "loss"}),
        (IntegratedGradients, {"n_steps": 0}),
        (IntegratedGradients, {"baseline": "white"}),
    ],
)
def test_wrong_arguments_are_refused(linear, method, wrong):
    with pytest.raises(ValueError, match=f"must be.*{list(wrong.values())[-1]}"):
        method(linear, **wrong)
