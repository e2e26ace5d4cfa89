import math
from collections import deque

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.functional import fills, masking
from explainers.methods.extremal import ExtremalPerturbation, area_gap, show, smallest, smooth_masks
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve
from tests import planted

SIZE = 28
FAST = {"fill": "black", "lr": 0.05, "steps": 250, "area_growth": 1.02, "smoothness": 24.0}


class Regions(nn.Module):
    """Logit k is `scale` times the mean brightness of region k."""

    def __init__(self, regions, scale=100.0):
        super().__init__()
        self.regions, self.scale, self.num_classes = regions, scale, len(regions)

    def forward(self, images):
        return self.scale * (images.mean(dim=1)[:, None] * self.regions).mean(dim=(2, 3))


def box(top, bottom, left, right, size=SIZE):
    region = torch.zeros(size, size)
    region[top:bottom, left:right] = 1
    return region


def explanandum(*regions, multi_label=False, **arguments):
    model = Regions(torch.stack(regions), **arguments)
    return Explanandum(model, mean=[0.0] * 3, std=[1.0] * 3, multi_label=multi_label)


def explain(*regions, **arguments):
    """A quick method and a case for it: a white image and class 0."""
    method = ExtremalPerturbation(explanandum(*regions), **(FAST | arguments))
    return method, (torch.ones(1, 3, SIZE, SIZE), torch.zeros(1, 1, dtype=torch.long))


