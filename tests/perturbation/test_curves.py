"""The curve engine: counted passes, hand-made curves, and a literal reference."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.functional import smoothing
from explainers.functional.fills import Inpainted
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve
from tests import planted


class Brightness(nn.Module):
    """Logits: brightness of the first and of the second channel, times the number of pixels."""

    num_classes = 2

    def forward(self, images):
        return images[:, :2].sum(dim=(2, 3))


class Counter:
    """A hook that keeps the size of every batch."""

    def __init__(self, explanandum):
        self.batches = []
        explanandum.register_forward_hook(lambda m, i, o: self.batches.append(len(o)))

    @property
    def images(self):
        return sum(self.batches)


def brightness():
    return Explanandum(Brightness(), mean=[0.0] * 3, std=[1.0] * 3)


def tiny(height=2, width=2):
    """One image whose first channel counts the pixels, the second is 1: logits tell who is left."""
    size = height * width
    image = torch.zeros(1, 3, height, width)
    image[0, 0] = 10.0 ** torch.arange(size).view(height, width)
    image[0, 1] = 1
    return image


def first(count=1, classes=2):
    return F.one_hot(torch.zeros(count, dtype=torch.int64), classes).bool()


def logits(maps, *settings, image=None, **kwargs):
    image = tiny(*maps.shape[1:]) if image is None else image
    found = curves.run(brightness(), image, maps, first(len(image)), settings, **kwargs)
    return [curve.logit[0].tolist() for curve in found]


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_curve_by_hand(channels_last):
    maps = torch.tensor([[[0.3, 0.1], [0.9, 0.2]]])  # ranking, least first: pixels 1, 3, 0, 2
    found = logits(
        maps,
        Curve("most", "image", steps=4),
        Curve("least", "image", steps=4),
        Curve("most", "fill", steps=4),
        Curve("least", "fill", steps=4),
        channels_last=channels_last,
    )
    assert found[0] == [1111, 1011, 1010, 10, 0]
    assert found[1] == [1111, 1101, 101, 100, 0]
    assert found[2] == found[1][::-1]
    assert found[3] == found[0][::-1]


def test_probability_logit_and_top_come_from_one_pass():
    explanandum, image = brightness(), torch.zeros(1, 3, 1, 2)
    image[0, :2] = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    count = Counter(explanandum)
    (found,) = curves.run(
        explanandum, image, torch.tensor([[[1.0, 0.0]]]), first(), [Curve(steps=2)]
    )
    assert found.logit.tolist() == [[2, 0, 0]]
    expected = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 0.0]]).softmax(1)[:, 0]
    torch.testing.assert_close(found.probability[0].float(), expected)
    assert found.top[0, :2].tolist() == [0, 1]
    assert found.clean.tolist() == [0]
    assert count.images == 3


def test_ties_go_by_index_and_the_orders_are_reverses():
    flat = torch.zeros(1, 2, 2)
    most, least = logits(flat, Curve("most", steps=4), Curve("least", steps=4))
    assert most == [1111, 111, 11, 1, 0]  # the later of equal pixels is the more relevant
    assert least == [1111, 1110, 1100, 1000, 0]
    signed = torch.tensor([[[0.0, -0.0], [0.0, -0.0]]])
    assert logits(signed, Curve("most", steps=4)) == [most]


def test_ragged_last_step_and_non_square_images():
    maps = torch.arange(6.0).view(1, 2, 3)
    removed, restored = logits(maps, Curve(pixels=4), Curve(start="fill", pixels=4))
    assert removed == [111111, 11, 0]
    assert restored == [0, 111100, 111111]
    assert Curve(steps=4).replaced(6) == [0, 1, 3, 4, 6]
    assert Curve(start="fill", steps=4).replaced(6) == [6, 4, 3, 1, 0]


def test_more_steps_than_pixels_repeat_points_without_new_passes():
    explanandum, maps = brightness(), torch.arange(4.0).view(1, 2, 2)
    count = Counter(explanandum)
    (found,) = curves.run(explanandum, tiny(), maps, first(), [Curve(steps=8)])
    assert found.logit[0].tolist() == [1111, 1111, 111, 111, 11, 11, 1, 1, 0]
    assert count.images == 5


@pytest.mark.parametrize(
    ("settings", "an_image"),
    [
        ([Curve(steps=8)], 9),
        ([Curve(steps=8), Curve("most", "fill", "kernel_blur", steps=8)], 2 * 8 + 1),
        ([Curve(steps=8), Curve("least", steps=8)], 2 * 8),
        ([Curve(steps=8), Curve("least", "fill", steps=8)], 9),  # read from the other end
        ([Curve(steps=8), Curve("most", "fill", steps=8)], 2 * 8),
        ([Curve(steps=8), Curve(steps=4)], 9),  # every second point
        ([Curve(steps=8, fill=f) for f in ("mean", "black", "noise")], 1 + 3 + 3 * 7),
        ([Curve(counts=(3, 5))], 2),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_forward_passes_follow_the_formula(settings, an_image, batch_size):
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(3, (8, 8))
    count = Counter(explanandum)
    curves.run(explanandum, images, images[:, 0], targets, settings, batch_size=batch_size)
    assert count.images == 3 * an_image
    assert all(size == batch_size for size in count.batches[:-1])  # one queue, full batches


def reference(explanandum, maps, targets, start, end, pixels):
    """RISE's curves written down literally: one image, one step, one pass at a time."""
    curves_ = []
    for a, b, map_, target in zip(start, end, maps, targets, strict=True):
        ranking = sorted(range(map_.numel()), key=lambda i: (map_.flatten()[i].item(), i))[::-1]
        state, points = a.clone(), []
        for step in range(0, map_.numel() + pixels, pixels):
            for i in ranking[max(0, step - pixels) : step]:
                row, column = divmod(i, map_.shape[1])
                state[:, row, column] = b[:, row, column]
            points.append(explanandum.probabilities(state[None])[0, target.int().argmax()].item())
        curves_.append(points)
    return torch.tensor(curves_, dtype=torch.float64)


