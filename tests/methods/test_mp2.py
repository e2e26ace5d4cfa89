import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.functional import fills
from explainers.functional.planes import resize
from explainers.methods.mp2 import MP2
from explainers.metrics.similarity import changed
from tests import planted


class Linear(nn.Module):
    """Two classes; class 0's logit is a weighted sum of 3 x 3 pixels less a bias, the other's 0."""

    num_classes = 2

    def __init__(self, weights, bias=0.0):
        super().__init__()
        self.bias = bias
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, images):
        own = (images.mean(dim=1) * self.weights).sum(dim=(1, 2)) - self.bias
        return torch.stack([own, torch.zeros_like(own)], dim=1)


WEIGHTS = [[5.0, 1.0, 3.0], [9.0, -7.0, 8.0], [2.0, 6.0, 4.0]]


def linear(bias=0.0, scale=1.0, multi_label=False):
    weights = [[scale * w for w in row] for row in WEIGHTS]
    model = Linear(weights, scale * bias)
    return Explanandum(model, multi_label=multi_label, mean=[0.0] * 3, std=[1.0] * 3)


def explain(explanandum, levels=(1.0,), **settings):
    """Maps (n, 3, 3) of class 0 on uniform images, and how many rows each pass had."""
    forward, backward = [], []

    def hook(_, inputs, logits):
        forward.append(len(inputs[0]))
        logits.register_hook(lambda slope: backward.append(len(slope)))

    images = torch.stack([torch.full((3, 3, 3), level) for level in levels])
    arguments = {"size": 3, "interpolation": "nearest", "fill": "black"} | settings
    handle = explanandum.register_forward_hook(hook)
    maps = MP2(explanandum, **arguments).class_maps(images, torch.zeros(len(images), 1).long())
    handle.remove()
    assert forward == backward
    return maps[:, 0], forward


def at_steps(rows, steps):
    """The map of a table that says at which step each pixel went, None for never."""
    values = [[0.0 if t is None else 1 - t / (2 * steps) for t in row] for row in rows]
    return torch.tensor(values)


N = None


def test_it_stops_at_chance_and_ranks_by_order_of_removal():
    # The weights' sum is 31. Without 9 and 8 it is 14, without 6 and 5 it is 3 <= 10.
    (found,), passes = explain(linear(bias=10.0))
    torch.testing.assert_close(found, at_steps([[1, N, N], [0, N, 0], [N, 1, N]], 5))
    assert passes == [1, 1, 1]  # T + 1 for T = 2


def test_the_published_map_is_the_mask():
    (found,), _ = explain(linear(bias=10.0), ranked=False)
    assert found.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    (ranked,), _ = explain(linear(bias=10.0))
    assert torch.equal((ranked > 0.5).float(), found)


def test_pixels_a_step():
    (found,), passes = explain(linear(bias=10.0), pixels=1)
    torch.testing.assert_close(found, at_steps([[N, N, N], [0, N, 1], [N, 2, N]], 9))
    assert len(passes) == 4
    (found,), passes = explain(linear(bias=10.0), pixels=9)
    assert found.tolist() == [[1.0] * 3] * 3
    assert len(passes) == 1


def test_it_removes_everything_where_the_fill_stays_above_chance():
    # Without all but -7 the log-odds are -7 + 8, above those of 1/2. The last step has one pixel.
    (found,), passes = explain(linear(bias=-8.0))
    torch.testing.assert_close(found, at_steps([[1, 3, 2], [0, 4, 0], [3, 1, 2]], 5))
    assert len(passes) == 5  # S, and not one more


def test_chance_zero_ranks_everything():
    (found,), _ = explain(linear(bias=10.0), chance=0.0)
    assert found.min() == pytest.approx(0.6)
    torch.testing.assert_close(found, explain(linear(bias=-8.0))[0][0])


