import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.functional import fills, masking
from explainers.methods.igos import IGOSPlusPlus, Task, bilateral_variation
from tests import planted

PLAIN = {"area": 0.0, "variation": 0.0, "noise": 0.0}


class Linear(nn.Module):
    """The probability of class 0, by softmax or sigmoid, is 1/2 + sum of weights times pixels."""

    num_classes = 2

    def __init__(self, weights, multi_label=False):
        super().__init__()
        self.weights, self.multi_label = weights, multi_label

    def forward(self, images):
        p = 0.5 + (self.weights * images).sum(dim=(1, 2, 3))
        logits = torch.stack([p.log(), (1 - p).log()], dim=1)
        return logits - logits.flip(1) if self.multi_label else logits


def linear(weights, multi_label=False):
    model = Linear(weights, multi_label)
    return Explanandum(model, mean=[0.0] * 3, std=[1.0] * 3, multi_label=multi_label)


def task(images, fill=0.0, classes=None, noise=None, steps=4):
    fills = torch.full_like(images, fill)
    classes = torch.zeros(len(images), dtype=torch.long) if classes is None else classes
    noise = torch.zeros(steps, *images.shape[1:]) if noise is None else noise
    return Task(images, fills, classes, noise)


@pytest.mark.parametrize("multi_label", [False, True])
def test_integrated_gradient_of_a_linear_classifier_in_closed_form(multi_label):
    generator = torch.Generator().manual_seed(0)
    weights = 0.01 * torch.randn(3, 5, 5, generator=generator)
    images = torch.rand(2, 3, 5, 5, generator=generator)
    masks = torch.rand(2, 2, 5, 5, generator=generator)  # of the images' size: nothing is resized
    classifier = linear(weights, multi_label)
    method = IGOSPlusPlus(classifier, ig_steps=4, batch_size=9, **PLAIN)
    values, slopes = method.objective(task(images, fill=0.2), masks)
    worth = (weights * (images - 0.2)).sum(dim=1)
    whole, hidden = (weights * images).sum(dim=(1, 2, 3)), 0.2 * weights.sum()
    path = (1 + 2 + 3 + 4) / 4 / 4  # mean of s
    x, y = masks.unbind(1)
    mass = path * (worth * (x + y + 2 * x * y)).sum(dim=(1, 2))
    torch.testing.assert_close(values, hidden - whole + mass / 2)
    expected = torch.stack([worth * (1 + 2 * y), worth * (1 + 2 * x)], dim=1) * path / 2
    torch.testing.assert_close(slopes, expected)
    again, nothing = method.objective(task(images, fill=0.2), masks, with_slopes=False)
    torch.testing.assert_close(again, values)
    assert not nothing.any()


def score(classifier, image, fill, label, keep, noise):
    shown = masking.blend(image[None], keep[None], fill) + noise
    return classifier.probabilities(shown)[0, label]


def literal_objective(classifier, image, fill, label, masks, noise, area, variation):
    """The objective of one image, one blend at a time."""
    x, y = (F.interpolate(m[None, None], image.shape[-2:], mode="bilinear")[0, 0] for m in masks)
    total = 0.0
    for i, draw in enumerate(noise):
        s = (i + 1) / len(noise)
        for sign, keep in ((1, s * x), (-1, 1 - s * y), (1, s * x * y), (-1, 1 - s * x * y)):
            found = score(classifier, image, fill, label, keep, draw)
            total = total + sign * found / (2 * len(noise))
    product = masks[0] * masks[1]
    seen = classifier.normalize(image[None])
    smooth = bilateral_variation(product[None], seen, 0.01)[0]
    return total + area * (1 - product).mean() + variation * smooth


