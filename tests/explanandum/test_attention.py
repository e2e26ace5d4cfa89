"""The tap of the attention on families of timm and on torchvision's, and maps by hand."""

import pytest
import torch
from timm.models import create_model
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from explainers import Explanandum
from explainers.explanandum import attention
from explainers.explanandum.attention import AttentionLayers
from explainers.explanandum.features import NotDefinedError
from tests import planted

SMALL = {"embed_dim": 32, "num_heads": 2, "depth": 3}
FAMILIES = {  # architecture, size, number of tokens in front of the patches, those that are read
    "vit_tiny_patch16_224": (64, 1, (0, 1)),
    "deit_tiny_distilled_patch16_224": (64, 2, (0, 2)),
    "vit_small_patch14_reg4_dinov2": (56, 5, (0, 1)),
    "eva02_tiny_patch14_224": (56, 1, (1, None)),
    "beit_base_patch16_224": (64, 1, (1, None)),
    "vit_small_patch16_dinov3": (64, 5, (5, None)),
    "vit_base_patch16_siglip_224": (64, 0, (0, None)),
}


def family(name: str) -> Explanandum:
    torch.manual_seed(0)
    network = create_model(name, img_size=FAMILIES[name][0], num_classes=5, **SMALL)
    return Explanandum(network)


def torchvision_vit() -> Explanandum:
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 3, 2, 32, 64, num_classes=5)
    nn.init.normal_(network.heads.head.weight)
    return Explanandum(network, mean=[0.5] * 3, std=[0.5] * 3, input_size=[32, 32])


def noise(explanandum: Explanandum, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, *explanandum.input_size, generator=generator)


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize("name", [*FAMILIES, "torchvision"])
def test_the_tap_sees_a_softmax_and_leaves_the_logits_alone(name):
    explanandum = torchvision_vit() if name == "torchvision" else family(name)
    images, model = noise(explanandum), explanandum.model
    layers = attention.of(explanandum)
    expected = (1, (0, 1)) if name == "torchvision" else FAMILIES[name][1:]
    assert (layers.prefix, layers.read) == expected
    assert attention.of(explanandum) is layers
    plain = explanandum(images)
    with attention.tapped(model, layers.names) as taps:
        logits = explanandum(images)
    torch.testing.assert_close(logits, plain, rtol=0, atol=1e-5)
    assert list(taps) == layers.names
    patches = 16
    for matrix in taps.values():
        assert matrix.shape == (2, 2, layers.prefix + patches, layers.prefix + patches)
        torch.testing.assert_close(matrix.sum(dim=-1), torch.ones_like(matrix[..., 0]))
    for slope in torch.autograd.grad(logits[:, 1].sum(), list(taps.values())):
        assert slope.abs().max() > 0
    assert hooks(model) == 0
    assert torch.equal(explanandum(images), plain)  # fused again


def test_the_attention_of_torch_s_module_is_what_it_returns_itself():
    explanandum = torchvision_vit()
    first = explanandum.model.encoder.layers[0]
    seen = []
    hook = first.ln_1.register_forward_hook(lambda *call: seen.append(call[2]))
    with attention.tapped(explanandum.model, attention.of(explanandum).names[:1]) as taps:
        explanandum(noise(explanandum))
    hook.remove()
    x = seen[-1]
    expected = first.self_attention(x, x, x, need_weights=True, average_attn_weights=False)[1]
    torch.testing.assert_close(next(iter(taps.values())), expected)
    tokens = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False
    )
    x = torch.rand(5, 2, 8)  # with the batch in the second place
    tokens.requires_grad_(False).eval()
    names = [f"layers.{i}.self_attn" for i in range(2)]
    with attention.tapped(tokens, names) as taps:
        torch.testing.assert_close(tokens(x), tokens(x.clone().requires_grad_()).detach())
    assert [matrix.shape for matrix in taps.values()] == [(2, 2, 5, 5)] * 2