def brute_force(parameters, size, spacing, sigma):
    """The smooth maximum of one grid, pixel by pixel and parameter by parameter."""
    rows, columns = parameters.shape
    reach = 1 + math.ceil(sigma / spacing)
    values = []
    for y in range(size[0]):
        for x in range(size[1]):
            above, below = 0, 0
            for i in range(y // spacing - reach, y // spacing + reach + 1):
                for j in range(x // spacing - reach, x // spacing + reach + 1):
                    down = y - (i * spacing + (spacing - 1) / 2)
                    across = x - (j * spacing + (spacing - 1) / 2)
                    k = math.exp(-2 * max(math.hypot(down, across) / sigma - 0.5, 0) ** 2)
                    f = k * parameters[min(max(i, 0), rows - 1), min(max(j, 0), columns - 1)]
                    above, below = above + f * (20 * f).exp(), below + (20 * f).exp()
            values.append(above / below)
    return torch.stack(values).view(size)


@pytest.mark.parametrize(("spacing", "sigma"), [(2, 3.0), (1, 2.0), (3, 2.5)])
def test_masks_and_their_gradients_are_the_formula(spacing, sigma):
    size = (5, 4)
    generator = torch.Generator().manual_seed(0)
    grid = (-(-size[0] // spacing), -(-size[1] // spacing))
    parameters = torch.rand(2, 1, *grid, generator=generator).double().requires_grad_()
    found = smooth_masks(parameters, size, spacing, sigma)[:, 0]
    expected = torch.stack([brute_force(p[0], size, spacing, sigma) for p in parameters])
    torch.testing.assert_close(found, expected)
    weights = torch.rand(expected.shape, generator=generator)
    pulls = [torch.autograd.grad((weights * x).sum(), parameters)[0] for x in (found, expected)]
    torch.testing.assert_close(*pulls)


def test_a_constant_grid_favours_no_place():
    masks = smooth_masks(torch.ones(1, 1, 5, 4), (10, 8), 2, 6.0)[0, 0]
    torch.testing.assert_close(masks[::2, ::2], masks[0, 0].expand(5, 4), rtol=0, atol=1e-6)


def test_masks_do_not_depend_on_how_the_work_is_parted():
    parameters = torch.rand(1, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    together = smooth_masks(parameters, (224, 224), 7, 21.0)
    assert together.numel() * 81 > 100 * 2**17
    alone = smooth_masks(parameters[:, 3:4, 20:, 20:], (84, 84), 7, 21.0)
    inner = slice(35, 84)  # five cells from the edge of the part
    torch.testing.assert_close(alone[:, 0, inner, inner], together[:, 3, 175:, 175:])


def test_area_gap_is_that_of_the_sorted_mask_with_its_gradient():
    masks = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    areas = [0.05, 0.33, 0.9]
    found = area_gap(masks, areas)
    for row in range(2):
        for column, ones in enumerate((1, 7, 18)):  # of 20, rounded
            step = torch.cat([torch.zeros(20 - ones), torch.ones(ones)])
            ranked = masks[row, column].flatten().sort().values
            expected = (ranked - step).square().mean()
            torch.testing.assert_close(found[row, column], expected)
            pulls = [
                torch.autograd.grad(x, masks, retain_graph=True)[0]
                for x in (found[row, column], expected)
            ]
            torch.testing.assert_close(*pulls)


def test_area_gap_favours_none_of_equal_pixels():
    masks = torch.tensor([[0.9, 0.5, 0.5], [0.5, 0.5, 0.2]]).view(1, 1, 2, 3).requires_grad_()
    found = area_gap(masks, [0.5])  # three ones: 0.9 and two of the four halves
    expected = (0.1**2 + 4 * 0.5**2 + 0.2**2) / 6
    torch.testing.assert_close(found, torch.tensor([[expected]]))
    found.sum().backward()
    expected = torch.tensor([[-0.2, 0.0, 0.0], [0.0, 0.0, 0.4]]) / 6
    torch.testing.assert_close(masks.grad[0, 0], expected)


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
    mean = torch.full((1, 3, 1, 1), 0.4)
    classifier = Explanandum(Regions(torch.ones(1, 32, 32)), mean=[0.4] * 3, std=[1.0] * 3)
    levels = ExtremalPerturbation(classifier, sigma=3.5)._levels(images)
    assert levels.shape == (2, 8, 3, 32, 32)
    assert torch.equal(levels[:, 7], images)
    for level, sigma in ((0, 3.5), (3, 2.0), (6, 0.5)):
        expected = fills.fill("blur", images, mean, sigma=sigma)
        torch.testing.assert_close(levels[:, level], expected)


def test_masks_find_what_decides_and_have_their_areas():
    areas = [0.5, 0.1, 0.25]
    region = box(4, 18, 8, 22)  # 14 x 14 of 28 x 28: a quarter
    method, case = explain(region, box(0, 4, 0, SIZE), areas=areas)
    masks = method.masks(*case)[0, 0]
    assert masks.shape == (3, SIZE, SIZE)
    assert 0 <= masks.min() < 0.01
    assert 0.95 < masks.max() <= 1
    binary = masks > 0.5
    for mask, area in zip(binary, sorted(areas), strict=True):
        assert mask.float().mean() == pytest.approx(area, rel=0.1)
    inside = region.bool()
    assert (binary[0] & ~inside).sum() == 0  # a tenth lies within the quarter
    assert (binary[1] & inside).sum() > 0.85 * (
        binary[1] | inside
    ).sum()  # the kernel rounds corners
    assert (binary[2] & inside).sum() > 0.98 * inside.sum()


def test_contrastive_avoids_what_another_class_needs_and_simple_does_not():
    left, top = box(0, SIZE, 0, 14), box(0, 14, 0, SIZE)
    bottom_left = (left * (1 - top)).bool()
    shares = {}
    for reward in ("simple", "contrastive", None):
        method, case = explain(left, top, areas=0.2, reward=reward)
        mask = method.class_maps(*case)[0, 0]
        shares[reward] = float(mask[bottom_left].sum() / mask.sum())
    assert shares["contrastive"] > 0.95
    assert shares["simple"] < 0.7
    assert shares[None] == shares["contrastive"]
    several = ExtremalPerturbation(explanandum(left, top, multi_label=True))
    assert several.reward == "simple"


def literal(classifier, image, label, area, steps, areas_weight, growth, lr):
    """EP of one image, class and area with black fill and a kernel of 3 pixels, written out."""
    total = image[0].numel()
    ones = round(area * total)
    parameters = torch.ones(1, 1, *image.shape[-2:], requires_grad=True)
    speed = None
    for step in range(steps):
        mask = smooth_masks(parameters, image.shape[-2:], 1, 3.0)[0, 0]
        values = mask.detach().flatten()
        wanted = torch.empty(total)  # equal pixels share the ranks they take
        for p in range(total):
            higher = int((values > values[p] + 1e-5).sum())
            equal = int(((values - values[p]).abs() <= 1e-5).sum())
            wanted[p] = min(max((ones - higher) / equal, 0), 1)
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


def test_every_other_image_is_mirrored_from_the_first_on():
    classifier = planted.explanandum()
    seen = []
    hook = classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    images, targets = planted.scenes(1)
    for jitter in (False, True):
        ExtremalPerturbation(classifier, areas=0.2, steps=2, jitter=jitter).attribute(
            images, targets
        )
    hook.remove()
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
    images[1] -= 2 * band
    case = images, torch.zeros(2, 1, dtype=torch.long)
    classifier = explanandum(region + band, 1 - region - band)
    areas = [0.05, 0.45, 0.8]

    def method(choose):
        return ExtremalPerturbation(classifier, areas, choose, **(FAST | {"steps": 80}))

    masks = method("sum").masks(*case)[:, 0]
    torch.testing.assert_close(method("sum").class_maps(*case)[:, 0], masks.sum(dim=1))

    shown = (images[:, None] * masks[:, :, None]).flatten(0, 1)
    reached = classifier(shown)[:, 0].view(2, 3) >= classifier(images)[:, :1]
    assert reached.tolist() == [[False] * 3, [False, True, True]]
    highest = int(classifier(shown[:3])[:, 0].argmax())
    assert highest == 2
    found = method("smallest").class_maps(*case)[:, 0]
    torch.testing.assert_close(found, torch.stack([masks[0, 2], masks[1, 1]]))

    black, gains = torch.zeros(1, 3, 1, 1), []
    for mask in masks.unbind(1):
        pair = [Curve(order, fill=black, steps=10) for order in ("least", "most")]
        targets = torch.tensor([[True, False]] * 2)
        kept, removed = curves.run(classifier, images, mask, targets, pair)
        gains.append(curves.auc(kept.probability) - curves.auc(removed.probability))
    best = torch.stack(gains, dim=1).argmax(dim=1)
    assert len(set(best.tolist())) == 2
    found = method("insertion_deletion").class_maps(*case)[:, 0]
    torch.testing.assert_close(found, masks[torch.arange(2), best])


def test_one_mask_is_a_mask_and_several_are_a_ranking():
    classifier = planted.explanandum()
    assert not ExtremalPerturbation(classifier).is_mask
    assert ExtremalPerturbation(classifier, choose="smallest").is_mask
    assert ExtremalPerturbation(classifier, areas=0.1).is_mask


@pytest.mark.parametrize(
    ("choose", "more"), [("sum", 0), ("smallest", 4), ("insertion_deletion", 60)]
)
def test_passes_are_those_of_the_formula(choose, more):
    classifier = planted.explanandum()
    forward, backward = [], []

    def count(_, inputs, output):
        forward.append(len(inputs[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    hook = classifier.register_forward_hook(count)
    images, _ = planted.scenes(2)
    method = ExtremalPerturbation(classifier, [0.1, 0.2, 0.4], choose, steps=5, pairs=2)
    method.class_maps(images, torch.tensor([[0, 1], [2, 3]]))
    hook.remove()
    pairs = 4
    assert sum(forward) == pairs * (5 * 3 + more)
    assert sum(backward) == pairs * 5 * 3
    assert forward[0] == 2 * 3  # all areas of the pairs side by side


@pytest.mark.parametrize("fill", ["mean", "black", "kernel_blur", "blur", "noise"])
def test_what_a_mask_hides_shows_the_fill(fill):
    classifier = Explanandum(Regions(torch.ones(1, 12, 12)), mean=[0.4] * 3, std=[0.2] * 3)
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    method = ExtremalPerturbation(classifier, fill=fill, sigma=2.0, seed=7)
    generator = torch.Generator().manual_seed(7)
    mean, std = classifier.mean, classifier.std
    expected = fills.fill(fill, images, mean, std, generator, 2.0).expand_as(images)
    torch.testing.assert_close(method._levels(images)[:, 0], expected)
    assert torch.equal(method._levels(images)[:, 1], images)


def test_a_single_area_costs_the_same_however_it_is_given_and_chosen():
    images, targets = planted.scenes(1)
    for areas in (0.2, [0.2], (0.2,)):
        for choose in ("sum", "smallest", "insertion_deletion"):
            classifier, passes = planted.explanandum(), []
            classifier.register_forward_hook(lambda *a, seen=passes: seen.append(len(a[1][0])))
            method = ExtremalPerturbation(classifier, areas, choose, steps=3)
            method.attribute(images, targets)
            assert (method.areas, passes) == ([0.2], [1, 1, 1])


def test_areas_are_any_sequence_in_rising_order():
    classifier = planted.explanandum()
    for areas in ([0.5, 0.1], (0.5, 0.1), deque([0.5, 0.1])):
        assert ExtremalPerturbation(classifier, areas).areas == [0.1, 0.5]


def test_sigmoid_heads_and_several_classes():
    classifier = planted.explanandum(multi_label=True)
    images, _ = planted.scenes(1)
    targets = torch.tensor([[True, True, False, False]])
    found = ExtremalPerturbation(classifier, steps=40).attribute(images, targets)[0]
    mass = (found * planted.quadrant_masks(32, 32)).sum(dim=(1, 2))
    assert mass[:2].min() > mass[2:].max()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"areas": []}, "at least one"),
        ({"areas": [0.5, 1.0]}, r"\(0, 1\)"),
        ({"areas": 0.0}, r"\(0, 1\)"),
        ({"areas": ()}, "at least one"),
        ({"areas": (0.5, None)}, r"\(0, 1\), .* got \(0.5, None\)"),
        ({"areas": "0.5"}, "got '0.5'"),
        ({"areas": {"small": 0.1}}, "got {'small': 0.1}"),
        ({"areas": [0.1, math.nan, 0.2]}, "nan"),
        ({"choose": "largest"}, "largest"),
        ({"reward": "log"}, "log"),
        ({"fill": "images"}, "images"),
        ({"steps": 0}, "positive"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ExtremalPerturbation(planted.explanandum(), **wrong)
