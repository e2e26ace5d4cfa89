"""Responses to random patch masks: what they are, which masks are shown, and how often."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.functional import masking
from explainers.perturbation.responses import Sampling, measure_responses
from tests import planted

PLAIN = Sampling((4, 8), (9, 11), (0.5, 0.3), 3, seed=0, batch_size=7, channels_last=True)
MEAN = torch.full((1, 3, 1, 1), 0.2)


class Threshold(nn.Module):
    """Class 0 wherever the mean brightness is above 0.4, rather sharply."""

    num_classes = 2

    def forward(self, images):
        over = 60 * (images.mean(dim=(1, 2, 3)) - 0.4)
        return torch.stack([over, images.new_zeros(len(images))], dim=1)


def threshold():
    return Explanandum(Threshold(), mean=[0.0] * 3, std=[1.0] * 3)


def fills(size=16):
    return MEAN.expand(1, 3, size, size)


def dense(sums):
    return torch.cat([group.pixels(0, len(group.kept)) for group in sums.groups])


def watched(explanandum):
    sizes = []
    explanandum.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    return sizes


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("own_fills", [True, False])
def test_responses_are_probabilities_less_that_of_the_fill(channels_last, own_fills):
    explanandum, (images, _) = planted.explanandum(), planted.scenes(2, (16, 16))
    classes, hidden = torch.tensor([[0, 2], [1, 0]]), images.flip(0) if own_fills else fills()
    sampling = replace(PLAIN, channels_last=channels_last)
    whole, (part,) = measure_responses(explanandum, images, hidden, classes, sampling)
    base = explanandum.probabilities(hidden).expand(2, -1).gather(1, classes)
    torch.testing.assert_close(whole, explanandum.probabilities(images).gather(1, classes) - base)
    assert part.rows.tolist() == [0, 1]
    assert part.responses.shape == (2, 2, 20)
    for mask, response in zip(dense(part.sums), part.responses.unbind(2), strict=True):
        shown = masking.blend(images, mask.expand(2, -1, -1), hidden)
        expected = explanandum.probabilities(shown).gather(1, classes) - base
        torch.testing.assert_close(response, expected)


def test_masks_are_those_of_the_sampling_and_sides_share_no_draws():
    images = planted.scenes(1, (16, 16))[0]
    sampling = replace(PLAIN, sides=(4, 4, 8), counts=(200, 200, 1), probabilities=(0.2, 0.9, 1.0))
    arguments = planted.explanandum(), images, fills(), torch.tensor([[0]])
    _, (part,) = measure_responses(*arguments, sampling)
    groups = part.sums.groups
    assert [(group.side, len(group.kept)) for group in groups] == [(4, 200), (4, 200), (8, 1)]
    assert [float(group.areas().mean()) / 256 for group in groups] == pytest.approx(
        [0.2, 0.9, 1.0], abs=0.03
    )
    assert not torch.equal(groups[0].offsets, groups[1].offsets)
    _, (other,) = measure_responses(*arguments, replace(sampling, seed=1))
    assert not torch.equal(other.sums.groups[0].offsets, groups[0].offsets)


@pytest.mark.parametrize(
    ("probabilities", "each"), [((0.5, 0.3), 20), ((None, 0.3), 20 + 13 * 3), ((None,) * 2, 98)]
)
def test_forward_passes_are_those_of_the_formula(probabilities, each):
    sampling = replace(PLAIN, probabilities=probabilities)
    assert sampling.forwards() == each
    explanandum, (images, _) = planted.explanandum(), planted.scenes(3, (16, 16))
    sizes = watched(explanandum)
    for hidden, once in ((fills(), 1), (fills().expand(3, -1, -1, -1), 3)):
        for classes in (torch.tensor([[0]] * 3), torch.tensor([[0, 1, 2, 3]] * 3)):
            sizes.clear()
            measure_responses(explanandum, images, hidden, classes, sampling)
            assert sum(sizes) == 3 * (1 + each) + once
            assert max(sizes) == 7


def test_each_image_gets_the_probability_whose_responses_vary_most():
    images = torch.tensor([1.0, 0.55])[:, None, None, None].expand(-1, 3, 16, 16)
    sampling = Sampling((2,), (200,), (None,), 200, seed=0, batch_size=64, channels_last=True)
    hidden, classes = torch.zeros(1, 3, 16, 16), torch.tensor([[1], [0]])
    whole, parts = measure_responses(threshold(), images, hidden, classes, sampling)
    assert [part.rows.tolist() for part in parts] == [[0], [1]]  # by rising probability
    kept = [float(part.sums.areas.mean()) / 256 for part in parts]
    # A mask is half of the time above the threshold if it keeps 0.4 / brightness of the image.
    assert kept == pytest.approx([0.4, 0.4 / 0.55], abs=0.07)
    for row, part in enumerate(parts):
        lone = measure_responses(
            threshold(), images[row : row + 1], hidden, classes[row : row + 1], sampling
        )
        torch.testing.assert_close(lone[0], whole[row : row + 1])
        torch.testing.assert_close(lone[1][0].responses, part.responses)


def test_shared_responses_save_the_forward_passes_while_nothing_changes():
    explanandum, (images, _) = planted.explanandum(), planted.scenes(2, (16, 16))
    classes, sizes = torch.tensor([[0], [1]]), watched(explanandum)

    def measured(sampling=PLAIN, images=images, hidden=None, classes=classes, share=True):
        sizes.clear()
        hidden = fills() if hidden is None else hidden
        found = measure_responses(explanandum, images, hidden, classes, sampling, share)
        return found, sum(sizes)

    spots = torch.zeros(2, 1, 3, 16, 16)
    spots[0, :, :, 0, 0] = spots[1, :, :, 0, 1] = 0.5
    asked, all_ = 2 + 1, 2 + 1 + 2 * 20
    first, count = measured()
    assert count == all_
    again, count = measured(replace(PLAIN, batch_size=5, channels_last=False))
    assert (again is first, count) == (True, asked)
    other, count = measured(replace(PLAIN, seed=1))  # both are kept
    assert (other is first, count) == (False, all_)
    assert measured()[0] is first
    assert measured(share=False)[1] == all_
    for change in (
        {"images": images.flip(0)},
        {"hidden": spots[0]},
        {"hidden": spots[1]},  # of the same probabilities
        {"classes": classes.flip(0)},
        {},  # back again: only the last images are remembered
    ):
        assert measured(**change)[1] == all_
    with torch.no_grad():
        explanandum.model.stem.weight.mul_(0.5)
    assert measured()[1] == all_