@pytest.mark.parametrize("multi_label", [False, True])
def test_objective_is_the_papers_with_its_gradient(multi_label):
    generator = torch.Generator().manual_seed(0)
    classifier = planted.explanandum(multi_label=multi_label)
    images = 0.2 * torch.rand(3, 3, 12, 8, generator=generator)  # not yet sure of its answer
    masks = torch.rand(3, 2, 4, 4, generator=generator).requires_grad_()
    noise = 0.05 * torch.randn(5, 3, 12, 8, generator=generator)
    classes = torch.tensor([2, 0, 3])
    method = IGOSPlusPlus(classifier, ig_steps=5, area=0.7, variation=3.0, batch_size=24)
    found = method.objective(task(images, 0.05, classes, noise), masks)
    fill = torch.full((1, 3, 1, 1), 0.05)
    for row in range(3):
        expected = literal_objective(
            classifier, images[row], fill, classes[row], masks[row], noise, 0.7, 3.0
        )
        (slope,) = torch.autograd.grad(expected, masks)
        torch.testing.assert_close(found[0][row], expected)
        torch.testing.assert_close(found[1][row], slope[row])


def test_bilateral_variation_by_hand():
    """Without edges and at the images' size both halves are the plain mean of squares."""
    mask = torch.tensor([[[0.0, 1.0], [0.0, 0.5]]])
    plain = (0.0**2 + 0.5**2) / 2 + (1.0**2 + 0.5**2) / 2  # down, across
    grey = torch.full((1, 3, 2, 2), 0.3)
    assert bilateral_variation(mask, grey, 0.01).item() == pytest.approx(plain)
    edge = grey.clone()
    edge[0, 0, 0, 1] += 0.1  # one channel of the top right pixel
    weight = math.exp(-(0.1**2 / 3) / 0.01)
    bilateral = (0.0**2 + weight * 0.5**2) / 2 + (weight * 1.0**2 + 0.5**2) / 2
    found = bilateral_variation(mask, edge, 0.01).item()
    assert found == pytest.approx((plain + bilateral) / 2)


def test_bilateral_variation_of_a_mask_smaller_than_the_image():
    mask, image = torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 3, 1, 4)
    fine = (0.25**2 + 0.5**2 + 0.25**2) / 3  # upsampled: 0, 1/4, 3/4, 1; no neighbours down
    wide = bilateral_variation(mask.expand(1, 2, 2), image.expand(1, 3, 2, 4), 0.01)
    assert wide.item() == pytest.approx((1.0 + fine) / 2)


def literal(method, image, label):
    """iGOS++ of one image and class, written out; the steps tried each time as well."""
    generator = method.generator()
    fill = fills.fill("blur", image[None], method.explanandum.mean, sigma=method.sigma)
    masks = torch.ones(2, method.size, method.size)
    tried = []
    for _ in range(method.steps):
        noise = torch.randn(method.ig_steps, *image.shape, generator=generator)
        noise = noise * method.noise * method.explanandum.std

        def loss(masks, noise=noise):
            case = (method.explanandum, image, fill, label, masks, noise)
            return literal_objective(*case, method.area, method.variation)

        masks.requires_grad_()
        before = loss(masks)
        (slope,) = torch.autograd.grad(before, masks)
        masks, length = masks.detach(), method.lr
        tried.append(0)
        for _ in range(13):
            tried[-1] += 1
            after = (masks - length * slope).clamp(0, 1)
            if loss(after) <= before - 1e-4 * (slope * (masks - after)).sum():
                masks = after
                break
            length *= 0.2
    x, y = (F.interpolate(m[None, None], image.shape[-2:], mode="bilinear")[0, 0] for m in masks)
    return 1 - x * y, tried


