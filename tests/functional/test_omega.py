import math

import pytest
import torch

from explainers.functional import omega as module
from explainers.functional.omega import draw_k, gumbel, omega


def algorithm_1(a, x, k, r, u, position):
    """The paper's listing, line by line, with its noise `u`; `position` is what `A[k]` reads."""
    a = a - a.logsumexp(dim=0)
    g = -torch.log(-torch.log(u))
    a = a + g
    a, indices = torch.sort(a, descending=True)
    a = a - a[position]
    a = torch.sigmoid(a)
    mask = a - a.detach()
    mask[:k] += 1
    m = torch.zeros_like(a)
    m[indices] = mask
    return x * m + r * (1 - m)


@pytest.mark.parametrize("threshold", ["kth", "next"])
@pytest.mark.parametrize("shared", [False, True])
def test_masks_and_gradients_are_those_of_algorithm_1(threshold, shared):
    generator = torch.Generator().manual_seed(0)
    shape, samples = (3, 7, 9), 4

    def draw(*size):
        return torch.rand(*size, generator=generator, dtype=torch.double)

    scores = (4 * draw(*shape) - 2).requires_grad_()
    images, fill, weight = draw(*shape), draw(*shape), draw(3, samples, 7, 9)
    u = draw(3, 1 if shared else samples, 7, 9)
    k = torch.tensor([[1, 20, 40, 62], [5, 5, 61, 2], [33, 62, 7, 8]])
    masks = omega(scores, k, -torch.log(-torch.log(u)), threshold)
    ours = images[:, None] * masks + fill[:, None] * (1 - masks)
    literal = torch.zeros_like(ours)
    for i in range(3):
        for s in range(samples):
            one = int(k[i, s])
            literal[i, s] = algorithm_1(
                scores[i].flatten(),
                images[i].flatten(),
                one,
                fill[i].flatten(),
                u[i, 0 if shared else s].flatten(),
                one if threshold == "next" else one - 1,
            ).view(7, 9)
    assert torch.equal(masks.sum(dim=(2, 3)).long(), k)
    assert set(masks.unique().tolist()) == {0, 1}
    torch.testing.assert_close(ours, literal, rtol=0, atol=1e-15)
    found, expected = (torch.autograd.grad((o * weight).sum(), scores)[0] for o in (ours, literal))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_conventions_differ_in_the_gradient_and_in_the_range_of_k():
    scores = torch.tensor([[[3.0, 2.0, 1.0, 0.0]]], requires_grad=True)
    grads = {}
    for threshold in ("kth", "next"):
        mask = omega(scores, torch.tensor([[2]]), threshold=threshold)
        assert mask.flatten().tolist() == [1, 1, 0, 0]
        grads[threshold] = torch.autograd.grad(mask[0, 0, 0, 0], scores)[0].flatten()
    slope = [math.exp(-d) / (1 + math.exp(-d)) ** 2 for d in (1.0, 2.0)]  # sigmoid'(d)
    assert grads["kth"].tolist() == pytest.approx([slope[0], -slope[0], 0, 0])
    assert grads["next"].tolist() == pytest.approx([slope[1], 0, -slope[1], 0])
    assert omega(scores, torch.tensor([[4]])).sum() == 4
    assert omega(scores, torch.tensor([[0]]), threshold="next").sum() == 0
    for threshold, k, told in (("kth", 0, r"\[1, 4\]"), ("next", 4, r"\[0, 3\]")):
        with pytest.raises(ValueError, match=told):
            omega(scores, torch.tensor([[k]]), threshold=threshold)


def test_of_pixels_that_equal_the_threshold_one_convention_keeps_all_and_the_other_none():
    scores = torch.tensor([[[2.0, 1.0, 1.0, 0.0]]])
    assert omega(scores, torch.tensor([[2]])).flatten().tolist() == [1, 1, 1, 0]
    assert omega(scores, torch.tensor([[2]]), threshold="next").flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("rows", [1, 3])
