import pytest
import torch

from explainers.methods.nem_t import NEMt
from tests import planted

SMALL = {"network": {"widths": [16, 16, 16, 16]}}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("objective", "loss"), [("inverse", "row"), ("inverse", "crossed"), ("original", "row")]
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
    if objective == "original":
        expected = 2 * sum(1 - (a - b) ** 2 for a, b in zip(p, q, strict=True)) / 2
    elif loss == "row":
        expected = 50 * sum(p) / 2
    else:
        expected = 50 * left[:, :2].mean().item()
    assert terms["class"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["area"].item() == pytest.approx(1 - mask.mean().item(), rel=1e-5)


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
