"""Classifiers with known truth: logit k is the scaled brightness of quadrant k."""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from explainers import Explanandum

SCALE = 20.0
NAMES = ["top left", "top right", "bottom left", "bottom right"]


def quadrant_masks(height: int, width: int) -> Tensor:
    """Indicators (4, H, W) of the quadrants; the middle of odd sizes belongs to the later one."""
    top = torch.arange(height) < height // 2
    left = torch.arange(width) < width // 2
    return torch.stack(
        [(top == a)[:, None] & (left == b)[None] for a in (True, False) for b in (True, False)]
    ).float()


class PlantedCNN(nn.Module):
    """Four stages at strides 2 to 16; channel k holds the brightness of quadrant k."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 4
        self.stem = nn.Conv2d(3, 4, 1, bias=False)
        nn.init.constant_(self.stem.weight, 1 / 3)
        self.stages = nn.ModuleList(
            [nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.ReLU()) for _ in range(4)]
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images) * quadrant_masks(*images.shape[-2:]).to(images)
        mass = x.mean(dim=(2, 3), keepdim=True)
        for stage in self.stages:
            x = stage(x)
        # Pooling with a ragged border weighs pixels unevenly: restore each channel's mean,
        # gradients flow through x.
        x = x * (mass / x.mean(dim=(2, 3), keepdim=True).clamp(min=1e-4)).detach()
        return SCALE * 4 * x.mean(dim=(2, 3))


class PlantedViT(nn.Module):
    """Patch tokens, a class token, and two blocks of timm whose uniform attention gathers them.

    The norms are left out and the MLPs give 0, so that the class token holds three times the mean
    over all tokens, of which it is itself one that is 0.
    """

    num_prefix_tokens = 1

    def __init__(self, patch: int = 4) -> None:
        super().__init__()
        self.num_classes, self.patch = 4, patch
        self.block = nn.Identity()
        with torch.random.fork_rng(devices=[]):  # the weights are set below
            self.blocks = nn.Sequential(
                *[Block(4, 1, 1.0, norm_layer=nn.Identity, proj_bias=False) for _ in range(2)]
            )
            self.head = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            for weight in self.blocks.parameters():
                weight.zero_()
            for block in self.blocks:
                block.attn.qkv.weight[8:] = torch.eye(4)
                block.attn.proj.weight.copy_(torch.eye(4))
            self.head.weight.copy_(SCALE * 4 * torch.eye(4))

    def forward(self, images: Tensor) -> Tensor:
        x = images.mean(dim=1, keepdim=True) * quadrant_masks(*images.shape[-2:]).to(images)
        patches = F.avg_pool2d(x, self.patch).flatten(2).mT  # (B, N, 4)
        tokens = self.block(torch.cat([torch.zeros_like(patches[:, :1]), patches], dim=1))
        share = tokens.shape[1] / (3 * patches.shape[1])
        return self.head(self.blocks(tokens)[:, 0]) * share


def explanandum(kind: str = "cnn", multi_label: bool = False) -> Explanandum:
    """A planted classifier, frozen, for images of any size (a multiple of 4 for "vit")."""
    return Explanandum(
        f"tests.planted:Planted{kind.upper() if kind == 'cnn' else 'ViT'}",
        multi_label=multi_label,
        class_names=NAMES,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        input_size=[32, 32],
        feature_layers=[f"stages.{i}" for i in range(4)] if kind == "cnn" else ["block"],
    )


def scenes(count: int, size: tuple[int, int] = (32, 32), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise images (B, 3, H, W) with one bright quadrant, and the targets (B, 4) that name it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = 0.3 * torch.rand(count, 3, *size, generator=generator)
    images += 0.6 * quadrant_masks(*size)[labels].unsqueeze(1)
    return images, F.one_hot(labels, 4).bool()