def test_a_change_is_what_the_network_uses_and_is_differentiated():
    explanandum = planted.explanandum("vit")
    images, _ = planted.scenes(2)
    names = attention.of(explanandum).names
    with attention.tapped(explanandum.model, names, lambda n, a: a * (n == names[0])) as taps:
        logits = explanandum(images)
    assert taps[names[1]].abs().max() == 0
    torch.testing.assert_close(logits, explanandum(images) / 3)  # the class token holds one mean
    slopes = torch.autograd.grad(logits[:, 0].sum(), list(taps.values()))
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_nothing_is_left_after_an_error():
    model = planted.explanandum("vit").model
    names = ["blocks.0.attn", "blocks.1.attn"]
    fused = [block.attn.fused_attn for block in model.blocks]

    def fail() -> None:
        with attention.tapped(model, names), attention.traced(model, names):
            assert not model.blocks[1].attn.fused_attn
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [block.attn.fused_attn for block in model.blocks] == fused
    assert hooks(model) == 0


def test_rollout_by_hand():
    first, second = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    one, two = first + torch.eye(5), second + torch.eye(5)
    layers = AttentionLayers([], 1, (0, 1))
    product = (two @ one)[0, 0, 1:].view(1, 1, 2, 2)
    expected = F.interpolate(product, size=(4, 4), mode="bilinear")[:, 0]
    found = layers.rollout([first, second], False, torch.Size((4, 4)))
    torch.testing.assert_close(found, expected)
    one, two = (x / x.sum(dim=2, keepdim=True) for x in (one, two))
    size = torch.Size((2, 2))
    found = layers.rollout([first, second], True, size)
    torch.testing.assert_close(found, (two @ one)[:, 0, 1:].view(1, 2, 2))
    found = AttentionLayers([], 1, (1, None)).rollout([first, second], True, size)
    torch.testing.assert_close(found, (two @ one)[:, 1:, 1:].mean(dim=1).view(1, 2, 2))


def test_a_network_of_another_size_than_its_images_is_laid_out_by_their_aspect():
    torch.manual_seed(0)
    network = create_model("vit_tiny_patch16_224", dynamic_img_size=True, num_classes=3, **SMALL)
    explanandum = Explanandum(network, input_size=[64, 64])
    layers = attention.of(explanandum)
    with attention.tapped(network, layers.names) as taps:
        explanandum(torch.rand(1, 3, 32, 96))
    matrices = [attention.detached(taps[name]).mean(dim=1) for name in layers.names]
    assert layers.rollout(matrices, True, torch.Size((32, 96))).shape == (1, 32, 96)


class Crossing(nn.Module):
    """One token of the image attends to the others, or all attend twice or under a mask."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.head = kind, nn.Linear(4, 3)
        self.embed = nn.Conv2d(3, 4, 8, 8)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(images).flatten(2).mT
        query = x[:, :1] if self.kind == "cross" else x
        mask = torch.eye(len(x[0])).bool().logical_not() if self.kind == "masked" else None
        for _ in range(2 if self.kind == "twice" else 1):
            x = self.attention(query, x, x, attn_mask=mask, need_weights=False)[0]
            query = x
        return self.head(x.mean(dim=1))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("cross", "attention is not plain self-attention"),
        ("masked", "attention is not plain self-attention"),
        ("twice", "some do not run exactly once in each pass"),
    ],
)
def test_other_uses_of_torch_s_module_are_refused(kind, reason):
    explanandum = Explanandum(Crossing(kind), mean=[0.5] * 3, std=[0.5] * 3, input_size=[32, 32])
    with pytest.raises(NotDefinedError, match=f"Crossing has no attention.*{reason}"):
        attention.of(explanandum)
    assert hooks(explanandum.model) == 0


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("cait_xxs24_224", {"img_size": 64, "depth": 2}, "none was found"),
        ("xcit_nano_12_p16_224", {"img_size": 64, "depth": 2}, "none was found"),
        ("pit_ti_224", {}, r"transformers.1.blocks.0.attn has matrices \(2, 4, 197, 197\)"),
        ("vit_small_patch16_18x2_224", {"img_size": 64, **SMALL}, "none was found"),
        ("test_resnet", {}, "none was found"),
    ],
)
def test_other_networks_are_refused(name, arguments, reason):
    torch.manual_seed(0)
    explanandum = Explanandum(create_model(name, num_classes=4, **arguments))
    with pytest.raises(NotDefinedError, match=f"has no attention that can be read: .*{reason}"):
        attention.of(explanandum)


def test_a_head_of_zeros_is_taken_to_read_the_class_token():
    torch.manual_seed(0)
    network = create_model("vit_tiny_patch16_224", img_size=64, num_classes=5, **SMALL)
    nn.init.zeros_(network.head.weight)
    assert attention.of(Explanandum(network)).read == (0, 1)