@pytest.mark.parametrize("size", [(6, 6), (5, 9)])
def test_insertion_and_deletion_equal_a_literal_reference(size):
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(3, size)
    explanandum.mean.fill_(0.1)
    maps = torch.rand(3, *size, generator=torch.Generator().manual_seed(3)).mul(8).round()  # ties
    blurred = smoothing.kernel_blur(images, explanandum.mean)
    flat = explanandum.mean.expand_as(images)
    settings = [Curve("most", "fill", "kernel_blur", pixels=size[1]), Curve(pixels=size[1])]
    insertion, deletion = curves.run(explanandum, images, maps, targets, settings, batch_size=5)
    for found, start, end in ((insertion, blurred, images), (deletion, images, flat)):
        expected = reference(explanandum, maps, targets, start, end, size[1])
        torch.testing.assert_close(found.probability, expected, atol=1e-6, rtol=0)


def test_curves_do_not_depend_on_the_batch():
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(4, (8, 8))
    maps = images.mean(1)
    settings = [Curve(steps=8, fill=fill) for fill in ("mean", "noise", "blur", "kernel_blur")]
    together = curves.run(explanandum, images, maps, targets, settings)
    for i in range(4):
        one = [x[i : i + 1] for x in (images, maps, targets)]
        for a, b in zip(together, curves.run(explanandum, *one, settings), strict=True):
            torch.testing.assert_close(a.probability[i : i + 1], b.probability, atol=1e-6, rtol=0)


def test_fills_may_be_tensors_functions_or_other_images():
    maps, image = torch.arange(4.0).view(1, 2, 2), tiny()
    fills = [torch.full((1, 3, 1, 1), 2.0), lambda images: 2 * torch.ones_like(images)]
    for fill in fills:
        assert logits(maps, Curve(steps=4, fill=fill)) == [[1111, 113, 15, 7, 8]]
    found = curves.run(
        brightness(),
        torch.cat([image, 2 * image]),
        maps.expand(2, -1, -1),
        first(2),
        [Curve(steps=4, fill="images")],
    )
    assert found[0].logit[0].tolist() == [1111, 2111, 2211, 2221, 2222]
    assert found[0].logit[1].tolist() == [2222, 1222, 1122, 1112, 1111]


@pytest.mark.parametrize("channels_last", [True, False])
def test_an_inpainter_sees_what_is_kept(channels_last):
    masks = []

    def inpaint(images, keep):
        masks.append(keep.clone())
        missing = 1 - keep.unsqueeze(1)
        return images + missing * 5 * keep.sum(dim=(1, 2)).view(-1, 1, 1, 1)

    maps = torch.arange(4.0).view(1, 2, 2)
    (found,) = logits(maps, Curve(steps=4, fill=Inpainted(inpaint)), channels_last=channels_last)
    assert found == [1111, 111 + 15, 11 + 20, 1 + 15, 0]
    seen = torch.cat(masks).flatten(1).tolist()
    assert seen == [[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]


def test_inputs_stay_as_they_were():
    explanandum, (images, targets) = planted.explanandum(), planted.scenes(2, (4, 4))
    maps = images.mean(1)
    copies = images.clone(), maps.clone(), targets.clone()
    curves.run(explanandum, images, maps, targets, [Curve(steps=3)])
    for before, after in zip(copies, (images, maps, targets), strict=True):
        assert torch.equal(before, after)


def test_no_image_gives_no_curve():
    empty = torch.zeros(0, 3, 4, 4)
    found = curves.run(brightness(), empty, empty[:, 0], first(0), [Curve(steps=2)])
    assert found[0].probability.shape == (0, 3)


def test_areas_by_hand():
    points = torch.tensor([[1.0, 0.5, 0.0, 0.0, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0]]).double()
    assert curves.auc(points).tolist() == [0.3125, 1]
    assert curves.auc(points, "mean").tolist() == [0.4, 1]
    assert curves.auc(points, "mean", skip_first=True).tolist() == [0.25, 1]
    assert curves.auc(points, start=0.0, end=0.5).tolist() == [0.5, 1]
    assert curves.auc(points, "mean", start=0.25, end=0.75).tolist() == pytest.approx([1 / 6, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"steps": 2, "pixels": 2}, "exactly one"),
        ({"steps": 0}, "at least 1"),
        ({"pixels": -1}, "at least 1"),
        ({"steps": 2, "order": "best"}, "order"),
        ({"steps": 2, "start": "blur"}, "start"),
    ],
)
def test_impossible_curves_say_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        Curve(**arguments)


def test_wrong_inputs_say_why():
    image, maps = tiny(), torch.zeros(1, 2, 2)
    cases = [
        ({"maps": torch.zeros(1, 2, 3)}, "maps"),
        ({"targets": torch.ones(1, 2).bool()}, "one-hot"),
        ({"maps": maps / 0}, "not numbers"),
        ({"batch_size": 0}, "batch_size"),
        ({"curves": [Curve(counts=(5,))]}, "counts"),
    ]
    plain = {"maps": maps, "targets": first(), "curves": [Curve(steps=2)]}
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            curves.run(brightness(), image, **plain | change)
    with pytest.raises(ValueError, match="sand"):
        Curve(steps=2, fill="sand")
    with pytest.raises(ValueError, match="rule"):
        curves.auc(maps[0], "simpson")
    with pytest.raises(ValueError, match="points"):
        curves.auc(maps[0], start=0.9)
