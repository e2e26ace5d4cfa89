"""NEMU and NEMt on the planted classifier."""

import pytest
import torch
from torch.nn import functional as F

from explainers import nem
from explainers.methods.nem_t import NEMt
from explainers.methods.nem_u import NEMU
from tests import planted

SMALL = {"widths": [8] * 4, "dropout": 0.0}


def scores_of(method, scores):
    """Let the network answer with these scores (B, 1, H, W)."""
    method.network = lambda features, size: scores
    return method


def stub(cls, scores, **changes):
    method = cls(planted.explanandum(), **SMALL, **changes)
    del method.network
    return scores_of(method, scores)


def test_nem_u_terms_by_hand():
    images, _ = planted.scenes(2)
    method = stub(NEMU, torch.zeros(2, 1, 32, 32))
    terms = method.loss_terms({"image": images}, torch.Generator())
    # Half of every pixel over black scales the features: the cosine stays 1.
    assert terms["distance"].item() == pytest.approx(0, abs=1e-5)
    assert terms["area"].item() == pytest.approx(0.5 * 0.5)
    mask = planted.quadrant_masks(32, 32)[:1].expand(2, -1, -1)[:, None]
    method = stub(NEMU, 200 * mask - 100, distance=3.0, area=2.0)
    terms = method.loss_terms({"image": images}, torch.Generator())
    whole = nem.representation(method.explanandum, images, -1)
    kept = nem.representation(method.explanandum, images * mask, -1)
    cosine = F.cosine_similarity(whole, kept).mean()
    assert terms["distance"].item() == pytest.approx(3 * (1 - cosine.item()) / 2, rel=1e-4)
    assert terms["area"].item() == pytest.approx(2.0 / 4)


def test_representations_are_pooled():
    explanandum, images = planted.explanandum(), planted.scenes(2)[0]
    level = explanandum.features(images)[1]
    torch.testing.assert_close(nem.representation(explanandum, images, 1), level.mean(dim=(2, 3)))
    named = nem.representation(explanandum, images, "stages.1")
    torch.testing.assert_close(named, level.mean(dim=(2, 3)))
    with pytest.raises(ValueError, match="none of the 4 levels"):
        nem.representation(explanandum, images, 4)


@pytest.mark.parametrize(("objective", "weight"), [("inverse", 50.0), ("original", 2.0)])
def test_nem_t_terms_by_hand(objective, weight):
    images, targets = planted.scenes(2)
    logit = torch.tensor(0.25).logit().item()
    method = stub(NEMt, torch.full((2, 1, 32, 32), logit), objective=objective).eval()
    terms = method.loss_terms({"image": images}, torch.Generator())
    assert terms["area"].item() == pytest.approx(0.75, abs=1e-4)
    left = method.explanandum.probabilities(images * 0.25)[targets]
    whole = method.explanandum.probabilities(images)[targets]
    value = left if objective == "inverse" else 1 - (left - whole) ** 2
    assert terms["class"].item() == pytest.approx(weight * value.mean().item(), rel=1e-3)
    maps = method.attribute(images, targets)
    torch.testing.assert_close(maps, torch.full((2, 32, 32), 0.75), atol=1e-4, rtol=0)


def test_nem_t_smooths_with_a_new_kernel_each_training_step_and_its_own_otherwise():
    method = NEMt(planted.explanandum(), **SMALL, kernel_size=3)
    assert method.kernel.sum().item() == pytest.approx(1)
    point = torch.zeros(1, 1, 5, 5)
    point[0, 0, 0, 0] = 1.0
    del method.network
    scores_of(method, point)
    smooth = method.masks([], torch.Size((5, 5)), method.kernel).logit()[0]
    # A correlation wraps around: the pixel left of and above the point sees the kernel's last.
    assert smooth[-1, -1].item() == pytest.approx(method.kernel[0, 0, 2, 2].item(), abs=1e-5)
    assert smooth[1, 1].item() == pytest.approx(method.kernel[0, 0, 0, 0].item(), abs=1e-5)
    assert smooth[2:4, 2:4].abs().max() < 1e-5
    drawn = []
    method.masks = lambda features, size, kernel: drawn.append(kernel) or torch.ones(2, 32, 32)
    images, _ = planted.scenes(2)
    for seed in (0, 1):
        method.train().loss_terms({"image": images}, torch.Generator().manual_seed(seed))
    method.eval().loss_terms({"image": images}, torch.Generator().manual_seed(2))
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[2], method.kernel)
    with pytest.raises(ValueError, match="odd"):
        NEMt(planted.explanandum(), **SMALL, kernel_size=4)


def test_nem_t_learns_where_the_evidence_is():
    torch.manual_seed(0)
    method = NEMt(planted.explanandum(), **SMALL, optimizer="adamw", lr=1e-2)
    optimizer = method.configure_optimizers()["optimizer"]
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        terms = method.loss_terms({"image": planted.scenes(8, seed=step)[0]}, generator)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    images, targets = planted.scenes(8, seed=1000)
    maps = method.eval().attribute(images, targets).detach()
    assert 0 <= float(maps.min()) <= float(maps.max()) <= 1
    inside = torch.einsum("bhw,khw->bk", maps, planted.quadrant_masks(32, 32)) / 256
    assert inside[targets].mean() > 1.5 * inside[~targets].mean()
