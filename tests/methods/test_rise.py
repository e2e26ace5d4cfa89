import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.methods.rise import RISE
from explainers.perturbation import grids
from tests import planted


class Pixel(nn.Module):
    """The probability of class 0 is the brightness of one pixel."""

    num_classes = 2

    def forward(self, images):
        p = images[:, 0, 4, 4].clamp(1e-6, 1 - 1e-6)
        return torch.stack([p.log(), (1 - p).log()], dim=1)


def explain(model, **arguments):
    return RISE(Explanandum(model, mean=[0.0] * 3, std=[1.0] * 3), **arguments)


@pytest.mark.parametrize("channels_last", [False, True])
def test_it_is_the_weighted_sum_of_its_masks(channels_last):
    classifier = planted.explanandum()
    images, targets = planted.scenes(3, (20, 14))
    layout = {"batch_size": 4, "channels_last": channels_last}
    method = RISE(classifier, masks=10, grid=[3, 2], probability=0.3, **layout, seed=5)
    seen = []
    classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = method.attribute(images, targets)
    form = torch.channels_last if channels_last else torch.contiguous_format
    assert all(shown.is_contiguous(memory_format=form) for shown in seen)
    (batch,) = grids.rise(10, (20, 14), (3, 2), 0.3, 10, torch.Generator().manual_seed(5))
    for image, target, result in zip(images, targets, found, strict=True):
        scores = classifier.probabilities(image * batch[:, None])[:, target].squeeze(1)
        expected = (scores[:, None, None] * batch).sum(dim=0) / (10 * 0.3)
        torch.testing.assert_close(result, expected)


def test_expectation_on_a_classifier_of_one_pixel():
    images = torch.ones(1, 3, 32, 32)
    found = explain(Pixel(), grid=4).class_maps(images, torch.tensor([[0, 1]]))[0]
    # E[M(x) M(y)] / p is p for independent pixels; (1 - M) has the complementary mean.
    assert found[0, 24:, 24:].mean() == pytest.approx(0.5, abs=0.03)
    assert found[1, 24:, 24:].mean() == pytest.approx(0.5, abs=0.03)
    assert found[0, 4, 4] > 0.65
    assert found[1, 4, 4] < 0.35
    # The two probabilities add up to 1, so the maps to the mean mask over p.
    torch.testing.assert_close(found.sum(dim=0), torch.ones(32, 32), rtol=0, atol=0.08)


def test_a_counted_divisor_takes_out_how_often_a_pixel_was_kept():
    images = torch.ones(1, 3, 32, 32)
    both = torch.tensor([[0, 1]])
    settings = {"grid": 4, "masks": 300, "divisor": "counted", "batch_size": 7}
    for tolerance in (None, 0.9):  # which ends after 128 masks
        found = explain(Pixel(), **settings, tolerance=tolerance).class_maps(images, both)[0]
        torch.testing.assert_close(found.sum(dim=0), torch.ones(32, 32), rtol=0, atol=1e-5)
    method = explain(Pixel(), **settings)
    masks = torch.cat(list(grids.rise(300, (32, 32), (4, 4), 0.5, 300, method.generator())))
    p = masks[:, 4, 4].clamp(1e-6, 1 - 1e-6)
    expected = (p[:, None, None] * masks).sum(dim=0) / masks.sum(dim=0)
    torch.testing.assert_close(method.class_maps(images, both)[0, 0], expected)
    never = explain(Pixel(), grid=4, masks=1, divisor="counted").class_maps(images, both)
    assert never.isfinite().all()


def test_fill_says_what_is_seen_in_place_of_a_pixel():
    seen = []

    class Spy(Pixel):
        def forward(self, images):
            seen.append(images)
            return super().forward(images)

    explanandum = Explanandum(Spy(), mean=[0.5] * 3, std=[1.0] * 3)
    images, targets = torch.ones(1, 3, 8, 8), torch.tensor([[True, False]])
    generator = torch.Generator().manual_seed(0)
    low = min(float(batch.min()) for batch in grids.rise(5, (8, 8), (2, 2), 0.5, 5, generator))
    lowest = []
    for fill in ("mean", "black"):
        seen.clear()
        RISE(explanandum, masks=5, grid=2, fill=fill).attribute(images, targets)
        lowest.append(float(seen[0].min()))
    assert lowest == pytest.approx([0.5 * low, low - 0.5])  # in normalised space


def test_classes_share_the_forward_passes():
    explanandum = planted.explanandum()
    passes = []
    hook = explanandum.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    images, _ = planted.scenes(2)
    method = RISE(explanandum, masks=10, grid=4, batch_size=4)
    method.class_maps(images, torch.tensor([[0, 1, 2], [3, 3, 0]]))
    hook.remove()
    assert sum(passes) == 2 * 10
    assert max(passes) == 4


def test_multi_label_probabilities_are_sigmoids():
    explanandum = planted.explanandum(multi_label=True)
    images, _ = planted.scenes(1)
    targets = torch.tensor([[True, True, False, False]])
    both = RISE(explanandum, masks=50, grid=4).attribute(images, targets)[0]
    assert both.min() == 0  # two classes are merged: each is min-maxed
    assert both.max() == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masks": 0}, "positive"),
        ({"probability": 0.0}, r"\(0, 1\)"),
        ({"fill": "pink"}, "pink"),
        ({"fill": "images"}, "got .images"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        explain(Pixel(), **wrong)