def test_nothing_is_removed_where_the_class_is_not_seen():
    (found,), passes = explain(linear(bias=32.0))
    assert found.tolist() == [[0.0] * 3] * 3
    assert passes == [1]


@pytest.mark.parametrize("multi_label", [False, True])
def test_default_chance(multi_label):
    wide = planted.explanandum(multi_label=multi_label)
    assert MP2(wide).chance == (0.5 if multi_label else 0.25)
    # Two classes, logits (own, 0): both heads stop at 1/2, where the kept weights are 10 or less.
    (found,), _ = explain(linear(bias=10.0, multi_label=multi_label))
    assert found.count_nonzero() == 4


@pytest.mark.parametrize(("odds", "removed"), [(10, 2), (8, 4), (-1, 4), (-3, 6)])
def test_chance_by_hand(odds, removed):
    # After 0, 2, 4 and 6 pixels the log-odds are 31, 14, 3 and -4, less the bias.
    (found,), _ = explain(linear(bias=5.0), chance=1 / (1 + math.exp(-odds)))
    assert found.count_nonzero() == removed


def test_equal_pixels_go_in_reading_order():
    explanandum = Explanandum(Linear([[1.0] * 3] * 3), mean=[0.0] * 3, std=[1.0] * 3)
    (found,), _ = explain(explanandum, chance=0.0)
    torch.testing.assert_close(found, at_steps([[0, 0, 1], [1, 2, 2], [3, 3, 4]], 5))


def test_saturated_classifiers_are_ranked_all_the_same():
    # p is 1 in single precision until the last step, and its gradient 0.
    explanandum = linear(bias=10.0, scale=30.0)
    assert explanandum.probabilities(torch.ones(1, 3, 3, 3))[0, 0] == 1
    (found,), _ = explain(explanandum)
    torch.testing.assert_close(found, explain(linear(bias=10.0))[0][0])


def test_norm_also_removes_what_speaks_against_the_class():
    (found,), _ = explain(linear(bias=10.0), gradient="norm")
    # 9, 8 | -7, 6: sums 14, 15 | 5, 4: sum 6.
    torch.testing.assert_close(found, at_steps([[2, N, N], [0, 1, 0], [N, 1, 2]], 5))


def test_finished_pairs_drop_out_and_change_nothing():
    levels = (0.5, 0.2, 0.1, 1.0)  # log-odds 62 level - 10 and so on
    together, passes = explain(linear(bias=5.0, scale=2.0), levels)
    alone = [explain(linear(bias=5.0, scale=2.0), (level,)) for level in levels]
    torch.testing.assert_close(together, torch.cat([maps for maps, _ in alone]))
    lengths = [len(each) for _, each in alone]
    assert lengths == [3, 2, 1, 3]
    assert passes == [4, 3, 2]
    split, passes = explain(linear(bias=5.0, scale=2.0), levels, pairs=3)
    torch.testing.assert_close(split, together)
    assert passes == [3, 2, 1, 1, 1, 1]


class Smooth(nn.Module):
    """Three classes by a small convolutional network with nothing planted, in double precision."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.kernel = nn.Parameter(torch.randn(6, 3, 3, 3, generator=generator).double())
        self.head = nn.Parameter(torch.randn(3, 6, generator=generator).double())

    def forward(self, images):
        return F.conv2d(images, self.kernel).tanh().mean(dim=(2, 3)) @ self.head.mT * 5


def greedy(explanandum, image, target, gradient, chance, interpolation):
    """The method in small: p's slopes by finite differences, one cell at a time; (step, cell)s."""
    blurred = fills.fill("blur", image[None], explanandum.mean, sigma=1.5)[0]

    def p(mask):
        corners = None if interpolation == "nearest" else False
        size = tuple(image.shape[1:])
        large = F.interpolate(mask[None, None], size, mode=interpolation, align_corners=corners)
        seen = image * (1 - large[0, 0]) + blurred * large[0, 0]
        with torch.no_grad():
            return float(explanandum.probabilities(seen[None])[0, target])

    mask, removed, step = torch.zeros(4, 4).double(), [], 0
    while p(mask) > chance and len(removed) < 16:
        slopes = {}
        for cell in range(16):
            if cell not in [c for _, c in removed]:
                nudge = torch.zeros(16).double()
                nudge[cell] = 1e-5
                up, down = p(mask + nudge.view(4, 4)), p(mask - nudge.view(4, 4))
                slopes[cell] = (up - down) / 2e-5
        if gradient == "norm":
            slopes = {cell: -abs(slope) for cell, slope in slopes.items()}
        for cell in sorted(slopes, key=slopes.get)[:2]:
            removed.append((step, cell))
            mask.view(-1)[cell] = 1
        step += 1
    return removed


