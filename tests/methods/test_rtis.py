import pytest
import torch

from explainers.methods.rtis import RTIS, alternative
from tests import planted

SMALL = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]}
}


def test_terms_by_hand(monkeypatch):
    method = RTIS(planted.explanandum(), **SMALL)
    mask = torch.tensor([[0.75, 0.25], [0.25, 0.25]], dtype=torch.double)
    logits = torch.full((1, 4, 2, 2), -9.0, dtype=torch.double)
    logits[0, 0] = mask.logit()
    method.network.forward = lambda inputs: logits
    method = method.double()
    monkeypatch.setattr(
        "explainers.methods.rtis.alternative", lambda images, *_: torch.zeros_like(images)
    )
    monkeypatch.setattr(torch, "randn", lambda shape, generator: torch.zeros(shape))
    batch = {
        "image": torch.full((1, 3, 2, 2), 0.5).double(),
        "target": torch.tensor([[True, False, False, False]]),
    }
    terms = {k: v.item() for k, v in method.loss_terms(batch, torch.Generator()).items()}
    kept, removed = (10 * m.flatten() for m in (mask, 1 - mask))
    assert terms["preserver"] == pytest.approx(-kept.log_softmax(0)[0].item(), rel=1e-5)
    assert terms["destroyer"] == pytest.approx(
        5 * (removed.softmax(0)[0].item() + 1e-6) ** 0.3, rel=1e-5
    )
    assert terms["area"] == pytest.approx(0.375 + 5e-4)
    assert terms["tv"] == pytest.approx(10 * 2 * 0.25 / 4)


def test_an_image_without_a_target_adds_no_class_terms_and_no_nan():
    method = RTIS(planted.explanandum(), **SMALL)
    images, targets = planted.scenes(2)
    targets[1] = False
    terms = method.loss_terms(
        {"image": images, "target": targets}, torch.Generator().manual_seed(0)
    )
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_alternatives_are_repeatable_and_of_both_kinds():
    mean, std = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25)
    images = torch.rand(40, 3, 32, 32)
    first = alternative(images, mean, std, torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        first, alternative(images, mean, std, torch.Generator().manual_seed(3))
    )
    spread = first.std(dim=(1, 2, 3))
    plain = first[(first - mean).abs().amax(dim=(1, 2, 3)) > 0]
    assert len(plain) == 40
    # Colours lie within 0.33 std of the mean, up to noise; blurred images keep the photo's mean
    # instead.
    colours = (first.mean(dim=(2, 3)) - 0.5).abs().amax(dim=1)
    assert colours.max() < 0.25 * 0.33 + 0.35
    assert spread.min() > 0
