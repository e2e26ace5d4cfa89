import math
import re
from collections import deque

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from explainers import Explanandum
from explainers.functional import fills, masking
from explainers.functional.smooth_masks import smooth_masks, torchray_masks
from explainers.methods.extremal import ExtremalPerturbation, show, smallest
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve
from tests import planted

SIZE = 28
# SGD with momentum and dampening 0.9 is stable while the curvature of the loss is below
# 2 (1 + 0.9) / (0.1 lr) = 760. The last weight of the penalty, 300 * 1.015^250, makes it about 500.
# With a growth of 1.02 it is 1700, and the masks of different processors drift apart.
FAST = {"fill": "black", "lr": 0.05, "steps": 250, "area_growth": 1.015, "smoothness": 24.0}


class Regions(nn.Module):
    """Logit k is 100 times the mean brightness of region k."""

    def __init__(self, regions):
        super().__init__()
        self.regions, self.num_classes = regions, len(regions)

    def forward(self, images):
        return 100 * (images.mean(dim=1)[:, None] * self.regions).mean(dim=(2, 3))


def box(top, bottom, left, right):
    region = torch.zeros(SIZE, SIZE)
    region[top:bottom, left:right] = 1
    return region


def explanandum(*regions, mean=0.0, std=1.0, multi_label=False):
    model = Regions(torch.stack(regions))
    return Explanandum(model, mean=[mean] * 3, std=[std] * 3, multi_label=multi_label)


def explain(*regions, **arguments):
    """A quick method and a case for it: a white image and class 0."""
    method = ExtremalPerturbation(explanandum(*regions), **(FAST | arguments))
    return method, (torch.ones(1, 3, SIZE, SIZE), torch.zeros(1, 1, dtype=torch.long))


def test_show_blends_the_two_nearest_levels():
    brightness = torch.tensor([0.0, 1.0, 10.0, 100.0])
    levels = brightness.view(1, 4, 1, 1, 1).expand(1, 4, 3, 1, 5)
    masks = torch.tensor([0.0, 0.5, 0.4, 5 / 6, 1.0]).view(1, 1, 1, 5).requires_grad_()
    found = show(levels, masks)[0, 0]
    expected = torch.tensor([0.0, 5.5, 2.8, 55.0, 100.0])
    torch.testing.assert_close(found, expected.expand(3, 1, 5))
    found.sum().backward()
    expected = 3 * 3 * torch.tensor([1.0, 9.0, 9.0, 90.0, 90.0])  # channels, levels, slope
    torch.testing.assert_close(masks.grad.flatten(), expected)


def test_of_two_levels_show_is_a_blend():
    generator = torch.Generator().manual_seed(0)
    images, fill = torch.rand(2, 2, 3, 4, 5, generator=generator)
    masks = torch.rand(2, 3, 4, 5, generator=generator)
    found = show(torch.stack([fill, images], dim=1), masks)
    for area in range(3):
        torch.testing.assert_close(found[:, area], masking.blend(images, masks[:, area], fill))


def test_the_pyramid_ends_with_the_image():
    images, _ = planted.scenes(2)
    method = ExtremalPerturbation(explanandum(torch.ones(32, 32), mean=0.4), sigma=3.5)
    levels = method._levels(images)
    assert levels.shape == (2, 8, 3, 32, 32)
    assert torch.equal(levels[:, 7], images)
    for level, sigma in ((0, 3.5), (3, 2.0), (6, 0.5)):
        expected = fills.fill("blur", images, torch.full((1, 3, 1, 1), 0.4), sigma=sigma)
        torch.testing.assert_close(levels[:, level], expected)


def test_masks_find_what_decides_and_have_their_areas():
    """The class needs a pixel the less the further it is from a point: discs around it are best.

    The scene has no symmetry, and one best mask of each area. Otherwise rounding would choose.
    """
    areas = [0.5, 0.1, 0.25]
    line = torch.arange(SIZE)
    distance = torch.hypot(line[:, None] - 12.7, line - 14.4)
    method, case = explain(1 - distance / SIZE, torch.zeros(SIZE, SIZE), areas=areas)
    masks = method.masks(*case)[0, 0]
    assert 0 <= masks.min() < 0.01 < 0.95 < masks.max() <= 1
    for mask, area in zip(masks > 0.5, sorted(areas), strict=True):
        radius = SIZE * math.sqrt(area / math.pi)
        # The penalty is least if the mask crosses 1/2 at the edge of the area. Masks are made of
        # whole pixels, so the edge may be half a pixel off, all around the disc.
        assert abs(mask.sum() - area * SIZE**2) < 0.5 * 2 * math.pi * radius
        # The kernel, 3 pixels wide, blurs the edge by half of its width to either side.
        assert mask[distance < radius - 1.5].all()
        assert not mask[distance > radius + 1.5].any()


