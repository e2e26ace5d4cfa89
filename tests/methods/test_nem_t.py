import pytest
import torch
from torch.nn import functional as F

from explainers.methods.nem_t import NEMt, around
from tests import planted

SMALL = {"network": {"widths": [16, 16, 16, 16]}}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("objective", "loss"),
    [("inverse", "row"), ("inverse", "crossed"), ("original", "row"), ("original", "crossed")],
)
def test_terms_by_hand(objective, loss):
    method = NEMt(planted.explanandum(), objective=objective, loss=loss, **SMALL)
    images, _ = planted.scenes(2)
    mask = torch.rand(2, 32, 32, generator=seeded())
    method.masks = lambda *_: mask
    terms = method.loss_terms({"image": images}, seeded())
    whole = method.explanandum.probabilities(images)
    left = method.explanandum.probabilities(images * mask[:, None])  # the mean is 0
    p, q = [left[0, 0].item(), left[1, 1].item()], [whole[0, 0].item(), whole[1, 1].item()]
    if (objective, loss) == ("original", "crossed"):
        pairs = [(left[i, k].item(), whole[i, k].item()) for i in range(2) for k in range(2)]
        expected = 2 * sum(1 - (a - b) ** 2 for a, b in pairs) / 4
    elif objective == "original":
        expected = 2 * sum(1 - (a - b) ** 2 for a, b in zip(p, q, strict=True)) / 2
    elif loss == "row":
        expected = 50 * sum(p) / 2
    else:
        expected = 50 * left[:, :2].mean().item()
    assert terms["class"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["area"].item() == pytest.approx(1 - mask.mean().item(), rel=1e-5)


def test_the_compared_loss_is_the_released_one_but_for_a_constant():
    """Ra-NEM's comparison writes 2 - (mean(mask) + 50 (1 - p)): ours is 49 more."""
    method = NEMt(planted.explanandum(), **SMALL)
    images, _ = planted.scenes(2)
    mask = torch.rand(2, 32, 32, generator=seeded())
    method.masks = lambda *_: mask
    ours = sum(method.loss_terms({"image": images}, seeded()).values()).item()
    p = method.explanandum.probabilities(images * mask[:, None])[[0, 1], [0, 1]].mean().item()
    assert ours == pytest.approx(49 + 2 - (mask.mean().item() + 50 * (1 - p)), abs=1e-4)
    assert method.kernel.shape == (1, 1, 21, 21)


def test_a_random_kernel_smooths_the_scores_around_the_borders():
    method = NEMt(planted.explanandum(), kernel_size=3, **SMALL)
    scores = torch.zeros(1, 1, 5, 7)
    scores[0, 0, 0, 0] = 1.0
    method.network.forward = lambda *_: scores
    kernel = method.draw_kernel(seeded(3))
    assert kernel.sum().item() == pytest.approx(1)
    assert kernel.min() >= 0
    smooth = method.masks([], scores.shape[-2:], kernel).logit()[0]
    expected = torch.zeros(5, 7)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            expected[-dy, -dx] = kernel[0, 0, 1 + dy, 1 + dx]
    torch.testing.assert_close(smooth, expected, rtol=0, atol=1e-6)


def test_the_kernel_is_new_in_each_training_step_and_fixed_otherwise():
    method, used = NEMt(planted.explanandum(), seed=4, **SMALL), []
    inner = method.masks
    method.masks = lambda features, size, kernel: (
        used.append(kernel) or inner(features, size, kernel)
    )
    images, targets = planted.scenes(2)
    for mode, seed in ((True, 1), (True, 2), (False, 3)):
        method.train(mode).loss_terms({"image": images}, seeded(seed))
    method.attribute(images, targets)
    torch.testing.assert_close(used[0], method.draw_kernel(seeded(1)))
    assert not torch.equal(used[0], used[1])
    torch.testing.assert_close(used[2], method.draw_kernel(seeded(4)))
    assert torch.equal(used[2], used[3])


def test_it_finds_what_the_class_depends_on():
    torch.manual_seed(0)
    method = NEMt(planted.explanandum("vit"), kernel_size=3, **SMALL)
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for step in range(60):
        images, _ = planted.scenes(8, seed=step + 1)
        loss = sum(method.loss_terms({"image": images}, seeded(step)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, targets = planted.scenes(4, seed=999)
    with torch.no_grad():
        maps = method.eval().attribute(images, targets)
    mass = (maps[:, None] * planted.quadrant_masks(32, 32)).sum(dim=(2, 3))
    assert (mass.argmax(dim=1) == targets.int().argmax(dim=1)).all()
    assert 0 <= maps.min() <= maps.max() <= 1


def test_another_class_is_warned_of_and_wrong_arguments_are_refused():
    images, targets = planted.scenes(2)
    with pytest.warns(UserWarning, match="NEMt explains the predicted class only"):
        NEMt(planted.explanandum(), **SMALL).eval().attribute(images, targets.roll(1, 1))
    for wrong, message in (({"kernel_size": 4}, "odd"), ({"objective": "both"}, "objective")):
        with pytest.raises(ValueError, match=message):
            NEMt(planted.explanandum(), **wrong)


def test_kernels_wrap_around_however_small_the_image_is():
    maps = torch.rand(2, 1, 12, 11, generator=seeded())
    assert torch.equal(around(maps, 10), F.pad(maps, [10] * 4, mode="circular"))
    pair = torch.tensor([[[[1.0, 2.0]]]])
    assert around(pair, 3).tolist() == [[[[2, 1, 2, 1, 2, 1, 2, 1]] * 7]]


@pytest.mark.parametrize("side", [1, 2, 3, 7, 8, 9])
def test_small_images_are_explained_and_learned_from(side):
    method = NEMt(planted.explanandum(), **SMALL)
    images, _ = planted.scenes(2, (side, side))
    loss = sum(method.loss_terms({"image": images}, seeded()).values())
    loss.backward()
    assert loss.isfinite()
    maps = method.eval().attribute(images, method.explanandum.predict(images))
    assert maps.shape == (2, side, side)
    kernel = method.draw_kernel(seeded())
    method.network.forward = lambda features, size: torch.full((2, 1, *size), 0.7)
    found = method.masks([], images.shape[-2:], kernel)  # the kernel's sum is 1
    torch.testing.assert_close(found, torch.full_like(found, 0.7).sigmoid())
