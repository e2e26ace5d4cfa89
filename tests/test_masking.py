import torch

from explainers import masking


def test_blend_keeps_where_the_mask_is_one():
    image = torch.full((1, 3, 1, 2), 0.8)
    fill = torch.full((1, 3, 1, 1), 0.2)
    blended = masking.blend(image, torch.tensor([[[1.0, 0.5]]]), fill)
    torch.testing.assert_close(blended[0, 0], torch.tensor([[0.8, 0.5]]))


def test_merge_takes_the_maximum_over_true_targets_and_zero_without_any():
    masks = torch.tensor([[[[0.2, 0.9]], [[0.6, 0.1]], [[1.0, 1.0]]]]).expand(2, -1, -1, -1)
    targets = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(masking.merge(masks, targets)[0], torch.tensor([[0.6, 0.9]]))
    torch.testing.assert_close(masking.merge(masks, targets)[1], torch.zeros(1, 2))


def test_minmax_scales_each_map_alone():
    maps = torch.tensor([[[-1.0, 1.0]], [[5.0, 5.0]], [[0.0, 4.0]]])
    torch.testing.assert_close(
        masking.minmax(maps)[:, 0], torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    )


def test_blur_fades_to_the_mean_at_the_border_and_keeps_its_inside():
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    flat = mean.expand(1, 3, 21, 21)
    torch.testing.assert_close(masking.blur(flat, 5, 1.0, mean), flat)
    white = masking.blur(torch.ones(1, 3, 21, 21), 5, 1.0, mean)
    torch.testing.assert_close(white[0, :, 10, 10], torch.ones(3))
    tap = torch.exp(-(torch.tensor([0.0, 1.0, 2.0]) ** 2) / 2)
    inside = (tap.sum() / (2 * tap.sum() - 1)) ** 2  # of the kernel, at a corner
    torch.testing.assert_close(white[0, :, 0, 0], mean.flatten() + (1 - mean.flatten()) * inside)
