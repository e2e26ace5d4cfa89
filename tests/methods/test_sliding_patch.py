import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.methods.sliding_patch import SlidingPatch
from tests import planted


class Pixel(nn.Module):
    """The probability of class 0 is the brightness of the pixel (9, 5)."""

    num_classes = 2

    def forward(self, images):
        p = images[:, 0, 9, 5].clamp(1e-6, 1 - 1e-6)
        return torch.stack([p.log(), (1 - p).log()], dim=1)


def explain(model, **arguments):
    return SlidingPatch(Explanandum(model, mean=[0.0] * 3, std=[1.0] * 3), **arguments)


def soft(size):
    """A planted classifier and images it is not sure of, so that every patch matters a little."""
    images, targets = planted.scenes(2, size)
    return planted.explanandum(), images * 0.15, targets


# At 28 px the scale is 1/8: patches of 40 / 8 = 5 pixels.
@pytest.mark.parametrize(("size", "stride", "grid"), [((28, 28), 2, (12, 12)), ((28, 41), 3, None)])
def test_drops_equal_one_forward_pass_a_position(size, stride, grid):
    classifier, images, _ = soft(size)
    classes = torch.tensor([[0, 3], [2, 1]])
    method = SlidingPatch(classifier, patch=40, stride=8 * stride, batch_size=7)
    found = method.drops(images, classes)
    assert found.shape[-2:] == (grid or (8, 13))  # (28 - 5) // 3 + 1, (41 - 5) // 3 + 1
    for b in range(2):
        whole = classifier.probabilities(images[b : b + 1])[0, classes[b]]
        for i in range(found.shape[2]):
            for j in range(found.shape[3]):
                hidden = images[b : b + 1].clone()
                y, x = i * stride, j * stride
                hidden[:, :, y : y + 5, x : x + 5] = 0
                expected = whole - classifier.probabilities(hidden)[0, classes[b]]
                torch.testing.assert_close(found[b, :, i, j], expected, rtol=0, atol=1e-6)
    assert found.abs().max() > 0.01


def test_values_lie_at_the_centres_of_their_patches():
    classifier, images, targets = soft((28, 42))
    method = SlidingPatch(classifier, patch=40, stride=24)  # 5 and 3 pixels
    classes = targets.int().argmax(1, keepdim=True)
    drops, maps = method.drops(images, classes), method.class_maps(images, classes)
    centres = maps[..., 2:-2:3, 2:-2:3]  # the first patch covers pixels 0 to 4
    torch.testing.assert_close(centres, drops)
    between = (maps[..., 2:-5:3, :] * 2 + maps[..., 5:-2:3, :]) / 3
    torch.testing.assert_close(maps[..., 3:-4:3, :], between)
    torch.testing.assert_close(maps[..., 0, :], maps[..., 2, :])  # beyond them it continues
    torch.testing.assert_close(maps[..., -1], maps[..., 38])  # the last centre is 38 of 41


def test_one_pixel_lies_in_the_middle_of_its_map():
    images = torch.zeros(1, 3, 28, 28)
    images[..., 9, 5] = 0.9
    target = torch.tensor([[True, False]])
    found = explain(Pixel(), patch=40, stride=8).attribute(images, target)[0]
    expected = torch.zeros(28, 28)
    expected[7:12, 3:8] = 0.9  # all centres whose patch of 5 pixels covers (9, 5)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    stretched = explain(Pixel(), patch=40, stride=8, align="stretched").attribute(images, target)
    mass = stretched[0].clamp(min=0) / stretched.clamp(min=0).sum()
    rows = (mass.sum(1) * torch.arange(28)).sum()
    assert rows == pytest.approx((9 - 2 + 0.5) * 28 / 24 - 0.5, abs=0.1)  # not 9


def test_stretched_is_the_bilinear_upsampling_of_the_grid():
    classifier, images, targets = soft((28, 37))
    method = SlidingPatch(classifier, patch=40, stride=24, align="stretched")
    classes = targets.int().argmax(1, keepdim=True)
    expected = F.interpolate(method.drops(images, classes), (28, 37), mode="bilinear")
    torch.testing.assert_close(method.class_maps(images, classes), expected)


def test_the_published_setting_has_66_by_66_positions():
    method = explain(Pixel(), batch_size=4)
    assert method.sizes(224, 224) == (29, 3)
    assert method.sizes(448, 600) == (58, 6)
    assert method.sizes(8, 8) == (1, 1)
    images = torch.ones(1, 3, 224, 224)
    assert method.drops(images, torch.tensor([[0]])).shape == (1, 1, 66, 66)


def test_stretching_moves_the_first_value_by_almost_half_a_patch():
    """From 14, the middle of its 29 pixels, to 224 / 66 / 2 - 1 / 2 = 1.2."""
    first = F.one_hot(torch.tensor(0), 66).double()
    for centre, align in ((14, "centre"), (1.2, "stretched")):
        method = explain(Pixel(), align=align)
        method.drops = lambda *_: first[:, None].expand(1, 1, 66, 66)
        column = method.class_maps(torch.ones(1, 3, 224, 224), torch.tensor([[0]]))[0, 0, :, 0]
        # The map is constant before the value's place and falls by 1 over one distance.
        distance = 3 if align == "centre" else 224 / 66
        falling = ((column > 0) & (column < 1)).nonzero()[:, 0]
        reached = falling + (column[falling] - 1) * distance
        torch.testing.assert_close(reached, torch.full_like(reached, centre), rtol=0, atol=0.02)


def test_the_forward_passes_are_those_of_the_docstring():
    explanandum = planted.explanandum()
    passes = []
    hook = explanandum.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    images, _ = planted.scenes(2, (37, 51))
    method = SlidingPatch(explanandum, patch=29, stride=18, batch_size=16)  # 5 and 3 pixels
    method.class_maps(images, torch.tensor([[0, 1, 2], [3, 3, 0]]))
    hook.remove()
    assert sum(passes) == 2 * (1 + ((37 - 5) // 3 + 1) * ((51 - 5) // 3 + 1))
    assert max(passes) == 16


def test_the_fill_is_what_the_patch_shows():
    seen = []

    class Spy(Pixel):
        def forward(self, images):
            seen.append(images.clone())
            return super().forward(images)

    explanandum = Explanandum(Spy(), mean=[0.25] * 3, std=[1.0] * 3)
    images = torch.ones(1, 3, 28, 28)
    shown = []
    for fill in ("mean", "black"):
        seen.clear()
        method = SlidingPatch(explanandum, patch=40, stride=8, fill=fill)
        method.drops(images, torch.tensor([[0]]))
        first = seen[1][0, 0] + 0.25  # back to [0, 1]
        assert (first != 1).sum() == 25
        shown.append(float(first[4, 4]))
    assert shown == [0.25, 0.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patch": 0}, r"\[1, 224\]"),
        ({"patch": 300}, "300"),
        ({"stride": 0}, "positive"),
        ({"fill": "images"}, "got .images"),
        ({"align": "corner"}, "got .corner"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        explain(Pixel(), **wrong)