def test_sorting_and_partitioning_agree(rows):
    """The first serves accelerators, the second the CPU."""
    values = torch.randn(2, rows, 50)
    ranks = torch.tensor([[0, 49, 7], [3, 3, 20]])
    sorted_, partitioned = module._by_sort(values, ranks), module._by_partition(values, ranks)
    for a, b in zip(sorted_, partitioned, strict=True):
        assert a.shape == b.shape == (2, 3, 1)
        assert torch.equal(a, b)
    row = values[1, min(1, rows - 1)]
    assert sorted_[0][1, 1] == row.sort(descending=True).values[3] == row[sorted_[1][1, 1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = (30 * torch.randn(2, 40, 40, generator=generator)).to(dtype).requires_grad_()
    k, noise = torch.tensor([[700, 3], [1, 1600]]), gumbel((2, 2, 40, 40), generator)
    with torch.autocast("cpu", torch.bfloat16):
        masks = omega(scores, k, noise)
    assert masks.dtype == torch.float32
    assert torch.equal(masks, omega(scores.float(), k, noise))
    assert torch.equal(masks.sum(dim=(2, 3)).long(), k)
    masks[:, :, :20].sum().backward()
    assert scores.grad.dtype == dtype
    assert scores.grad.isfinite().all()


def test_noise_is_gumbel_and_the_first_pixel_a_draw_from_the_softmax():
    generator = torch.Generator().manual_seed(0)
    noise = gumbel((40_000, 1, 2, 2), generator)
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.03)
    scores = torch.tensor([[[0.0, 1.0], [-1.0, 0.5]]])
    first = omega(scores.expand(40_000, 2, 2), torch.ones(40_000, 1, dtype=torch.int64), noise)
    torch.testing.assert_close(
        first.mean(dim=(0, 1)), scores.flatten().softmax(0).view(2, 2), rtol=0, atol=0.01
    )
    again = gumbel((40_000, 1, 2, 2), torch.Generator().manual_seed(0))
    assert torch.equal(noise, again)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_noise_is_finite_at_the_ends_of_the_uniform(value, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, value))
    assert gumbel((3,)).isfinite().all()


def test_shared_noise_gives_nested_masks():
    generator = torch.Generator().manual_seed(0)
    masks = omega(
        torch.zeros(1, 8, 8), torch.tensor([[5, 50, 20]]), gumbel((1, 1, 8, 8), generator)
    )[0]
    assert (masks[0] <= masks[2]).all()
    assert (masks[2] <= masks[1]).all()


def test_k_is_stratified_or_uniform():
    generator = torch.Generator().manual_seed(0)
    k = draw_k(4000, 3, 10, "stratified", generator)
    bins = [k[:, j].unique().tolist() for j in range(3)]
    assert bins == [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10]]  # 10 / 3 a bin, so ends are shared
    counts = torch.bincount(k.flatten(), minlength=11)[1:] / k.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1), rtol=0, atol=0.01)
    k = draw_k(4000, 3, 10, "uniform", generator)
    counts = torch.bincount(k.flatten(), minlength=11)[1:] / k.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1), rtol=0, atol=0.01)
    assert (k[:, 0] == k[:, 1]).any()  # with replacement
    with pytest.raises(ValueError, match="fewer samples"):
        draw_k(1, 11, 10, "stratified", generator)


def test_parts_are_the_released_ones_to_a_few_pixels():
    """There, part j of 6 of 224 x 224 pixels is [8362 j, 8362 (j + 1)); four pixels are left."""
    k = draw_k(20_000, 6, 224 * 224, "stratified", torch.Generator().manual_seed(0))
    for part in range(6):
        lowest, highest = int(k[:, part].min()), int(k[:, part].max())
        assert 8362 * part < lowest < 8362 * part + 10  # of 20 000 draws from 8363 numbers
        assert 8362 * (part + 1) - 10 < highest <= 8362 * (part + 1) + 4


@pytest.mark.parametrize(
    ("k", "noise", "message"),
    [
        (torch.ones(1, 2, dtype=torch.int64), None, r"k \(2, S\) int64"),
        (torch.ones(2, 2), None, "float32"),
        (torch.ones(2, 2, dtype=torch.int64), torch.zeros(2, 3, 4, 4), "noise"),
        (torch.tensor([[1, 17], [1, 1]]), None, "1 to 17"),
    ],
)
def test_wrong_arguments_are_refused(k, noise, message):
    with pytest.raises(ValueError, match=message):
        omega(torch.zeros(2, 4, 4), k, noise)
