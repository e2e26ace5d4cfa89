"""GAE on planted attention by hand, and against the recursion of the paper."""

import torch
from torch.nn import functional as F

from explainers import Explanandum
from explainers.explanandum.taps import counted
from explainers.methods.gae import GAE
from tests import planted

COUNT = 65  # tokens of the planted network for 32 x 32 pixels: one of the class, 8 x 8 patches


def test_planted_attention_by_hand():
    images, targets = planted.scenes(4)
    labels = targets.int().argmax(dim=1)
    bright = (images.mean(dim=1) * planted.quadrant_masks(32, 32)[labels])[:, None]
    tokens = F.pad(F.avg_pool2d(bright, 4).flatten(1), (1, 0))  # of the class, in its channel
    scale = planted.SCALE * 4 * COUNT / (3 * 64)
    own = torch.eye(COUNT)[0]  # the row of the class token counts once more
    # d logit / d A_1[i, j] = token j times d logit / d (token i after the first block).
    first = (1 / COUNT + own)[:, None] * tokens[:, None] * scale / COUNT
    second = (tokens + tokens.mean(dim=1, keepdim=True)) * scale / COUNT
    rows = first[:, 0] + second + (second[:, None] @ first)[:, 0]
    expected = F.interpolate(rows[:, None, 1:].unflatten(2, (8, 8)), size=32, mode="bilinear")
    found = GAE(planted.explanandum("vit")).attribute(images, targets)
    torch.testing.assert_close(found, expected[:, 0])


def test_it_is_the_recursion_of_the_paper():
    torch.manual_seed(0)
    explanandum = Explanandum("test_vit", num_classes=5)
    images, method = torch.rand(2, 3, 160, 160), GAE(explanandum)
    with counted(explanandum.model) as counts:
        found = method.class_maps(images, torch.tensor([[0, 3], [4, 1]]))
    assert counts == [2, 4]
    seen = []

    def keep(_, __, output):
        seen.append(output if output.requires_grad else output.requires_grad_())
        seen[-1].retain_grad()

    for block in explanandum.model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(keep)
    for i, k, label in ((0, 0, 0), (0, 1, 3), (1, 0, 4), (1, 1, 1)):
        seen.clear()
        explanandum(images[i : i + 1])[0, label].backward()
        relevance = torch.eye(101)
        for matrix in seen:
            step = (matrix.grad * matrix).detach().clamp(min=0)[0].mean(dim=0)
            relevance = relevance + step @ relevance
        row = relevance[0, 1:].view(1, 1, 10, 10)
        expected = F.interpolate(row, scale_factor=16, mode="bilinear")[0, 0]
        torch.testing.assert_close(found[i, k], expected, rtol=1e-4, atol=1e-5 * expected.max())
