"""Attention rollout on uniform attention, where it is known, and against whole matrix products."""

import pytest
import torch
from torch.nn import functional as F

from explainers import Explanandum
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.taps import counted
from explainers.methods.rollout import AttentionRollout
from tests import planted


def test_uniform_attention_by_hand():
    # With U = 1/65 everywhere, U U = U, so that ((U + I) / 2)^2 = (3 U + I) / 4.
    images, targets = planted.scenes(2)
    found = AttentionRollout(planted.explanandum("vit")).attribute(images, targets)
    torch.testing.assert_close(found, torch.full((2, 32, 32), 0.75 / 65))


def test_it_is_the_product_of_all_layers_and_the_same_for_every_class():
    torch.manual_seed(0)
    explanandum = Explanandum("test_vit", num_classes=5)
    images = torch.rand(2, 3, 160, 160)
    seen = []
    for block in explanandum.model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call: seen.append(call[2]))
    method = AttentionRollout(explanandum)
    seen.clear()
    with counted(explanandum.model) as counts:
        found = method.class_maps(images, torch.tensor([[0, 3], [1, 1]]))
    assert counts == [2, 0]
    product = torch.eye(101)
    for matrix in seen:
        layer = matrix.mean(dim=1) + torch.eye(101)
        product = layer / layer.sum(dim=2, keepdim=True) @ product
    row = product[:, 0, 1:].view(2, 1, 10, 10)
    expected = F.interpolate(row, scale_factor=16, mode="bilinear").expand(2, 2, 160, 160)
    torch.testing.assert_close(found, expected)


def test_a_network_without_attention_is_refused():
    with pytest.raises(NotDefinedError, match="PlantedCNN has no attention"):
        AttentionRollout(planted.explanandum("cnn"))
