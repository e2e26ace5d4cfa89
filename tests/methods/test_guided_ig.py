"""Guided integrated gradients against a loop over single values, and where sums are known."""

import math

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.methods.guided_ig import GuidedIG

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
CLASSES = torch.tensor([[0, 2], [1, 2]])


class Curved(nn.Module):
    """Logits from squares of a small convolution."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3, generator=generator) / 5)
        self.head = nn.Parameter(torch.randn(3, 6, generator=generator))

    def forward(self, images):
        return nn.functional.conv2d(images, self.weight).tanh().square().mean((2, 3)) @ self.head.T


@pytest.fixture
def explanandum():
    return Explanandum(Curved(), mean=MEAN, std=STD, input_size=[6, 5])


@pytest.fixture
def images():
    images = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, :3] = MEAN[0]  # values that have nowhere to go
    return images


def by_hand(explanandum, image, index, steps, fraction, distance):
    """Attributions (3, H, W) of an image (3, H, W), value by value."""
    goal = image.flatten().double().tolist()
    start = explanandum.mean.expand_as(image[None]).flatten().double().tolist()
    count, now = len(goal), list(start)
    found, whole = [0.0] * count, sum(abs(g - s) for g, s in zip(goal, start, strict=True))
    for step in range(1, steps + 1):
        inputs = torch.tensor(now, dtype=torch.float32).view_as(image[None]).requires_grad_()
        (grads,) = torch.autograd.grad(explanandum(inputs)[0, index], inputs)
        slopes, share = grads.flatten().double().tolist(), step / steps
        low, high = (
            [s + at * (g - s) for s, g in zip(start, goal, strict=True)]
            for at in (max(share - distance, 0.0), min(share + distance, 1.0))
        )
        before = list(now)
        for i in range(count):  # behind the band
            if abs(now[i] - start[i]) < abs(low[i] - start[i]):
                now[i] = low[i]
        while (surplus := sum(map(abs, map(float.__sub__, now, goal))) - whole * (1 - share)) > (
            1e-9 * whole
        ):
            order = [math.inf if now[i] == high[i] else abs(slopes[i]) for i in range(count)]
            limit = sorted(order)[math.floor(fraction * (count - 1))]
            chosen = [i for i in range(count) if order[i] <= limit and order[i] < math.inf]
            part = min(1.0, surplus / sum(abs(now[i] - high[i]) for i in chosen))
            for i in chosen:
                now[i] = high[i] if part == 1 else now[i] + part * (high[i] - now[i])
        for i in range(count):
            found[i] += (now[i] - before[i]) * slopes[i]
    return torch.tensor(found, dtype=torch.float32).view_as(image)


@pytest.mark.parametrize(
    ("steps", "fraction", "distance"), [(20, 0.25, 0.02), (10, 0.5, 1.0), (7, 0.1, 0.3)]
)
def test_equals_a_loop_over_single_values(explanandum, images, steps, fraction, distance):
    method = GuidedIG(explanandum, steps, fraction, distance, channels="sum", batch_size=3)
    assert method.is_signed
    found = method.class_maps(images, CLASSES)
    for i, image in enumerate(images):
        for k, index in enumerate(CLASSES[i].tolist()):
            parts = by_hand(explanandum, image, index, steps, fraction, distance)
            torch.testing.assert_close(found[i, k], parts.sum(dim=0), rtol=1e-4, atol=1e-6)


def test_the_band_of_no_width_is_the_straight_path(explanandum, images):
    start, found = explanandum.mean.expand_as(images), torch.zeros_like(images)
    for step in range(10):  # the gradient at the beginning of each step
        inputs = (start + step / 10 * (images - start)).requires_grad_()
        score = explanandum(inputs).gather(1, CLASSES[:, :1]).sum()
        found += torch.autograd.grad(score, inputs)[0] * (images - start) / 10
    method = GuidedIG(explanandum, 10, max_distance=0.0)
    maps = method.class_maps(images, CLASSES)[:, 0]
    torch.testing.assert_close(maps, found.abs().sum(dim=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_maps_sum_to_the_difference_of_scores(explanandum, images, score):
    method = GuidedIG(explanandum, 150, channels="sum", score=score)
    value = explanandum if score == "logit" else explanandum.probabilities
    expected = value(images) - value(explanandum.mean.expand_as(images))
    found = method.class_maps(images, CLASSES).sum(dim=(2, 3))
    torch.testing.assert_close(found, expected.gather(1, CLASSES), rtol=0.02, atol=0.002)


def test_an_image_of_the_mean_color_has_no_path(explanandum):
    images = explanandum.mean.expand(1, 3, 6, 5)
    assert not GuidedIG(explanandum, 5).class_maps(images, CLASSES[:1]).any()


class Broken(Curved):
    def forward(self, images):
        outputs = super().forward(images)
        return outputs * (torch.nan if images.requires_grad else 1)


def test_gradients_that_are_not_finite_end(images):
    explanandum = Explanandum(Broken(), mean=MEAN, std=STD, input_size=[6, 5])
    assert GuidedIG(explanandum, 5).class_maps(images, CLASSES).isnan().any()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"fraction": 0.0}, {"max_distance": 1.5}])
def test_wrong_arguments_are_refused(explanandum, wrong):
    with pytest.raises(ValueError, match=f"must be positive.*{next(iter(wrong.values()))}"):
        GuidedIG(explanandum, **wrong)