def test_it_is_the_published_optimisation_and_costs_what_it_says():
    classifier = planted.explanandum()
    images, _ = planted.scenes(3, (16, 16))
    images[1] *= 0.3  # pairs that try different lengths
    method = IGOSPlusPlus(classifier, size=5, steps=4, ig_steps=3, sigma=6.0, seed=3)
    labels = torch.tensor([[0], [3], [2]])
    expected = [literal(method, image, int(k)) for image, k in zip(images, labels, strict=True)]

    forward, backward = [], []

    def count(_, inputs, output):
        forward.append(len(inputs[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    hook = classifier.register_forward_hook(count)
    found = method.class_maps(images, labels)[:, 0]
    hook.remove()
    torch.testing.assert_close(found, torch.stack([m for m, _ in expected]), rtol=1e-3, atol=1e-4)
    assert found[[0, 2]].amax(dim=(1, 2)).min() > 0.05
    tried = [t for _, t in expected]
    assert len({tuple(t) for t in tried}) > 1
    assert sum(forward) == 4 * 3 * sum(4 + sum(t) for t in tried)
    assert sum(backward) == 4 * 3 * 4 * 3
    assert max(forward) <= 64

    small = IGOSPlusPlus(
        classifier, size=5, steps=4, ig_steps=3, sigma=6.0, seed=3, pairs=2, batch_size=1
    )
    torch.testing.assert_close(small.class_maps(images, labels)[:, 0], found, rtol=1e-3, atol=1e-4)


def test_the_settings_are_the_released_ones():
    method = IGOSPlusPlus(planted.explanandum())
    assert (method.size, method.steps, method.ig_steps) == (28, 15, 20)
    assert (method.lr, method.decay, method.noise) == (1000.0, 0.2, 0.2)
    assert (method.area, method.variation, method.edge) == (1.0, 20.0, 0.01)
    # There, lengths from 1000 on are tried up to the first one below 1e-5.
    lengths = [1000 * 0.2**tried for tried in range(1 + method.backtracks)]
    assert lengths[-1] < 1e-5 <= lengths[-2]
    box = torch.arange(51.0)
    assert box.std(correction=0).item() == pytest.approx(14.7, abs=0.05)
    assert method.sigma == pytest.approx(14.7, rel=0.03)


def test_it_finds_the_pixels_that_are_worth_their_price():
    """With probabilities that are linear, a pixel is removed if it adds more than it costs."""
    price = 1 / 36  # of one of 36 parameters
    worth = torch.zeros(6, 6)
    worth[1:3, 1:4] = 1.6  # in prices, on a path whose mean is s = 5/8: 1.6 * 5/8 * 3/2 > 1
    worth[4, 2:5] = 0.4
    worth[5] = -0.5
    weights = (price * worth / 3).expand(3, 6, 6)
    method = IGOSPlusPlus(
        linear(weights), size=6, steps=40, ig_steps=4, fill="black", variation=0.0, noise=0.0
    )
    found = method.class_maps(torch.ones(1, 3, 6, 6), torch.tensor([[0]]))[0, 0]
    assert found[worth > 1].min() > 0.95
    assert found[worth < 1].max() < 0.05


def test_a_step_that_does_not_help_is_not_taken():
    images, targets = planted.scenes(1)
    moved = []
    for backtracks in (0, 12):
        arguments = {"steps": 1, "ig_steps": 2, "variation": 1000.0, "backtracks": backtracks}
        found = IGOSPlusPlus(planted.explanandum(), **arguments).attribute(images, targets)
        moved.append(bool(found.any()))
    assert moved == [False, True]  # the whole step makes a rough mask


def test_noise_is_in_units_of_the_classifiers_std():
    seen = []

    class Spy(Linear):
        def forward(self, images):
            seen.append(images.detach())
            return super().forward(images)

    classifier = Explanandum(Spy(torch.zeros(3, 40, 40)), mean=[0.5] * 3, std=[0.1, 0.2, 0.3])
    seen.clear()  # of the trial pass
    images = torch.full((1, 3, 40, 40), 0.5)
    method = IGOSPlusPlus(classifier, fill="mean", steps=1, ig_steps=5, noise=0.3)
    method.class_maps(images, torch.tensor([[0]]))
    spread = seen[0].std(dim=(0, 2, 3))  # after normalisation, where nothing but noise is left
    torch.testing.assert_close(spread, torch.full((3,), 0.3), rtol=0.05, atol=0)


def test_sigmoid_heads_and_several_classes():
    images, _ = planted.scenes(1)
    classifier = planted.explanandum(multi_label=True)
    method = IGOSPlusPlus(classifier, ig_steps=5, steps=8, fill="black", area=0.1)
    found = method.attribute(images, torch.tensor([[True, True, False, False]]))[0]
    mass = (found * planted.quadrant_masks(32, 32)).sum(dim=(1, 2))
    assert mass[:2].min() > mass[2:].max()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ig_steps": 0}, "must be positive"),
        ({"edge": 0.0}, "must be positive"),
        ({"noise": -0.1}, "not be negative"),
        ({"decay": 1.0}, r"\(0, 1\)"),
        ({"fill": "images"}, "got .images"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        IGOSPlusPlus(planted.explanandum(), **wrong)
