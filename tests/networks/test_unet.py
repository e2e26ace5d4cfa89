import numpy as np
import pytest
import torch

from explainers import Explanandum
from explainers.networks import unet
from tests import planted

# Small networks of each family of timm's: models and their arguments.
FAMILIES = {
    "resnet": ("test_resnet", {}),
    "convnext": ("test_convnext", {}),
    "efficientnet": ("test_efficientnet", {}),
    "densenet": ("densenet121", {"growth_rate": 8, "block_config": [1, 1, 1, 1]}),
    "vgg": (
        "timm.models.vgg:VGG",
        {"cfg": [8, "M", 8, "M", 16, "M", 16, "M", 16, "M"], "mlp_ratio": 0.01},
    ),
    "vit": ("test_vit", {}),
    "deit": ("deit_tiny_patch16_224", {"depth": 12, "embed_dim": 24, "num_heads": 2}),
}


def silu(value):
    value = value / (1 + 1e-5) ** 0.5  # an untrained batch norm
    return value * value.sigmoid()


def size_of(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("channels", "millions"),
    [
        ([64, 256, 512, 1024, 2048], 9.68),  # ResNet50
        ([96, 96, 192, 384, 768], 1.87),  # ConvNeXt-S, whose stem the released code repeats
        ([64, 128, 256, 512, 512], 1.19),  # VGG16
        ([768] * 5, 2.13),  # ViT-B
    ],
)
def test_the_published_decoders_have_the_published_sizes(channels, millions):
    assert round(size_of(unet.UNetDecoder(channels, stride=2)) / 1e6, 2) == millions


@pytest.mark.parametrize("family", FAMILIES)
def test_it_fits_every_family_and_scores_each_pixel(family):
    model, arguments = FAMILIES[family]
    tokens = family in ("vit", "deit")  # of one size of images
    explanandum = Explanandum(
        model, num_classes=3, model_args=arguments, input_size=None if tokens else [64, 64]
    )
    network = unet.decoder(explanandum, {**unet.PUBLISHED, "widths": [8] * 5}).eval()
    size = tuple(explanandum.input_size)
    sizes = [size] if tokens else [size, (96, 128), (75, 101)]
    assert len(network.blocks) == 5
    for height, width in sizes:
        images = torch.rand(2, 3, height, width)
        with torch.no_grad():
            scores = network(explanandum.features(images), (height, width))
        assert scores.shape == (2, 1, height, width)
        assert scores.isfinite().all()
        assert scores[0].unique().numel() > 0.5 * height * width  # a score of its own for a pixel


@pytest.mark.parametrize("block", ["separable", "plain"])
def test_every_level_reaches_the_scores(block):
    network = unet.UNetDecoder([4, 6, 8], stride=2, block=block, widths=[8, 8, 8]).eval()
    levels = [torch.rand(1, c, s, s, requires_grad=True) for c, s in ((4, 16), (6, 8), (8, 4))]
    network(levels, (32, 32)).square().sum().backward()
    assert all(level.grad.abs().sum() > 0 for level in levels)


def test_the_last_widths_count_for_shallow_networks_and_the_first_for_deep_ones():
    outs = [
        block.merge[-3].out_channels
        for block in unet.decoder(planted.explanandum(), unet.PUBLISHED).blocks
    ]
    assert outs == [128, 64, 32, 16]
    deep = unet.UNetDecoder([4] * 6, stride=4, block="plain", widths=[8, 4])
    assert [block.merge[-3].out_channels for block in deep.blocks] == [8, 8, 8, 8, 8, 8, 4]


def test_blocks_without_a_skip_bridge_what_the_pyramid_lacks():
    """ConvNeXt's pyramid starts at stride 4: two doublings are left, not a 4-fold resize."""
    network = unet.decoder(
        Explanandum("test_convnext", num_classes=3), unet.PUBLISHED | {"block": "plain"}
    )
    ins = [block.merge[0].in_channels for block in network.blocks]
    assert ins == [64 + 48, 256 + 32, 128 + 24, 64, 32]


