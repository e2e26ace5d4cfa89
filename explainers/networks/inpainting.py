"""The network of the learned inpainter: a U-Net of gated convolutions."""

import itertools
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GatedUNetOptions(TypedDict, total=False):
    """Options of `GatedUNet`, which documents them."""

    widths: list[int]
    dilations: list[int]


SMALL: GatedUNetOptions = {"widths": [32, 48, 64, 96], "dilations": [2, 4]}


class GatedUNet(nn.Module):
    """Correction (B, 3, H, W) of a filled image, from the image and the mask of what is kept.

    The image is rearranged to half its resolution, so that no convolution runs at the full one. An
    encoder and a decoder of gated convolutions with skip connections follow. A gated convolution
    multiplies its features by a sigmoid of other features, by which it learns which pixels to
    trust. There is no normalization, since half-empty images would distort its statistics. The last
    convolution starts at zero, so that a new network corrects nothing.

    Images of any size are extended at the bottom and the right by repeating their border, as far as
    the strides need, and the correction is cut to their size again.

    Source: Yu et al., "Free-Form Image Inpainting with Gated Convolution", ICCV 2019, section 3.1.

    Differences from the paper:
        - A small U-Net, instead of a coarse and a refining network with contextual attention.
        - It corrects a harmonic fill, instead of drawing the hole from nothing.

    Args:
        widths: Number of channels of each level. Each has half the resolution of the one before,
            and the first one half that of the image.
        dilations: Dilations of the further convolutions of the last level, which add what is
            predicted to their input.
    """

    def __init__(self, widths: list[int], dilations: list[int]) -> None:
        super().__init__()
        if not widths or min([*widths, *dilations]) < 1:
            raise ValueError(
                "widths and dilations must be positive integers, and widths not empty, "
                f"got {widths} and {dilations}"
            )
        self.stride = 2 ** len(widths)
        self.stem = GatedConv(4 * 4, widths[0])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(GatedConv(ins, outs, stride=2) for ins, outs in pairs)
        last = widths[-1]
        self.deep = nn.ModuleList(GatedConv(last, last, dilation=d) for d in dilations)
        self.up = nn.ModuleList(GatedConv(ins + outs, outs) for outs, ins in reversed(pairs))
        self.head = nn.Conv2d(widths[0], 3 * 4, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, filled: Tensor, masks: Tensor) -> Tensor:
        """Corrections (B, 3, H, W) of images (B, 3, H, W) in [0, 1], whose holes are filled.

        Args:
            filled: Images whose holes are filled.
            masks: Keep masks (B, H, W) of 0 and 1.
        """
        height, width = filled.shape[-2:]
        x = torch.cat([filled - 0.5, masks[:, None].to(filled)], dim=1)
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        skips = [self.stem(F.pixel_unshuffle(x, 2))]
        for block in self.down:
            skips.append(block(skips[-1]))
        x = skips.pop()
        for block in self.deep:
            x = x + block(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        corrections: Tensor = F.pixel_shuffle(self.head(x), 2)
        return corrections[..., :height, :width]


class GatedConv(nn.Module):
    """A 3x3 convolution whose features pass an ELU and are multiplied by a sigmoid of others."""

    def __init__(self, ins: int, outs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ins, 2 * outs, 3, stride, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, outs, h, w)."""
        features, gates = self.conv(x).chunk(2, dim=1)
        gated: Tensor = F.elu(features) * gates.sigmoid()
        return gated


class PatchCritic(nn.Module):
    """Scores (B, 1, h, w) of the patches of images (B, 3, H, W), higher for real photographs.

    Source: Yu et al., ICCV 2019, section 3.3: convolutions with spectral normalization.

    Args:
        width: Number of channels of the first of its three convolutions of stride 2.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [4, width, 2 * width, 2 * width]
        layers: list[nn.Module] = []
        for ins, outs in itertools.pairwise(widths):
            layers += [_normed(nn.Conv2d(ins, outs, 5, 2, 2)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, _normed(nn.Conv2d(widths[-1], 1, 3, padding=1)))

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Scores of images with keep masks (B, H, W), which tell where the holes are."""
        scores: Tensor = self.layers(torch.cat([images - 0.5, masks[:, None].to(images)], dim=1))
        return scores


def _normed(layer: nn.Conv2d) -> nn.Module:
    module: nn.Module = torch.nn.utils.parametrizations.spectral_norm(layer)
    return module
