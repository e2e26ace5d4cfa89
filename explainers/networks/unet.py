"""The masking network of the NEM family: a U-Net whose encoder is the explanandum itself."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import Explanandum, layouts

WIDTHS = (256, 128, 64, 32, 16)


class UNetOptions(TypedDict, total=False):
    """Options of `UNetDecoder`, which documents them."""

    block: Literal["separable", "plain"]
    widths: list[int]
    dropout: float


PUBLISHED: UNetOptions = {"block": "separable", "widths": list(WIDTHS), "dropout": 0.2}
# A small network for trials and tests: the attribute `quick` of the methods that use it.
QUICK: dict[str, Any] = {"network": {"widths": [16] * 5}}


class UNetDecoder(nn.Module):
    """U-Net decoder, from the explanandum's feature pyramid to scores (B, 1, H, W).

    The scores have the size of the images. Each block doubles the resolution and adds a skip
    connection from the next shallower features. The image itself is not used. Blocks at a finer
    resolution than the shallowest features have no skip connection. There is one such block for a
    CNN whose pyramid starts at stride 2, and two for stride 4.

    If sizes are odd, or an image is so small that two levels have the same size, the upsampled maps
    are resized to the skip connection by nearest neighbor. The last map is resized to the image
    bilinearly.

    Source: the released code of Ra-NEM (9.68 million weights for ResNet50).

    Differences from the released code:
        - For a pyramid that starts at stride 4, the last two blocks have no skip connection. The
          released decoder repeats ConvNeXt's stem there.

    The decoder of segmentation-models-pytorch does not fit: its blocks are ReLU convolutions
    without dropout, and their number and widths are tied to its own encoders.

    Args:
        channels: Number of channels of each level of the pyramid, from shallow to deep.
        stride: Stride of the shallowest level.
        block: Decoder block type. "separable", published for Ra-NEM: depthwise transposed and
            separable convolutions. "plain", from the code of NEMt: nearest-neighbor upsampling and
            two 3x3 convolutions.
        widths: Number of channels of each block, from deep to shallow. If there are fewer blocks,
            the last widths are used. If there are more, the first width is repeated.
        dropout: Dropout rate of whole channels, in separable blocks.
    """

    def __init__(
        self,
        channels: Sequence[int],
        stride: int,
        block: Literal["separable", "plain"] = "separable",
        widths: Sequence[int] = WIDTHS,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.levels = len(channels)
        self.depth = channels[-1]  # channels of the bottleneck
        skips = [*channels[-2::-1], *[0] * round(math.log2(stride))]
        count = len(skips)
        outs = [*[widths[0]] * (count - len(widths)), *widths[max(0, len(widths) - count) :]]
        ins = [self.depth, *outs[:-1]]
        self.blocks = nn.ModuleList(
            SeparableBlock(*sizes, dropout) if block == "separable" else PlainBlock(*sizes)
            for sizes in zip(ins, skips, outs, strict=True)
        )
        self.head = nn.Conv2d([self.depth, *outs][-1], 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor], size: torch.Size | tuple[int, int]) -> Tensor:
        """Scores (B, 1, H, W) from features (B, C_i, h_i, w_i), shallow to deep; `size` is (H, W).

        Raises:
            ValueError: If the pyramid has another number of levels than the decoder was made for.
        """
        if len(features) != self.levels:
            raise ValueError(
                f"expected {self.levels} levels of features, got {len(features)} of images of "
                f"{size[0]} x {size[1]} pixels: take larger images"
            )
        x = in_dtype_of(self.head.weight, features[-1])
        skips = [*features[-2::-1], *[None] * (len(self.blocks) - len(features) + 1)]
        for block, skip in zip(self.blocks, skips, strict=True):
            x = block(x, skip)
        if x.shape[-2:] != tuple(size):
            x = F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
        if torch.is_autocast_enabled(x.device.type):  # half precision would create ties
            with torch.autocast(x.device.type, enabled=False):
                wide: Tensor = self.head(x.float())
                return wide
        scores: Tensor = self.head(x)
        return scores


def decoder(explanandum: Explanandum, options: UNetOptions, extra: int = 0) -> UNetDecoder:
    """A decoder that fits the feature pyramid of an explanandum.

    The number of levels and their sizes are found with one blank image of the explanandum's input
    size.

    Args:
        explanandum: Classifier whose features are decoded.
        options: Complete options of the decoder.
        extra: Number of channels that are added to the features of every level.
    """
    height, width = explanandum.input_size
    with layouts.trying(explanandum):
        pyramid = explanandum.features(explanandum.mean.expand(1, 3, height, width))
    channels = [level.shape[1] + extra for level in pyramid]
    stride = round(width / pyramid[0].shape[-1])
    return UNetDecoder(channels, stride, **options)


class SeparableBlock(nn.Module):
    """Upsampling block of depthwise separable convolutions, with a skip connection.

    A depthwise transposed convolution and a separable convolution precede the skip connection. Two
    separable convolutions with dropout between them follow it.
    """

    def __init__(self, ins: int, skip: int, outs: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.ConvTranspose2d(ins, ins, 4, 2, 1, groups=ins, bias=False),
            *_pointwise(ins, ins),
            *_separable(ins, ins),
        )
        self.merge = nn.Sequential(
            *_separable(ins + skip, outs), nn.Dropout2d(dropout), *_separable(outs, outs)
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Maps (B, outs, 2 h, 2 w), or of the size of the skip, from maps (B, ins, h, w)."""
        merged: Tensor = self.merge(_join(self.up(x), skip))
        return merged