def test_a_plain_block_by_hand():
    block = unet.PlainBlock(1, 1, 1).eval()
    for conv in (block.merge[0], block.merge[3]):
        torch.nn.init.zeros_(conv.weight)
        conv.weight.data[:, :, 1, 1] = 1.0  # adds its input channels
    x, skip = torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    torch.testing.assert_close(block(x, skip), silu(silu(1 + skip)))


def test_upsampling_is_aligned_with_its_skip_on_odd_sizes():
    block = unet.PlainBlock(1, 1, 1)
    seen = []
    block.merge.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    block.eval()(torch.arange(9.0).view(1, 1, 3, 3), torch.zeros(1, 1, 5, 5))
    assert seen[0][0, 0, 0].tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (2, 2), (4, 5)])
def test_a_depthwise_convolution_reflects_and_repeats_a_single_pixel(size):
    conv = unet.Depthwise(2)
    maps = torch.rand(3, 2, *size)
    padded = np.pad(maps.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    expected = np.einsum("bchwij,cij->bchw", windows, conv.weight.detach().numpy()[:, 0])
    torch.testing.assert_close(conv(maps).detach(), torch.from_numpy(expected))


@pytest.mark.parametrize(
    "sides", [[2, 1, 1], [4, 2, 1, 1], [1, 1, 1], [8, 4, 2]], ids="levels {}".format
)
def test_levels_of_one_size_by_hand(sides):
    """Flat levels, weights that neither sharpen nor smooth: flat scores, a chain of numbers."""
    network = unet.UNetDecoder([1] * len(sides), stride=2, widths=[1]).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            module.weight.data.zero_()[:, :, 1:3, 1:3] = 1.0  # repeats each pixel
        elif isinstance(module, unet.Depthwise):
            module.weight.data.fill_(1 / 9)
        elif isinstance(module, torch.nn.Conv2d):
            module.weight.data.fill_(1.0)  # adds its input channels
    values = torch.arange(1.0, len(sides) + 1)
    levels = [torch.full((1, 1, n, n), float(v)) for n, v in zip(sides, values, strict=True)]
    expected = values[-1]
    for skip in [*values[:-1].flip(0), torch.tensor(0.0)]:
        expected = silu(silu(silu(silu(expected)) + skip))
    size = (2 * sides[0], 2 * sides[0])
    with torch.no_grad():
        torch.testing.assert_close(network(levels, size), expected.expand(1, 1, *size))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_images_below_the_stride_are_scored_and_learned_from(name):
    explanandum = Explanandum(name, num_classes=3)
    network = unet.decoder(explanandum, {**unet.PUBLISHED, "widths": [8] * 5})
    for size in [(16, 16), (16, 48)]:
        levels = explanandum.features(torch.rand(2, 3, *size))
        assert levels[-2].shape[-2] == levels[-1].shape[-2] == 1
        network.zero_grad()
        network(levels, size).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in network.parameters())
        assert network.blocks[0].up[0].weight.grad.abs().sum() > 0


def test_a_pyramid_of_another_depth_is_refused():
    network = unet.UNetDecoder([4, 4, 4], stride=2, widths=[8])
    levels = [torch.rand(1, 4, side, side) for side in (4, 2)]
    with pytest.raises(ValueError, match="expected 3 levels of features, got 2 of images of 8 x 8"):
        network(levels, (8, 8))


def test_scores_keep_full_precision_under_autocast():
    network = unet.UNetDecoder([4, 8], stride=2, widths=[8, 8]).eval()
    levels = [torch.rand(1, 4, 32, 32), torch.rand(1, 8, 16, 16)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = network(levels, (64, 64))
    assert scores.dtype == torch.float32
    assert scores.unique().numel() > 0.9 * 64 * 64


def test_a_class_gate_scales_and_shifts_normalised_features():
    gate = unet.ClassGate(3, 2)
    features = torch.randn(4, 2, 3, 3)
    out = gate(features, torch.tensor([0, 2, 2, 1]))
    mean, var = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3), unbiased=False)
    whitened = (features[1] - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
    expected = whitened * (1 + gate.scale.weight[2])[:, None, None]
    torch.testing.assert_close(out[1], expected + gate.shift.weight[2][:, None, None])
