"""Gradients times images, and averaged over noise and baselines: by hand, and as captum."""

import numpy as np
import pytest
import torch
from captum import attr
from PIL import Image
from torch import nn

from explainers import Explanandum
from explainers.methods.gradient_methods import GradientSHAP, GradientTimesInput, SmoothGrad
from tests import planted

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]
COLOR, SCALE = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
CLASSES = torch.tensor([[0, 2], [1, 1]])
FIRST = torch.tensor([[True, False, False], [False, True, False]])


class Linear(nn.Module):
    """Logits W x + b of normalized images of 5 by 4 pixels."""

    num_classes = 3

    def __init__(self, curved: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 3, 5, 4, generator=generator))
        self.curved = curved

    def forward(self, images):
        return torch.einsum("kchw,bchw->bk", self.weight, images.tanh() if self.curved else images)


@pytest.fixture
def linear():
    return Explanandum(Linear(), mean=MEAN, std=STD)


@pytest.fixture
def curved():
    return Explanandum(Linear(curved=True), mean=MEAN, std=STD)


@pytest.fixture
def images():
    return torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))


def by_weights(explanandum, images, start):
    """Contributions (2, 3, 5, 4) of a linear classifier to the logits of class 0 and 1."""
    return explanandum.model.weight[[0, 1]] / SCALE * (images - start)


@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_gradient_times_input_of_a_linear_classifier(linear, images, baseline):
    parts = by_weights(linear, images, COLOR if baseline == "mean" else 0)
    found = GradientTimesInput(linear, baseline).attribute(images, FIRST)
    torch.testing.assert_close(found, parts.sum(dim=1))
    found = GradientTimesInput(linear, baseline, "sum_abs").attribute(images, FIRST)
    torch.testing.assert_close(found, parts.abs().sum(dim=1))
    found = GradientTimesInput(linear, baseline, "mean_clamp").attribute(images, FIRST)
    torch.testing.assert_close(found, parts.mean(dim=1).clamp(min=0))


def test_gradient_times_input_is_captums_in_normalized_space(curved, images):
    inputs = curved.normalize(images).requires_grad_()
    expected = attr.InputXGradient(curved.model).attribute(inputs, target=CLASSES[:, 0])
    found = GradientTimesInput(curved, batch_size=1).class_maps(images, CLASSES)[:, 0]
    torch.testing.assert_close(found, expected.sum(dim=1).detach())


def test_smooth_grad_of_a_linear_classifier_is_its_gradient(linear, images):
    gradient = linear.model.weight[[0, 1]] / SCALE
    for average in ("gradient", "magnitude"):
        found = SmoothGrad(linear, 3, average=average).attribute(images, FIRST)
        torch.testing.assert_close(found, gradient.abs().sum(dim=1))


def noises(method, count, shape):
    generator = method.generator()
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_smooth_grad_is_captums_with_equal_draws(curved, images, monkeypatch, score):
    method = SmoothGrad(curved, 4, sigma=0.2, score=score, batch_size=3)
    drawn = torch.stack(noises(method, 4, (3, 5, 4)))
    monkeypatch.setattr(torch, "normal", lambda _, std: std * drawn)
    value = curved if score == "logit" else curved.probabilities
    maps = method.class_maps(images, CLASSES)
    for i, image in enumerate(images):
        arguments = {
            "nt_samples": 4,
            "stdevs": 0.2 * float(image.max() - image.min()),
            "target": int(CLASSES[i, 1]),
            "abs": False,
        }
        tunnel = attr.NoiseTunnel(attr.Saliency(value))
        expected = tunnel.attribute(image[None].clone().requires_grad_(), **arguments).detach()
        torch.testing.assert_close(maps[i, 1], expected.abs().sum(dim=1)[0])


def test_smooth_grad_of_gradient_times_input_by_hand(curved, images):
    method = SmoothGrad(curved, 3, sigma=0.1, average="gradient_times_input")
    assert method.is_signed
    span = float(images[0].max() - images[0].min())
    expected = torch.zeros(3, 5, 4)
    for noise in noises(method, 3, (3, 5, 4)):
        noisy = images[0] + 0.1 * span * noise
        slope = 1 - ((noisy - COLOR) / SCALE).tanh() ** 2
        expected += curved.model.weight[0] / SCALE * slope * (noisy - COLOR) / 3
    found = method.attribute(images, FIRST)[0]
    torch.testing.assert_close(found, expected.sum(dim=0))