def test_contrastive_avoids_what_another_class_needs_and_simple_does_not():
    left, top = box(0, SIZE, 0, 14), box(0, 14, 0, SIZE)
    bottom_left = (left * (1 - top)).bool()
    shares = {}
    for reward in ("simple", "contrastive"):
        method, case = explain(left, top, areas=0.2, reward=reward)
        mask = method.class_maps(*case)[0, 0]
        shares[reward] = float(mask[bottom_left].sum() / mask.sum())
    assert shares["contrastive"] > 0.95
    assert shares["simple"] < 0.7
    assert ExtremalPerturbation(explanandum(left, top)).reward == "contrastive"
    assert ExtremalPerturbation(explanandum(left, multi_label=True)).reward == "simple"


def literal(classifier, image, label, area, steps, areas_weight, growth, lr):
    """EP of one image, class and area with black fill and a kernel of 3 pixels, written out."""
    ones = round(area * image[0].numel())
    parameters = torch.ones(1, 1, *image.shape[-2:], requires_grad=True)
    speed = None
    for step in range(steps):
        mask = smooth_masks(parameters, image.shape[-2:], 1, 3.0)[0, 0]
        values = mask.detach().flatten()
        higher = (values > values[:, None] + 1e-5).sum(dim=1)
        equal = ((values - values[:, None]).abs() <= 1e-5).sum(dim=1)
        wanted = ((ones - higher) / equal).clamp(0, 1)  # equal pixels share the ranks they take
        penalty = (mask.square() - 2 * mask * wanted.view_as(mask)).mean()
        logits = classifier((image * mask)[None])[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        loss = areas_weight * growth**step * penalty - (logits[label] - others.max())
        (slope,) = torch.autograd.grad(loss, parameters)
        speed = slope if speed is None else 0.9 * speed + 0.1 * slope
        parameters = (parameters.detach() - lr * speed).clamp(0, 1).requires_grad_()
    return smooth_masks(parameters, image.shape[-2:], 1, 3.0)[0, 0].detach()


def test_it_is_the_published_optimisation():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 8, 9, generator=generator)
    classifier = explanandum(*torch.rand(3, 8, 9, generator=generator))
    settings = {"lr": 0.05, "area_weight": 30.0, "area_growth": 1.1}
    arguments = settings | {"fill": "black", "smoothness": 84.0, "steps": 12}  # 3 of 8 pixels
    method = ExtremalPerturbation(classifier, areas=[0.3, 0.1], pairs=3, **arguments)
    classes = torch.tensor([[0, 2], [1, 1]])
    found = method.masks(images, classes)
    for row, column, area in ((0, 0, 0), (0, 1, 1), (1, 1, 0)):
        case = (images[row], int(classes[row, column]), (0.1, 0.3)[area], 12, 30.0, 1.1, 0.05)
        expected = literal(classifier, *case)
        torch.testing.assert_close(found[row, column, area], expected, rtol=1e-3, atol=1e-4)
    assert found[0, 0, 0].std() > 0.05
    alone = ExtremalPerturbation(classifier, areas=[0.3, 0.1], pairs=1, **arguments)
    torch.testing.assert_close(alone.masks(images, classes), found)


