import pytest
import torch

from explainers.metrics.parts import (
    decision_checks,
    delete_parts,
    distraction,
    part_shares,
    sufficiency,
)
from tests import planted


def test_shares_are_sums_over_grown_parts():
    maps = torch.zeros(1, 9, 9)
    maps[0, 0, 0], maps[0, 4, 4], maps[0, 8, 8] = 1.0, 3.0, -2.0
    parts = torch.zeros(1, 1, 2, 9, 9, dtype=torch.bool)
    parts[0, 0, 0, 2, 2] = True  # grows over rows and columns 0 to 4
    parts[0, 0, 1, 6, 6] = True  # 4 to 8
    assert part_shares(maps, parts).tolist() == [[[1.0, 0.25]]]  # of 4, the positive part
    assert part_shares(maps, parts, dilation=1).tolist() == [[[0, 0]]]
    assert part_shares(-maps.abs(), parts).tolist() == [[[0, 0]]]


def scene():
    """Class 0 in two halves of its quadrant, class 1 in one part."""
    parts = torch.zeros(4, 2, 8, 8, dtype=torch.bool)
    parts[0, 0, :4, :2], parts[0, 1, :4, 2:4] = True, True
    parts[1, 1, :4, 4:] = True
    image = 0.1 + 0.5 * parts[0, 0].float() + 0.8 * parts[0, 1].float() + 0.6 * parts[1, 1].float()
    return image.expand(3, -1, -1), parts


def test_deletions_are_what_the_classifier_says_without_the_parts():
    image, parts = scene()
    explanandum = planted.explanandum()  # the mean is 0
    shown = []
    explanandum.register_forward_hook(lambda m, i, o: shown.append(len(i[0])))
    clean = explanandum(image[None])[0]
    found = delete_parts(explanandum, image, parts, 0, clean, batch_size=3)
    assert sum(shown) == 1 + (4 - 1) + 1 + 1
    assert max(shown) == 3
    assert found.own.tolist() == [0, 1]
    assert found.elsewhere.tolist() == [[1, 1]]
    keeps = [0.0, 0.6 / 2, 0.9 / 2, 1.5 / 2]  # brightness of quadrant 0: none, part 0, part 1, both
    torch.testing.assert_close(
        found.subsets[:, 0], planted.SCALE * torch.tensor(keeps).double(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        found.subsets[:, 1], clean[1].double().expand(4), rtol=1e-5, atol=1e-5
    )
    assert found.others[0, 1] == found.objects[1][1] == 0
    assert found.others[0, 0].item() == pytest.approx(clean[0].item(), rel=1e-5)


def test_an_image_without_the_target_has_no_deletions():
    image, parts = scene()
    explanandum = planted.explanandum()
    found = delete_parts(explanandum, image, parts, 3, explanandum(image[None])[0])
    assert len(found.own) == 0
    assert found.subsets.shape == (1, 4)
    assert set(found.objects) == {0, 1}


def test_too_many_parts_are_refused():
    parts = torch.ones(1, 9, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="at most 8 parts an object, got 9"):
        delete_parts(planted.explanandum(), torch.ones(3, 4, 4), parts, 0, torch.zeros(4))


def test_sufficient_sets():
    # three parts; part 2 alone suffices, or parts 0 and 1 together
    decided = [False, False, False, True, True, True, True, True]
    codes = [0b000, 0b001, 0b011, 0b100, 0b101]
    assert sufficiency(codes, decided) == [0, 0.5, 1, 1, 1]
    empty = [True] * 4  # the surroundings alone suffice: then each part does
    assert sufficiency([0b00, 0b10], empty) == [0, 1]


def test_the_three_checks_by_hand():
    decided = [False, False, False, True, True, True, True, True]
    important = torch.tensor(
        [[True, True, True], [False, False, True], [True, False, False], [False, False, False]]
    )
    # shares 1, 1, .5, 0; preserved 1, 1, 0, 0; falls when deleted: 1, 0 (0 and 1 stay), 0, 0
    expected = [1.0, 2 / 3, 0.5 / 3, 0.0]
    found = decision_checks(important, decided)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.double))
    assert decision_checks(important, [*decided[:-1], False]).isnan().all()


def test_distraction_by_hand():
    drops = torch.tensor([5.0, 0.4, -3.0, -0.1])  # of a logit of 10: only the first is relevant
    important = torch.tensor([[True, True, False, False], [True, False, False, False], [True] * 4])
    assert distraction(important, drops, 10.0).tolist() == pytest.approx([2 / 3, 1, 0])
    assert distraction(important[:, :1], drops[:1], 10.0).isnan().all()
