import pytest
import torch
from torchvision.ops import box_iou as reference_iou

from explainers.metrics.boxes import box_iou, map_boxes, tight_boxes

# two blobs: a bright pixel at row 0, column 3, and a dim column of three
MAP = torch.tensor(
    [[0.0, 0.0, 0.0, 1.0], [0.5, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0], [0.5, 0, 0, 0]]
)


def test_tight_boxes_hold_every_pixel_and_no_more():
    kept = torch.rand(50, 6, 9, generator=torch.Generator().manual_seed(0)) > 0.96
    for plane, (left, top, right, bottom) in zip(kept, tight_boxes(kept).tolist(), strict=True):
        rows, columns = plane.nonzero().unbind(1)
        if len(rows):
            assert (left, top) == (columns.min(), rows.min())
            assert (right, bottom) == (columns.max() + 1, rows.max() + 1)
        else:
            assert (left, top, right, bottom) == (0, 0, 0, 0)
    assert (~kept.flatten(1).any(1)).any()


def test_overlap_agrees_with_torchvision():
    corners = torch.randint(0, 20, (40, 2, 2), generator=torch.Generator().manual_seed(1))
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)
    expected = reference_iou(boxes.double(), boxes.double())
    torch.testing.assert_close(box_iou(boxes[:, None], boxes[None]), expected)
    assert box_iou(torch.zeros(4), torch.zeros(4)) == 0


def test_thresholds_of_the_maximum_and_of_the_mean():
    boxes = map_boxes(MAP[None], [0.0, 0.5, 0.51])
    assert boxes[0].tolist() == [[0, 0, 4, 4], [0, 0, 4, 4], [3, 0, 4, 1]]
    mean = map_boxes(MAP[None], [3.0, 3.5, 100.0], relative_to="mean")  # the mean is 2.5 / 16
    assert mean[0].tolist() == [[0, 0, 4, 4], [3, 0, 4, 1], [3, 0, 4, 1]]


def test_largest_component():
    boxes = map_boxes(MAP[None], [0.25, 0.75], largest_component=True)
    assert boxes[0].tolist() == [[0, 1, 1, 4], [3, 0, 4, 1]]


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_map_that_says_nothing_gives_the_whole_image(value):
    assert map_boxes(torch.full((1, 3, 5), value), [0.0, 0.9]).tolist() == [[[0, 0, 5, 3]] * 2]