class PlainBlock(nn.Module):
    """Nearest-neighbor upsampling, skip connection and two 3x3 convolutions."""

    def __init__(self, ins: int, skip: int, outs: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = nn.Sequential(*_full(ins + skip, outs), *_full(outs, outs))

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Maps (B, outs, 2 h, 2 w), or of the size of the skip, from maps (B, ins, h, w)."""
        merged: Tensor = self.merge(_join(self.up(x), skip))
        return merged


class Depthwise(nn.Conv2d):
    """Depthwise 3x3 convolution with reflection padding.

    Reflection needs at least two pixels. A side of one pixel is repeated instead, as in
    `numpy.pad`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            channels, channels, 3, padding=1, padding_mode="reflect", groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the shape of the input (B, channels, h, w)."""
        height, width = x.shape[-2:]
        if min(height, width) > 1:
            return super().forward(x)
        repeated = x.expand(-1, -1, max(2, height), max(2, width))
        return super().forward(repeated)[..., :height, :width]


def _join(x: Tensor, skip: Tensor | None) -> Tensor:
    if skip is None:
        return x
    if x.shape[-2:] != skip.shape[-2:]:
        x = F.interpolate(x, skip.shape[-2:], mode="nearest")
    return torch.cat([x, skip.to(x.dtype)], dim=1)


def in_dtype_of(weight: Tensor, features: Tensor) -> Tensor:
    """Features in the dtype of a network's weight, unless autocast chooses the dtypes."""
    autocast = torch.is_autocast_enabled(features.device.type)
    return features if autocast else features.to(weight.dtype)


def _pointwise(ins: int, outs: int) -> list[nn.Module]:
    return [nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs), nn.SiLU()]


def _separable(ins: int, outs: int) -> list[nn.Module]:
    return [Depthwise(ins), *_pointwise(ins, outs)]


def _full(ins: int, outs: int) -> list[nn.Module]:
    return [nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.SiLU()]


class ClassGate(nn.Module):
    """Conditional batch normalization: features (B, C, h, w), scaled and shifted for each class.

    The scales and shifts of the classes differ from the start. With equal ones, the decoder took
    several times longer to learn to distinguish the classes.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(num_classes, channels)
        self.shift = nn.Embedding(num_classes, channels)

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        """Features of the same shape, for classes (B,) int64."""
        scale, shift = (e(classes)[..., None, None] for e in (self.scale, self.shift))
        features = in_dtype_of(self.scale.weight, features)
        gated: Tensor = self.norm(features) * (1 + scale) + shift
        return gated
