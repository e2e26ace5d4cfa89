"""A network that masks: a trainable copy of the classifier itself, without its head."""

import copy

import torch
from torch import Tensor, nn

from explainers.explanandum import (
    Explanandum,
    contract,
    features,
    layouts,
    normalization,
    precision,
    taps,
)
from explainers.functional.losses import widen
from explainers.networks.unet import in_dtype_of


class TrunkMasker(nn.Module):
    """Mask logits (B, 1, h, w) from a copy of a classifier, at the resolution of its last stage.

    The copy starts with the weights of the classifier. A 1x1 convolution follows its last stage. If
    the features are tokens, as those of a ViT, it follows the layer norm behind the last block
    instead, and a 1x1 convolution of the same width and a tanh come before it.

    The copy is trained, but stays in eval mode: its batch norms keep their statistics. The patch
    embedding of a ViT stays frozen, as do all weights behind the features.

    Source: the released code of LTX, which has it for ResNet, DenseNet and ViT.

    Args:
        explanandum: The classifier. Later changes of its weights do not reach the copy.

    Attributes:
        learned: Names of the parameters that are trained.

    Raises:
        NotDefinedError: If the stages of the classifier are not known.
    """

    @torch.inference_mode(False)
    def __init__(self, explanandum: Explanandum) -> None:
        super().__init__()
        self.layer = last_layer(explanandum)
        self.layout = layouts.of(explanandum, self.layer)
        tokens = self.layout.kind == "tokens"
        self.trunk = copy.deepcopy(explanandum.model).requires_grad_(True)
        self.trunk.eval()
        if tokens:
            convolutions = (m for m in self.trunk.modules() if isinstance(m, nn.Conv2d))
            for embedding in list(convolutions)[:1]:
                embedding.requires_grad_(False)
        blank = explanandum.mean.expand(1, 3, *explanandum.input_size)
        with layouts.trying(explanandum), torch.enable_grad():
            maps = self.features(explanandum, blank)
        _freeze_unused(self.trunk, maps)
        width = maps.shape[1]
        first = [nn.Conv2d(width, width, 1), nn.Tanh()] if tokens else []
        self.head = nn.Sequential(*first, nn.Conv2d(width, 1, 1))
        self.head.to(maps.device)
        self.learned = {name for name, p in self.named_parameters() if p.requires_grad}

    def train(self, mode: bool = True) -> "TrunkMasker":
        """Sets train mode, except for the copy of the classifier, which stays in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def features(self, explanandum: Explanandum, images: Tensor) -> Tensor:
        """Features (B, C, h, w) of the copy, for images (B, 3, H, W) in [0, 1]."""
        inputs = explanandum.normalize(images)
        if explanandum.channels == 1:
            inputs = normalization.gray(inputs)
        inputs = inputs.to(precision.own_dtype(self.trunk) or inputs.dtype)
        found: list[Tensor] = []

        def look(output: Tensor) -> Tensor:
            found.append(output)
            return output.clone()  # the network may modify it in place

        with (
            contract.network_pass(explanandum, images),
            taps.replaced(self.trunk, self.layer, look),
        ):
            self.trunk(inputs)
        return self.layout.to_maps(found[0], tuple(images.shape))

    def forward(self, explanandum: Explanandum, images: Tensor) -> Tensor:
        """Mask logits (B, 1, h, w), at least in float32.

        Args:
            explanandum: The classifier, which normalizes the images.
            images: Images (B, 3, H, W) in [0, 1].
        """
        maps = self.features(explanandum, images)
        weight = next(self.head.parameters())
        return widen(self.head(in_dtype_of(weight, maps)))


def last_layer(explanandum: Explanandum) -> str:
    """Name of the last layer of features: the last stage, or the layer norm of its tokens."""
    stage = features.stages(explanandum)[-1]
    modules, names = dict(explanandum.model.named_modules()), list(explanandum.layers)
    layout = layouts.of(explanandum, stage)
    if layout.kind == "tokens":
        for name in names[names.index(stage) + 1 :]:
            other = explanandum.layers[name].layout
            same = other and (other.kind, other.grid) == (layout.kind, layout.grid)
            if same and isinstance(modules[name], nn.LayerNorm):
                return name
    return stage


def _freeze_unused(trunk: nn.Module, maps: Tensor) -> None:
    """Freezes the parameters that the features do not depend on, such as those of the head."""
    learned = [p for p in trunk.parameters() if p.requires_grad]
    slopes: tuple[Tensor | None, ...] = (None,) * len(learned)
    if maps.requires_grad:
        slopes = torch.autograd.grad(maps.sum(), learned, allow_unused=True)
    for parameter, slope in zip(learned, slopes, strict=True):
        parameter.requires_grad_(slope is not None)