def literal_torchray(classifier, image, label, area, iterations):
    """TorchRay's loop for one image, class and area, with black fill and a kernel of 3 pixels.

    Its pixels count with their border, equal ones are sorted, and the mask is that of the last
    iteration, before its update.
    """
    (height, width), parameters = image.shape[-2:], torch.ones(1, 1, *image.shape[-2:])
    parameters.requires_grad_()
    optimizer = torch.optim.SGD([parameters], lr=0.05, momentum=0.9, dampening=0.9)
    for iteration in range(iterations):
        whole = torchray_masks(parameters, 1, 3.0)[0, 0]
        mask = whole[3 : 3 + height, 3 : 3 + width]
        wanted = torch.ones(whole.numel())
        wanted[: int(whole.numel() * (1 - area))] = 0
        penalty = (whole.flatten().sort(stable=True).values - wanted).square().mean()
        logits = classifier((image * mask)[None])[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        optimizer.zero_grad()
        (30 * 1.1**iteration * penalty - (logits[label] - others.max())).backward()
        optimizer.step()
        with torch.no_grad():
            parameters.clamp_(0, 1)
    return mask.detach().clamp(max=1)


def test_with_its_grid_and_one_step_less_it_is_torchray():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 8, 9, generator=generator)
    classifier = explanandum(*torch.rand(3, 8, 9, generator=generator))
    settings = {"lr": 0.05, "area_weight": 30.0, "area_growth": 1.1, "smoothness": 84.0}
    geometry = {"grid": "torchray"}
    for area in (0.1, 0.3):  # one by one: side by side, rounding may sort equal pixels otherwise
        method = ExtremalPerturbation(
            classifier, area, steps=11, fill="black", geometry=geometry, **settings
        )
        mask = method.attribute(images, torch.tensor([[False, True, False]]))[0]
        expected = literal_torchray(classifier, images[0], 1, area, 12)
        torch.testing.assert_close(mask, expected, rtol=1e-3, atol=1e-4)
        assert mask.std() > 0.05


