"""Which maps of a solver are kept."""

import pytest
import torch
from torch.nn import functional as F

from explainers.optimization.snapshots import KeepBest, KeepSteps
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve
from tests import planted


def test_the_maps_after_the_steps_asked_for_are_kept_by_their_rows():
    keep = KeepSteps([3, 0, 3], torch.ones(2, 1, 1, 1))
    for step in range(5):
        for row in (0, 1):
            keep(torch.tensor([row]), step, torch.full((1, 1, 1, 1), 10.0 * row + step))
    assert keep.maps.flatten(1).tolist() == [[3, 13], [0, 10], [3, 13]]


def best_of(classes, last, images=None):
    """An observer of planted images, and the sizes of the batches that it shows."""
    explanandum, sizes = planted.explanandum(), []
    explanandum.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    images = planted.scenes(len(classes), (10, 10))[0] if images is None else images
    fill = torch.zeros(1, 3, 1, 1)
    return KeepBest(explanandum, images, fill, torch.tensor(classes), last, 16, True), sizes


@pytest.mark.parametrize("last", [97, 100])
def test_every_fifteenth_step_counted_from_0_after_the_fiftieth_and_the_last_are_looked_at(last):
    keep, sizes = best_of([[0, 1], [1, 2]], last)
    looked = []
    for step in range(last + 1):
        sizes.clear()
        keep(torch.arange(2), step, torch.rand(2, 2, 10, 10))
        if sizes:
            looked.append(step)
            assert sum(sizes) == 2 * 2 * 20  # passes an image and class
            assert max(sizes) == 16
    assert looked == [61, 76, 91, last]


def test_each_image_and_class_keeps_the_map_of_the_best_insertion_minus_deletion():
    images, classes = planted.scenes(2, (10, 10))[0], [[0, 1], [1, 2]]
    keep, _ = best_of(classes, 91, images)
    right = planted.quadrant_masks(10, 10)[torch.tensor(classes)]  # (2, 2, 10, 10)
    noise = torch.rand(3, 2, 2, 10, 10, generator=torch.Generator().manual_seed(0))
    # Each map is best at a step of its own, and noise shifts the rest.
    steps = torch.stack([noise[0], noise[1] - right, noise[2]])
    for slot, (row, column) in enumerate(((0, 0), (0, 1), (1, 0))):
        steps[slot, row, column] += 2 * right[row, column]
    for row in (0, 1):  # images come by themselves
        for step, maps in zip((61, 76, 91), steps, strict=True):
            keep(torch.tensor([row]), step, maps[row : row + 1])
    explanandum, scores = planted.explanandum(), []
    for maps in steps:
        runs = [Curve(order, fill=torch.zeros(1, 3, 1, 1), steps=10) for order in ("least", "most")]
        pairs = images.repeat_interleave(2, dim=0), maps.flatten(0, 1)
        targets = F.one_hot(torch.tensor(classes).flatten(), 4).bool()
        kept, removed = curves.run(explanandum, *pairs, targets, runs)
        scores.append(curves.auc(kept.probability) - curves.auc(removed.probability))
    best = torch.stack(scores).view(3, 2, 2)
    assert best.argmax(dim=0).flatten()[:3].tolist() == [0, 1, 2]
    torch.testing.assert_close(keep.scores, best.amax(dim=0))
    index = best.argmax(dim=0)[None, :, :, None, None].expand(1, 2, 2, 10, 10)
    assert torch.equal(keep.maps, steps.gather(0, index)[0])


def test_of_equally_good_maps_the_first_is_kept():
    keep, _ = best_of([[0]], 76)
    for step, scale in ((61, 1.0), (76, 2.0)):  # the same ranking
        keep(torch.tensor([0]), step, scale * torch.arange(100.0).view(1, 1, 10, 10))
    assert keep.maps.max() == 99
