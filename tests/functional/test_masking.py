import torch

from explainers.functional import masking


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


def test_minmax_keeps_what_is_not_finite_and_scales_the_rest():
    nan, inf = torch.nan, torch.inf
    maps = torch.tensor([[[nan, 1.0, 5.0]], [[inf, 2.0, -inf]], [[nan, nan, inf]]])
    expected = torch.tensor([[[nan, 0.0, 1.0]], [[inf, 0.0, -inf]], [[nan, nan, inf]]])
    torch.testing.assert_close(masking.minmax(maps), expected, equal_nan=True)