def test_blur_smooths_the_finished_masks_with_zeros_beyond_the_image():
    method, case = explain(box(4, 18, 8, 22), box(18, 28, 0, 8), areas=[0.1, 0.3], steps=60)
    plain = method.masks(*case)[0, 0]
    method.geometry["blur"] = 2 / SIZE
    for mask, smooth in zip(plain, method.masks(*case)[0, 0], strict=True):
        expected = gaussian_filter(mask.numpy(), sigma=2, mode="constant", truncate=4)
        torch.testing.assert_close(smooth, torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_every_other_image_is_mirrored_from_the_first_on():
    classifier = planted.explanandum()
    seen = []
    classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    images, targets = planted.scenes(1)
    for jitter in (False, True):
        method = ExtremalPerturbation(classifier, areas=0.2, steps=2, jitter=jitter)
        method.attribute(images, targets)
    assert len(seen) == 4
    assert not torch.equal(seen[0], seen[0].flip(-1))
    assert torch.equal(seen[2], seen[0].flip(-1))
    assert (seen[3] - seen[1]).abs().max() < 0.1
    assert (seen[3] - seen[1].flip(-1)).abs().max() > 0.3


def test_smallest_is_the_first_that_reaches_or_else_the_highest():
    logits = torch.tensor([[1.0, 5.0, 4.0], [6.0, 7.0, 8.0], [2.0, 3.0, 1.0]])
    assert smallest(logits, torch.tensor([4.0, 6.0, 9.0])).tolist() == [1, 0, 1]


def test_the_map_is_chosen_by_the_rule():
    """The second image has a band that speaks against the class: hiding it helps."""
    region, band = box(4, 18, 8, 22), box(0, 4, 0, SIZE)
    images = torch.ones(2, 3, SIZE, SIZE)
    images[0] -= band
    case = images, torch.zeros(2, 1, dtype=torch.long)
    classifier = explanandum(region - band, 1 - region - band)

    def method(choose):
        return ExtremalPerturbation(classifier, [0.05, 0.45, 0.8], choose, **(FAST | {"steps": 80}))

    masks = method("sum").masks(*case)[:, 0]

    def chosen(rule):
        made = method(rule)
        made._optimise = lambda *_: masks
        return made.class_maps(*case)[:, 0]

    torch.testing.assert_close(chosen("sum"), masks.sum(dim=1))

    shown = (images[:, None] * masks[:, :, None]).flatten(0, 1)
    reached = classifier(shown)[:, 0].view(2, 3) >= classifier(images)[:, :1]
    assert reached.tolist() == [[False] * 3, [False, True, True]]
    assert int(classifier(shown[:3])[:, 0].argmax()) == 2
    found = chosen("smallest")
    torch.testing.assert_close(found, torch.stack([masks[0, 2], masks[1, 1]]))

    black, gains = torch.zeros(1, 3, 1, 1), []
    for mask in masks.unbind(1):
        pair = [Curve(order, fill=black, steps=10) for order in ("least", "most")]
        targets = torch.tensor([[True, False]] * 2)
        kept, removed = curves.run(classifier, images, mask, targets, pair)
        gains.append(curves.auc(kept.probability) - curves.auc(removed.probability))
    best = torch.stack(gains, dim=1).argmax(dim=1)
    assert len(set(best.tolist())) == 2
    found = chosen("insertion_deletion")
    torch.testing.assert_close(found, masks[torch.arange(2), best])


def test_areas_are_a_number_or_any_sequence_and_several_give_a_ranking():
    classifier = planted.explanandum()
    for areas in (0.2, [0.2], (0.2,)):
        method = ExtremalPerturbation(classifier, areas)
        assert (method.areas, method.is_mask) == ([0.2], True)
    for areas in ([0.5, 0.1], (0.5, 0.1), deque([0.5, 0.1])):
        method = ExtremalPerturbation(classifier, areas)
        assert (method.areas, method.is_mask) == ([0.1, 0.5], False)
    assert not ExtremalPerturbation(classifier).is_mask
    assert ExtremalPerturbation(classifier, choose="smallest").is_mask


@pytest.mark.parametrize("areas", [0.3, [0.1, 0.2, 0.4]])
@pytest.mark.parametrize(
    ("choose", "more"), [("sum", 0), ("smallest", 4), ("insertion_deletion", 60)]
)
def test_passes_are_those_of_the_formula(areas, choose, more):
    classifier = planted.explanandum()
    forward, backward = [], []

    def count(_, inputs, output):
        forward.append(len(inputs[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    classifier.register_forward_hook(count)
    images, _ = planted.scenes(2)
    method = ExtremalPerturbation(classifier, areas, choose, steps=5, pairs=2)
    method.class_maps(images, torch.tensor([[0, 1], [2, 3]]))
    pairs, masks = 4, len(method.areas)
    assert sum(forward) == pairs * (5 * masks + (more if masks > 1 else 0))
    assert sum(backward) == pairs * 5 * masks
    assert forward[0] == 2 * masks  # all areas of the pairs side by side


@pytest.mark.parametrize("fill", ["mean", "black", "kernel_blur", "blur", "noise"])
def test_what_a_mask_hides_shows_the_fill(fill):
    classifier = explanandum(torch.ones(12, 12), mean=0.4, std=0.2)
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    method = ExtremalPerturbation(classifier, fill=fill, sigma=2.0, seed=7)
    generator = torch.Generator().manual_seed(7)
    expected = fills.fill(fill, images, classifier.mean, classifier.std, generator, 2.0)
    torch.testing.assert_close(method._levels(images)[:, 0], expected.expand_as(images))
    assert torch.equal(method._levels(images)[:, 1], images)


def test_sigmoid_heads_and_several_classes():
    classifier = planted.explanandum(multi_label=True)
    images, _ = planted.scenes(1)
    targets = torch.tensor([[True, True, False, False]])
    found = ExtremalPerturbation(classifier, [0.1, 0.3], steps=40).attribute(images, targets)[0]
    mass = (found * planted.quadrant_masks(32, 32)).sum(dim=(1, 2))
    assert mass[:2].min() > mass[2:].max()


@pytest.mark.parametrize(
    "areas", [[], [0.5, 1.0], 0.0, (), (0.5, None), "0.5", {"small": 0.1}, [0.1, math.nan, 0.2]]
)
def test_wrong_areas_are_refused(areas):
    message = f"areas must be fractions in (0, 1), at least one, got {areas!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        ExtremalPerturbation(planted.explanandum(), areas)


@pytest.mark.parametrize(
    "wrong",
    [
        {"choose": "largest"},
        {"reward": "log"},
        {"fill": "images"},
        {"steps": 0},
        {"geometry": {"grid": "corner"}},
        {"geometry": {"blur": -1.0}},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    ((name, value),) = wrong.get("geometry", wrong).items()
    with pytest.raises(ValueError, match=rf"{name}.* must (not )?be .*{value}"):
        ExtremalPerturbation(planted.explanandum(), **wrong)
