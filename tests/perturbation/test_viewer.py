"""Masked pictures and copies in one buffer, in both memory layouts, and what the bar is told."""

import pytest
import torch

from explainers.functional import masking
from explainers.perturbation import viewer as module
from explainers.perturbation.viewer import Viewer
from tests import planted

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True])


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def watched(images, batch_size, channels_last):
    """A viewer of a planted classifier, and the batches that the classifier is shown."""
    explanandum, shown = planted.explanandum(), []
    explanandum.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    return Viewer(explanandum, images, batch_size, channels_last), shown


@LAYOUTS
@pytest.mark.parametrize("fills", [random(1, 3, 5, 7, seed=1), random(2, 3, 5, 7, seed=2)])
def test_masked_pictures_are_the_blend(channels_last, fills):
    images, masks = random(2, 3, 5, 7), random(4, 5, 7, seed=3)
    viewer, shown = watched(images, 6, channels_last)
    keep = masks.repeat_interleave(viewer.repeat, dim=2)
    planes, hidden = viewer.planes(images), viewer.planes(fills)
    for row in (0, 1):
        found = viewer.masked(planes[row], hidden[row % len(fills)], keep)
        fill = fills[row % len(fills)][None]
        expected = masking.blend(images[row : row + 1], masks, fill)
        torch.testing.assert_close(shown[row], expected)
        torch.testing.assert_close(found, planted.explanandum().probabilities(expected))
    assert len(shown) == 2


@LAYOUTS
def test_batches_have_the_layout_asked_for_and_live_in_one_buffer(channels_last):
    images, masks = random(1, 3, 4, 6), random(3, 4, 6, seed=1)
    viewer, batches = Viewer(planted.explanandum(), images, 3, channels_last), []
    viewer.explanandum.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    (image,) = viewer.planes(images)
    keep = masks.repeat_interleave(viewer.repeat, dim=2)
    viewer.masked(image, torch.zeros_like(image), keep)
    viewer.masked(image, torch.zeros_like(image), keep[:2])
    viewer.probabilities(viewer.copies(images[0], 1))
    form = torch.channels_last if channels_last else torch.contiguous_format
    assert [len(batch) for batch in batches] == [3, 2, 1]
    assert all(batch.is_contiguous(memory_format=form) for batch in batches)
    assert {batch.data_ptr() for batch in batches} == {viewer.buffer.data_ptr()}


@LAYOUTS
def test_copies_are_changed_one_by_one_and_shown(channels_last):
    images = random(1, 3, 4, 6)
    viewer, shown = watched(images, 5, channels_last)
    copies = viewer.copies(images[0], 3)
    assert torch.equal(copies, images.expand(3, -1, -1, -1))
    for number, copy in enumerate(copies):
        copy[:, number] = 0.5
    expected = images.repeat(3, 1, 1, 1)
    for number in range(3):
        expected[number, :, number] = 0.5
    found = viewer.probabilities(copies)
    assert torch.equal(shown[0], expected)
    torch.testing.assert_close(found, planted.explanandum().probabilities(expected))
    assert torch.equal(images, random(1, 3, 4, 6))


def test_the_bar_counts_the_images_shown(monkeypatch):
    class Bar:
        def __init__(self, iterable, title, total, **_):
            self.told, self.counts = (title, total), []

        def update(self, count):
            self.counts.append(count)

    monkeypatch.setattr(module, "tqdm", Bar)
    images = random(2, 3, 4, 4)
    viewer = Viewer(planted.explanandum(), images, 4, False, title="RISE", total=7)
    image, fill = viewer.planes(images)
    for count in (4, 1):
        viewer.masked(image, fill, torch.ones(count, 4, 4))
    viewer.probabilities(viewer.copies(images[0], 2))
    assert viewer.bar.told == ("RISE", 7)
    assert viewer.bar.counts == [4, 1, 2]
