"""Learned perceptual similarity of two images, with weights from a file."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from explainers import files

Backbone = Literal["alex", "squeeze", "vgg"]
BACKBONES: tuple[Backbone, ...] = ("alex", "squeeze", "vgg")
ARCHITECTURES = "AlexNet, SqueezeNet 1.1 or VGG16"


class LPIPS(nn.Module):
    """Distance (B,) float64 of images (B, 3, H, W) in [0, 1] in the layers of an ImageNet network.

    The features of a position are scaled to length 1 in each layer. The squared differences of two
    images are weighted by channel, averaged over positions, and summed over layers. 0 means equal.

    The channels' weights, version 0.1, come with torchmetrics. Those of the network would be
    downloaded there. Here they come from a file, and its names and shapes tell which of the three
    networks it holds.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
    CVPR 2018, with the code of torchmetrics.

    Args:
        path: File with the ImageNet weights of torchvision's AlexNet, SqueezeNet 1.1 or VGG16.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds the weights of another network.
    """

    def __init__(self, path: str) -> None:
        from torchmetrics.functional.image.lpips import _LPIPS

        super().__init__()
        state = files.read_state(path)
        for kind in BACKBONES:
            network = _LPIPS(net=kind, pnet_rand=True)
            # slices.0.0.weight and slice1.0.weight are features.0.weight of the whole network.
            own = {_whole(name): values for name, values in network.net.state_dict().items()}
            if all(name in state and state[name].shape == own[name].shape for name in own):
                break
        else:
            raise ValueError(
                f"{path} does not hold the weights of {ARCHITECTURES} as torchvision names them"
            )
        for name, values in own.items():
            values.copy_(state[name])
        self.network = network

    @torch.no_grad()
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distance (B,) of each pair of images, on the CPU."""
        found: Tensor = self.network(one.float(), other.float(), normalize=True)
        return found.flatten().double().cpu()

    def train(self, mode: bool = True) -> Any:
        """Stays in eval mode, without the dropout of the training of its weights."""
        return super().train(False)


def _whole(name: str) -> str:
    """slices.0.0.weight or slice1.0.weight -> features.0.weight."""
    return f"features.{name.split('.', 2 if name.startswith('slices.') else 1)[-1]}"