@pytest.mark.parametrize("baseline", ["mean", "black", "blur"])
def test_gradient_shap_of_a_linear_classifier(linear, images, baseline):
    starts = {"mean": COLOR, "black": torch.zeros(3, 1, 1), "blur": linear.fill("blur")(images)}
    method = GradientSHAP(linear, 3, baseline, channels="sum")
    parts = by_weights(linear, images, starts[baseline])
    torch.testing.assert_close(method.attribute(images, FIRST), parts.sum(dim=1))


def test_gradient_shap_is_captums_with_equal_draws(curved, images, monkeypatch):
    method = GradientSHAP(curved, 5, sigma=0.1, channels="sum", batch_size=4)
    generator, places, noise = method.generator(), [], []
    for _ in range(5):
        places.append(float(torch.rand((), generator=generator)))
        noise.append(torch.randn(3, 5, 4, generator=generator))
    monkeypatch.setattr(torch, "normal", lambda _, std: std * torch.stack(noise))
    monkeypatch.setattr(np.random, "uniform", lambda *_: np.array(places))
    expected = attr.GradientShap(curved).attribute(
        images[:1].clone().requires_grad_(),
        curved.mean.expand(1, 3, 5, 4).contiguous(),
        n_samples=5,
        stdevs=0.1,
        target=2,
    )
    found = method.class_maps(images, CLASSES)[0, 1]
    torch.testing.assert_close(found, expected.sum(dim=1)[0].detach())


@pytest.fixture
def bank(tmp_path):
    """A folder of three photographs of one color each: levels 0, 51 and 255 of 255."""
    for level in (0, 51, 255):
        picture = np.full((5, 4, 3), level, dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{level}.png")
    return str(tmp_path)


def test_expected_gradients_of_a_linear_classifier(linear, images, bank):
    method = GradientSHAP(linear, 40, "images", bank, channels="sum")
    generator, levels = method.generator(), []
    for _ in range(40):
        torch.rand((), generator=generator)
        drawn = int(torch.randint(3, (), generator=generator))
        levels.append([0.0, 1.0, 0.2][drawn])  # in the order of the names 0, 255 and 51
    assert len(set(levels)) == 3
    parts = by_weights(linear, images, sum(levels) / 40)
    torch.testing.assert_close(method.attribute(images, FIRST), parts.sum(dim=1))


def test_expected_gradients_exceed_the_mean_score_of_the_photographs(curved, images, bank):
    method = GradientSHAP(curved, 3000, "images", bank, channels="sum", batch_size=1000)
    found = method.class_maps(images, CLASSES).sum(dim=(2, 3))
    levels = torch.tensor([0, 0.2, 1]).view(3, 1, 1, 1).expand(3, 3, 5, 4)
    expected = (curved(images) - curved(levels).mean(dim=0)).gather(1, CLASSES)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("method", [GradientTimesInput, SmoothGrad, GradientSHAP])
def test_classes_have_their_own_quadrants(method):
    images = torch.full((1, 3, 32, 32), 0.5)
    found = method(planted.explanandum()).class_maps(images, torch.arange(4)[None])[0]
    inside = planted.quadrant_masks(32, 32).bool()
    assert (found[inside] > 0).all()
    if method is not SmoothGrad:
        assert not found[~inside].any()


def test_passes_are_shared_by_the_classes_of_an_image(curved, images):
    seen = []
    hook = curved.model.register_forward_hook(lambda *call: seen.append(len(call[2])))
    SmoothGrad(curved, 5, batch_size=4).class_maps(images, CLASSES)
    hook.remove()
    assert sum(seen) == 5 * len(images)
    assert max(seen) <= 4


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (GradientTimesInput, {"baseline": "white"}),
        (GradientTimesInput, {"batch_size": 0}),
        (SmoothGrad, {"samples": 0}),
        (SmoothGrad, {"average": "median"}),
        (GradientSHAP, {"sigma": -1.0}),
        (GradientSHAP, {"baseline": "images"}),
        (GradientSHAP, {"bank": "photos"}),
    ],
)
def test_wrong_arguments_are_refused(linear, method, wrong):
    with pytest.raises(ValueError, match=f"must be.*{list(wrong.values())[-1]}"):
        method(linear, **wrong)
