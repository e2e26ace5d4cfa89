"""Pixels on their way into a batch, and answers on their way into a table."""

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.perturbation.queue import Queue, ResponseTable

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True])


class Corner(nn.Module):
    """Logits: the upper left pixel of the first and of the second channel."""

    num_classes = 2

    def forward(self, images):
        return images[:, :2, 0, 0]


def table(classes=(0, 1), columns=3):
    explanandum = Explanandum(Corner(), mean=[0.0] * 3, std=[1.0] * 3)
    return ResponseTable(explanandum, torch.tensor(classes), columns)


def pictures(*logits):
    """Images of 2 by 3 pixels with these logits."""
    images = torch.zeros(len(logits), 3, 2, 3)
    images[:, :2, 0, 0] = torch.tensor(logits)
    return images


def test_answers_are_written_into_their_cells():
    answers = table()
    answers.record(pictures([1.0, 3.0], [2.0, 5.0], [4.0, 0.0]), [(1, 2), (0, 0), (0, 1)])
    nan = torch.nan
    expected = torch.tensor([[2.0, 4.0, nan], [nan, nan, 3.0]])  # of class 0 and of class 1
    torch.testing.assert_close(answers.logit, expected, equal_nan=True)
    odds = torch.tensor([[-3.0, 4.0, nan], [nan, nan, 2.0]])
    torch.testing.assert_close(answers.probability, odds.sigmoid(), equal_nan=True)
    assert answers.top.tolist() == [[1, 0, 0], [0, 0, 1]]


@LAYOUTS
def test_full_batches_are_shown_at_once_and_the_rest_when_flushed(channels_last):
    answers, sizes = table(), []
    answers.explanandum.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    queue = Queue(answers, pictures([0.0, 0.0]), 2, channels_last)
    for number, image in enumerate(pictures([1.0, 0.0], [2.0, 0.0], [3.0, 0.0])):
        queue.push(queue.pixels(image, keep=1.0), 0, number)
    assert sizes == [2]
    assert answers.logit[0, 2].isnan()
    queue.flush()
    queue.flush()  # nothing is left
    assert sizes == [2, 1]
    assert answers.logit[0].tolist() == [1, 2, 3]


@LAYOUTS
def test_pixels_are_replaced_along_the_path_stop_by_stop(channels_last):
    images = torch.arange(18.0).view(1, 3, 2, 3)
    queue = Queue(table(), images, 1, channels_last)
    pixels, filled = queue.pixels(images[0], 1.0), queue.pixels(-torch.ones(3, 1, 1), 0.0)
    states = []
    for stop in queue.replace(pixels, filled, torch.tensor([5, 0, 2, 1, 3, 4]), [2, 3]):
        planes = pixels.mT if channels_last else pixels
        gone = (planes == -1).all(dim=0)
        assert torch.equal(planes[:, ~gone], images[0].flatten(1)[:, ~gone])
        states.append((stop, gone.nonzero()[:, 0].tolist()))
    assert states == [(2, [0, 5]), (3, [0, 2, 5])]
    assert images.flatten().tolist() == list(range(18))  # pixels are a copy


@LAYOUTS
def test_an_inpainter_gets_the_batch_and_what_is_kept(channels_last):
    seen = []

    def inpaint(images, keep):
        seen.append((images.clone(), keep.clone()))
        return images + 10 * (1 - keep[:, None])

    answers, images = table(classes=[0]), pictures([1.0, 0.0])
    queue = Queue(answers, images, 3, channels_last, inpaint)
    pixels, filled = queue.pixels(images[0], 1.0), queue.pixels(torch.zeros(3, 1, 1), 0.0)
    queue.push(pixels, 0, 0)
    for _ in queue.replace(pixels, filled, torch.tensor([0, 4]), [2]):
        queue.push(pixels, 0, 1)
    queue.flush()
    ((shown, keep),) = seen
    assert torch.equal(shown, pictures([1.0, 0.0], [0.0, 0.0]))
    assert keep.tolist() == [[[1, 1, 1], [1, 1, 1]], [[0, 1, 1], [1, 0, 1]]]
    assert answers.logit[0, :2].tolist() == [1, 10]
