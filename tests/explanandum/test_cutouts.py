import pytest
import torch

from explainers.explanandum.cutouts import cut_outs, soften


def scene():
    """Class 0 fills the left third of an image of ones, class 1 the right; class 2 is absent."""
    masks = torch.zeros(1, 3, 12, 12, dtype=torch.bool)
    masks[0, 0, :, :4] = True
    masks[0, 1, :, 8:] = True
    return torch.ones(1, 3, 12, 12), torch.tensor([[True, True, False]]), masks


def test_what_is_seen_is_what_is_said():
    images, targets, masks = scene()
    found = set()
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        cut, left = cut_outs(images, targets, masks, 1.0, torch.zeros(1, 3, 1, 1), generator)
        seen = tuple(bool(cut[0, 0, 6, column] == 1) for column in (1, 6, 10))
        said = tuple(left[0].tolist())
        assert said == (seen[0], seen[2], False)
        found.add(seen)
    both, one, other = (True, False, True), (True, False, False), (False, False, True)
    removed = {(False, True, False), (False, True, True), (True, True, False)}
    assert found == {both, one, other} | removed


def test_the_share_is_altered_and_the_rest_left_alone():
    images, targets, masks = (x.expand(400, *x.shape[1:]) for x in scene())
    generator = torch.Generator().manual_seed(0)
    cut, left = cut_outs(images, targets, masks, 0.25, torch.zeros(1, 3, 1, 1), generator)
    altered = (cut != images).flatten(1).any(dim=1)
    assert altered.float().mean() == pytest.approx(0.25, abs=0.06)
    assert torch.equal(left[~altered], targets[~altered])


def test_images_without_objects_or_masks_stay():
    images, targets, masks = scene()
    for present, where in ((targets & False, masks), (targets, masks & False)):
        generator = torch.Generator().manual_seed(0)
        cut, left = cut_outs(images, present, where, 1.0, torch.zeros(1, 3, 1, 1), generator)
        assert torch.equal(cut, images)
        assert torch.equal(left, present)


def test_the_edge_is_wider_and_soft():
    masks = torch.zeros(1, 1, 9)
    masks[0, 0, 4] = 1
    expected = torch.tensor([0, 0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 0])
    torch.testing.assert_close(soften(masks, 1)[0, 0], expected)
    assert torch.equal(soften(masks, 0), masks)