@pytest.mark.parametrize("gradient", ["descent", "norm"])
@pytest.mark.parametrize("chance", [0.0, 0.2])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_it_equals_the_method_written_out(gradient, chance, interpolation):
    explanandum = Explanandum(Smooth(), mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])
    images = torch.rand(3, 3, 9, 8, generator=torch.Generator().manual_seed(1)).double()
    classes = explanandum.predict(images).int().argmax(dim=1)
    settings = {"size": 4, "sigma": 1.5, "interpolation": interpolation}
    method = MP2(explanandum, gradient=gradient, chance=chance, **settings)
    found = method.class_maps(images, classes[:, None])[:, 0]
    lengths = set()
    for image, target, result in zip(images, classes, found, strict=True):
        removed = greedy(explanandum, image, int(target), gradient, chance, interpolation)
        expected = torch.zeros(16).double()
        for step, cell in removed:
            expected[cell] = 1 - step / 16
        expected = resize(expected.view(1, 4, 4), (9, 8), interpolation)[0]
        torch.testing.assert_close(result, expected.float())
        lengths.add(len(removed))
    assert (min(lengths) == 16) == (chance == 0)


def test_it_removes_the_quadrant_that_decides_and_no_more():
    quadrants = planted.quadrant_masks(16, 16)
    images = 0.5 * quadrants[:, None].expand(-1, 3, -1, -1)
    method = MP2(planted.explanandum("vit"), size=8, interpolation="nearest", fill="black")
    found = method.attribute(images, torch.eye(4).bool())
    assert torch.equal((found > 0).float(), quadrants)
    method = MP2(
        planted.explanandum("vit"), size=8, chance=0.9, interpolation="nearest", fill="black"
    )
    fewer = method.attribute(images, torch.eye(4).bool())
    assert ((fewer > 0) <= quadrants.bool()).all()
    assert 0 < (fewer > 0).sum() < quadrants.sum()


def test_the_published_values():
    method = MP2(planted.explanandum())
    assert (method.size, method.pixels, method.fill, method.sigma) == (28, 2, "blur", 10.0)
    assert method.steps == 392  # 28 x 28 pixels, two at a time
    assert [round(1 / classes, 3) for classes in (1000, 365)] == [0.001, 0.003]  # `chance`


def test_its_size_is_read_at_each_call():
    images, targets = planted.scenes(1)
    method = MP2(planted.explanandum(), size=4, interpolation="nearest")
    with changed(method, {"size": 8}):
        found = method.attribute(images, targets)
    expected = MP2(planted.explanandum(), size=8, interpolation="nearest")
    assert torch.equal(found, expected.attribute(images, targets))
    assert not torch.equal(found, method.attribute(images, targets))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"pixels": 0}, "pixels=0"),
        ({"pairs": 0}, "pairs=0"),
        ({"chance": 1.0}, "chance=1.0"),
        ({"chance": -0.1}, "chance=-0.1"),
        ({"sigma": 0.0}, "sigma=0"),
        ({"gradient": "ascent"}, "ascent"),
        ({"interpolation": "bicubic"}, "bicubic"),
        ({"fill": "images"}, "got .images"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MP2(planted.explanandum(), **wrong)
