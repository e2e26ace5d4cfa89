"""T-Attr on planted attention by hand, and against its rules in another form, by autograd."""

import pytest
import torch
from timm.models import create_model
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.taps import counted
from explainers.methods.t_attr import TAttr
from tests import planted

SMALL = {"embed_dim": 32, "num_heads": 2, "depth": 3}
COUNT = 65  # tokens of the planted network for 32 x 32 pixels


def network(name: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    built = create_model(name, num_classes=5, **{**SMALL, **arguments})
    for weight in built.parameters():  # layer scales and biases count, too
        nn.init.normal_(weight, std=0.2)
    return built


def test_planted_attention_by_hand():
    images, targets = planted.scenes(4)
    labels = targets.int().argmax(dim=1)
    bright = (images.mean(dim=1) * planted.quadrant_masks(32, 32)[labels])[:, None]
    tokens = F.avg_pool2d(bright, 4).flatten(1)  # in the channel of the class
    mean = tokens.sum(dim=1, keepdim=True) / COUNT
    # Before the last block, patches hold x + m and the class token m. Its relevance 1 is that of
    # m + 2 m, where 2 m is the attended mean, so that 2 / 3 go to the attention and half of it
    # to its matrix: (1 / 65) (x + m) (2 / 3) / (2 m) / 2.
    relevance = (tokens + mean) / (COUNT * 6 * mean)
    slope = (tokens + mean) * planted.SCALE * 4 * COUNT / (3 * 64)
    rows = (relevance * slope).unflatten(1, (8, 8))
    expected = F.interpolate(rows[:, None], size=32, mode="bilinear")[:, 0]
    found = TAttr(planted.explanandum("vit")).attribute(images, targets)
    torch.testing.assert_close(found, expected)


# The rules once more, for one image: R_in is the input times the gradient of the outputs, each
# weighted by its relevance divided by its value.


def through_linear(layer, inputs, relevance):
    parts = [inputs.clamp(min=0), inputs.clamp(max=0)]
    parts = [part.detach().requires_grad_() for part in parts]
    weights = [layer.weight.clamp(min=0), layer.weight.clamp(max=0)]
    output = sum(F.linear(*pair) for pair in zip(parts, weights, strict=True))
    slopes = torch.autograd.grad(output, parts, relevance / output.detach())
    return sum(part * slope for part, slope in zip(parts, slopes, strict=True)).detach()


def through_product(product, first, second, relevance):
    pair = [first.detach().requires_grad_(), second.detach().requires_grad_()]
    output = product(*pair)
    slopes = torch.autograd.grad(output, pair, relevance / output.detach())
    return [(x * slope / 2).detach() for x, slope in zip(pair, slopes, strict=True)]


def through_sum(first, second, relevance):
    parts = [x * relevance / (first + second) for x in (first, second)]
    size = sum(part.sum().abs() for part in parts)
    return [part * part.sum().sign() / size * relevance.sum() for part in parts]


def by_autograd(model, inputs, label, start):
    """The map (h, w) of one normalized image, with a forward pass by hand."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(inputs)))
    kept, matrices = [], []
    for block in model.blocks:
        before, normed = tokens, block.norm1(tokens)
        q, k, v = block.attn.qkv(normed).view(1, -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
        matrix = (q @ k.mT / 4).softmax(dim=-1)
        matrix = matrix if matrix.requires_grad else matrix.requires_grad_()
        matrices.append(matrix)
        mixed = (matrix @ v).transpose(1, 2).flatten(2)
        branch = block.ls1(block.attn.proj(mixed))
        middle = before + branch
        second = block.norm2(middle)
        hidden = block.mlp.act(block.mlp.fc1(second))
        last = block.ls2(block.mlp.fc2(hidden))
        tokens = middle + last
        saved = (before, normed, q, k, v, matrix, mixed, branch, middle, second, hidden, last)
        kept.append([x.detach() for x in saved])
    read = model.fc_norm(model.norm(tokens))
    heads = [model.head, *([model.head_dist] if hasattr(model, "head_dist") else [])]
    logits = [head(read[:, i]) for i, head in enumerate(heads)]
    slopes = torch.autograd.grad(sum(logits)[0, label] / len(heads), matrices)
    one = torch.eye(5)[label][None]
    # All relevance is that of one logit: the quotient of each term and the sum, in absolute value.
    sizes = [float(each[0, label].detach().abs()) for each in logits]
    own = [size / sum(sizes) for size in sizes]
    relevance = torch.zeros_like(tokens)
    for i, head in enumerate(heads):
        relevance[:, i] = through_linear(head, read[:, i], own[i] * one)
    product = torch.eye(tokens.shape[1])
    for block, saved, slope in zip(model.blocks[::-1], kept[::-1], slopes[::-1], strict=True):
        before, normed, q, k, v, matrix, mixed, branch, middle, second, hidden, last = saved
        past, rest = through_sum(middle, last, relevance)
        rest = through_linear(block.mlp.fc2, hidden, rest)
        relevance = past + through_linear(block.mlp.fc1, second, rest)
        past, rest = through_sum(before, branch, relevance)
        rest = through_linear(block.attn.proj, mixed, rest).view(1, -1, 2, 16).transpose(1, 2)
        part, of_v = through_product(torch.matmul, matrix, v, rest)
        of_q, of_k = through_product(lambda a, b: a @ b.mT, q, k, part)
        packed = torch.cat([x.transpose(1, 2).flatten(2) for x in (of_q, of_k, of_v)], dim=2)
        relevance = past + through_linear(block.attn.qkv, normed, packed)
        if len(kept) > start:
            layer = (part * slope).clamp(min=0)[0].mean(dim=0)
            product = product @ (layer + torch.eye(len(layer)))
        kept = kept[:-1]
    return product[: len(heads)].mean(dim=0)[model.num_prefix_tokens :].detach()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 64),
        ("deit_tiny_distilled_patch16_224", 64),
        ("vit_small_patch14_reg4_dinov2", 56),
    ],
)
def test_it_follows_the_rules_for_each_image_alone(name, size):
    explanandum = Explanandum(network(name, img_size=size))
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([[0, 3], [4, 1]])
    for start in (0, 1):
        method = TAttr(explanandum, start)
        with counted(explanandum.model) as counts:
            found = method.class_maps(images, classes)
        assert counts == [2, 4]
        for i, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
            inputs = explanandum.normalize(images[i : i + 1])
            rows = by_autograd(explanandum.model, inputs, int(classes[i, k]), start)
            expected = F.interpolate(rows.view(1, 1, 4, 4), size=size, mode="bilinear")[0, 0]
            slack = 1e-4 * float(expected.max())
            torch.testing.assert_close(found[i, k], expected, rtol=0, atol=slack)


def test_the_classes_that_are_kept_have_the_maps_of_their_outputs():
    model = network("vit_tiny_patch16_224", img_size=64)
    images = torch.rand(1, 3, 64, 64)
    whole = TAttr(Explanandum(model)).class_maps(images, torch.tensor([[3, 1]]))
    part = Explanandum(model, classes=[3, 1])
    found = TAttr(part).class_maps(images, torch.tensor([[0, 1]]))
    torch.testing.assert_close(found, whole)
    single = network("vit_tiny_patch16_224", img_size=64)
    single.head = nn.Linear(32, 1)
    single.head.weight.data = model.head.weight.data[3:4].clone()
    single.num_classes = 1
    found = TAttr(Explanandum(single)).class_maps(images, torch.tensor([[1, 0]]))
    torch.testing.assert_close(found[:, 0], whole[:, 0])
    assert found[:, 1].abs().max() == 0  # its logit is always 0


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        (
            "eva02_tiny_patch14_224",
            {"img_size": 56, "global_pool": "token"},
            "timm.models.eva.EvaBlock",
        ),
        (
            "beit_base_patch16_224",
            {"img_size": 64, "global_pool": "token"},
            "timm.models.beit.Block",
        ),
        (
            "vit_small_patch16_dinov3",
            {"img_size": 64, "global_pool": "token"},
            "timm.models.eva.EvaBlock",
        ),
        ("vit_base_patch16_siglip_224", {"img_size": 64}, "not computed from the class token"),
        ("vit_tiny_patch16_224", {"img_size": 64, "qk_norm": True}, "attn.q_norm is a norm"),
    ],
)
def test_networks_without_rules_are_refused(name, arguments, reason):
    explanandum = Explanandum(network(name, **arguments))
    with pytest.raises(NotDefinedError, match=rf"T-Attr has rules only for.*{reason}"):
        TAttr(explanandum)


@pytest.mark.parametrize("start", [-1, 2])
def test_the_start_is_checked(start):
    with pytest.raises(ValueError, match=rf"start_layer must lie in \[0, 1\], got {start}"):
        TAttr(planted.explanandum("vit"), start)
