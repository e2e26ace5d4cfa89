"""Residual networks for the images of CIFAR, which timm and torchvision do not have."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F


class PaddedShortcut(nn.Module):
    """Every second pixel of maps (B, C, H, W), with zeros as further channels; no parameters.

    Source: He et al., CVPR 2016, section 4.2, option A.

    Args:
        further: Number of further channels, of which half come first and half come last.
    """

    def __init__(self, further: int) -> None:
        super().__init__()
        self.further = further

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C + further, H / 2, W / 2)."""
        half = self.further // 2
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, half, self.further - half))


def cifar_resnet(depth: int = 20, num_classes: int = 10, bottleneck: bool = False) -> nn.Module:
    """A ResNet for images of 32 x 32 pixels: `Explanandum(model=..., model_args={depth: 56})`.

    Its names are those of two sources of weights: github.com/akamaster/pytorch_resnet_cifar10 for
    basic blocks, and github.com/bearpaw/pytorch-classification for bottleneck blocks, where the
    network that is called ResNet-110 is a ResNet-164.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, for
    basic blocks; "Identity Mappings in Deep Residual Networks", ECCV 2016, for the depth of 164,
    here with the activation after the addition, as in the weights.

    Args:
        depth: Number of layers, 6n + 2, or 9n + 2 for bottleneck blocks: 20, 32, 44, 56, 110; 164.
        num_classes: Number of classes.
        bottleneck: Whether the blocks are bottlenecks, whose shortcuts are convolutions.

    Raises:
        ValueError: If there is no network of that depth.
    """
    from torchvision.models import resnet  # imported here because it is slow

    layers = 9 if bottleneck else 6
    if depth < layers + 2 or (depth - 2) % layers:
        raise ValueError(f"depth must be {layers}n + 2, got {depth}")
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu=nn.ReLU(),
    )
    block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
    incoming = 16
    for number, width in enumerate((16, 32, 64), 1):
        stride, wide = min(number, 2), width * block.expansion
        shortcut: nn.Module | None = None
        if bottleneck:
            projection = nn.Conv2d(incoming, wide, 1, stride, bias=False)
            shortcut = nn.Sequential(projection, nn.BatchNorm2d(wide))
        elif stride == 2:
            shortcut = PaddedShortcut(wide - incoming)
        blocks = [block(incoming, width, stride, shortcut)]
        blocks += [block(wide, width) for _ in range((depth - 2) // layers - 1)]
        stages[f"layer{number}"] = nn.Sequential(*blocks)
        incoming = wide
    stages["avgpool"] = nn.AdaptiveAvgPool2d(1)
    stages["flatten"] = nn.Flatten()
    stages["fc" if bottleneck else "linear"] = nn.Linear(incoming, num_classes)
    return nn.Sequential(stages)
