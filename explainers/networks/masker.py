"""A small network that masks, on the features of all stages of a frozen classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import Explanandum, layouts
from explainers.functional.losses import widen
from explainers.networks.unet import in_dtype_of


class StageMasker(nn.Module):
    """Masks (B, H, W) in [0, 1] from the explanandum's feature pyramid, at a quarter of its size.

    Every level but the shallowest passes a 1x1 convolution with a batch norm and a ReLU, and is
    resized bilinearly to the size of the shallowest level. A 3x3 convolution of all levels and a
    sigmoid give the mask, which is resized to the image by nearest neighbor.

    Source: the masker of the released code of CASM, which has 0.25 million weights for ResNet50.

    Args:
        channels: Number of channels of each level, from shallow to deep.
        pool: Whether the shallowest level is halved first by a max-pooling of side 3. For the first
            level of a ResNet, this is the max-pooling of the ResNet itself.
        width: Number of channels to which the deeper levels are reduced.
    """

    def __init__(self, channels: Sequence[int], pool: bool, width: int = 64) -> None:
        super().__init__()
        self.pool = pool
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for c in channels[1:]
        )
        self.final = nn.Conv2d(channels[0] + width * len(self.reduce), 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Sequence[Tensor], size: torch.Size) -> Tensor:
        """Masks (B, *size), at least in float32.

        Args:
            features: Levels (B, C_i, h_i, w_i) of the feature pyramid, from shallow to deep.
            size: Height and width of the masks.
        """
        first, *deeper = (in_dtype_of(self.final.weight, level) for level in features)
        if self.pool:
            first = F.max_pool2d(first, 3, stride=2, padding=1)
        maps = [
            F.interpolate(reduce(level), first.shape[-2:], mode="bilinear")
            for reduce, level in zip(self.reduce, deeper, strict=True)
        ]
        masks = widen(self.final(torch.cat([first, *maps], dim=1))).sigmoid()
        return F.interpolate(masks, size, mode="nearest")[:, 0]


def masker(explanandum: Explanandum, width: int = 64) -> StageMasker:
    """A masker that fits the feature pyramid of an explanandum, found with one blank image."""
    height, side = explanandum.input_size
    with layouts.trying(explanandum):
        pyramid = explanandum.features(explanandum.mean.expand(1, 3, height, side))
    stride = side / pyramid[0].shape[-1]
    return StageMasker([level.shape[1] for level in pyramid], stride < 3, width)
