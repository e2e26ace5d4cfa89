import pytest
import torch

from explainers.functional import planes


def upsampled(logits, allowed, size):
    return (
        planes.upsample(logits, size)
        .masked_fill(~allowed[:, :, None, None], -torch.inf)
        .amax(dim=1)
    )


@pytest.mark.parametrize("size", [(37, 61), (7, 9), (16, 16)])
def test_max_over_classes_equals_the_maximum_of_all_upsampled_maps_with_its_gradient(size):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, 7, 9, generator=generator, dtype=torch.double, requires_grad=True)
    allowed = torch.rand(2, 50, generator=generator) > 0.5
    weight = torch.randn(2, *size, generator=generator, dtype=torch.double)
    ours = planes.max_over_classes(logits, allowed, size, chunk=16)
    reference = upsampled(logits, allowed, size)
    torch.testing.assert_close(ours, reference)
    gradients = [torch.autograd.grad((out * weight).sum(), logits)[0] for out in (ours, reference)]
    torch.testing.assert_close(*gradients)


def test_a_class_that_is_nowhere_the_largest_is_left_out():
    logits = torch.zeros(1, 4, 2, 2)
    logits[0, 1] = -1.0  # below the first class everywhere
    logits[0, 2, 1, 1], logits[0, 3] = 5.0, -1.0
    logits[0, 3, 0, 0] = 0.5  # the largest at a corner only
    classes = torch.arange(4)[None]
    assert planes._competing(logits, classes).tolist() == [[True, False, True, True]]
    allowed = torch.ones(1, 4, dtype=torch.bool)
    found = planes.max_over_classes(logits, allowed, (6, 6), chunk=2)
    torch.testing.assert_close(found, upsampled(logits, allowed, (6, 6)))


@pytest.mark.parametrize("count", [1, 3, 39])
def test_only_the_allowed_classes_are_looked_at(count):
    logits = torch.randn(2, 40, 3, 3, generator=torch.Generator().manual_seed(0))
    allowed = torch.zeros(2, 40, dtype=torch.bool)
    allowed[0, -count:], allowed[1, 7] = True, True
    found = planes.max_over_classes(logits, allowed, (9, 9), chunk=4)
    alone = [logits[i, allowed[i]][None] for i in range(2)]
    expected = torch.cat([planes.upsample(part, (9, 9)).amax(dim=1) for part in alone])
    torch.testing.assert_close(found, expected)


def test_max_over_no_class_is_minus_infinity_without_gradient():
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    allowed = torch.tensor([[True, False, False], [False, False, False]])
    masks = planes.max_over_classes(logits, allowed, (4, 4)).sigmoid()
    assert (masks[1] == 0).all()
    masks.sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[1] == 0).all()


def test_a_thousand_classes_need_no_full_resolution_copy():
    logits = torch.randn(1, 1000, 14, 14, requires_grad=True)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.update({t.untyped_storage().data_ptr(): t.numel()}) or t, lambda t: t
    ):
        planes.max_over_classes(logits, torch.ones(1, 1000, dtype=torch.bool), (112, 112))
    assert sum(saved.values()) < 30 * 112 * 112  # of 1000 at full resolution


def test_select_and_gather_pick_the_right_class():
    logits = torch.arange(6.0).view(2, 3, 1, 1).expand(2, 3, 2, 2)
    targets = torch.tensor([[False, True, True], [True, False, False]])
    assert planes.select_classes(logits, targets, (4, 4))[:, 0, 0].tolist() == [1, 2, 3]
    assert planes.gather_classes(logits, torch.tensor([[2, 0], [1, 1]]), (4, 4))[
        ..., 0, 0
    ].tolist() == [[2, 0], [4, 4]]


def test_selected_and_gathered_maps_are_the_upsampled_ones():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[False, True, True], [True, False, False]])
    classes = torch.tensor([[2, 0], [1, 1]])
    large = planes.upsample(logits, (7, 11))
    torch.testing.assert_close(planes.select_classes(logits, targets, (7, 11)), large[targets])
    expected = large[torch.arange(2)[:, None], classes]
    torch.testing.assert_close(planes.gather_classes(logits, classes, (7, 11)), expected)


def test_masks_are_resized_about_the_centres_of_their_pixels():
    masks = torch.tensor([[[0.0, 1.0]], [[4.0, 0.0]]])  # (2, 1, 2)
    found = planes.resize(masks, (1, 4))
    assert found.tolist() == [[[0.0, 0.25, 0.75, 1.0]], [[4.0, 3.0, 1.0, 0.0]]]
    found = planes.resize(masks, (2, 4), "nearest")
    assert found.tolist() == [[[0.0, 0.0, 1.0, 1.0]] * 2, [[4.0, 4.0, 0.0, 0.0]] * 2]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_several_masks_a_row_are_resized_one_by_one(mode):
    masks = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = planes.resize(masks, (7, 6), mode)
    assert found.shape == (2, 3, 7, 6)
    for k in range(3):
        torch.testing.assert_close(found[:, k], planes.resize(masks[:, k], (7, 6), mode))
    torch.testing.assert_close(planes.resize(masks, (4, 5), mode), masks)
