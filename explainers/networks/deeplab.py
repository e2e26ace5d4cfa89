"""The segmentation network that explains all classes in one forward pass."""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from torch import Tensor, nn

from explainers.files import read_state
from explainers.functional import losses, planes


class DeepLabOptions(TypedDict, total=False):
    """Options of `DeepLabV3`, which documents them."""

    backbone: str
    pretrained: bool
    backbone_weights: str | None
    freeze_backbone: bool
    decoder_channels: int
    atrous_rates: list[int]
    output_stride: Literal[8, 16]


PUBLISHED: DeepLabOptions = {
    "backbone": "torchvision/resnet50",
    "pretrained": False,
    "backbone_weights": None,
    "freeze_backbone": False,
    "decoder_channels": 256,
    "atrous_rates": [12, 24, 36],
    "output_stride": 8,
}

# A small network for trials and tests: the attribute `quick` of the methods that use it.
QUICK: dict[str, Any] = {
    "network": {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]},
    "optimizer": {"lr": 3e-3},
}


class DeepLabV3(nn.Module):
    """DeepLabV3, from inputs (B, 3, H, W) to class logits (B, C, ~H/8, ~W/8) at low resolution.

    Args:
        num_classes: Number of class maps.
        backbone: Name of the encoder. "torchvision/resnet50", "torchvision/resnet101" and
            "torchvision/mobilenet_v3_large" select torchvision's DeepLabV3, which is published with
            the first one. Other names are encoders of segmentation-models-pytorch ("resnet18",
            "tu-<timm name>").
        pretrained: Whether to download ImageNet weights of the backbone.
        backbone_weights: Path of a local weights file of a classifier with the same backbone, to
            start from.
        freeze_backbone: Whether to train the decoder alone, on the unchanged features of the
            backbone.
        decoder_channels: Number of channels of the decoder. Only for segmentation-models-pytorch.
        atrous_rates: Dilation rates of the decoder. Only for segmentation-models-pytorch.
        output_stride: Output stride: 8 as published, or 16 for cheaper and coarser maps. Only for
            segmentation-models-pytorch.

    Raises:
        ValueError: If the backbone is unknown, or `backbone_weights` do not fit it.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "torchvision/resnet50",
        pretrained: bool = False,
        backbone_weights: str | None = None,
        freeze_backbone: bool = False,
        decoder_channels: int = 256,
        atrous_rates: Sequence[int] = (12, 24, 36),
        output_stride: Literal[8, 16] = 8,
    ) -> None:
        super().__init__()
        if backbone.startswith("torchvision/"):
            from torchvision.models import list_models, segmentation

            name = f"deeplabv3_{backbone.removeprefix('torchvision/')}"
            if name not in list_models(module=segmentation):
                raise ValueError(
                    f"torchvision has no {name}; it has {list_models(module=segmentation)}"
                )
            builder = getattr(segmentation, name)
            weights = "DEFAULT" if pretrained else None
            model = builder(
                weights=None, weights_backbone=weights, num_classes=num_classes, aux_loss=False
            )
            self.encoder, self.decoder = model.backbone, model.classifier
        else:
            import segmentation_models_pytorch as smp

            try:
                model = smp.DeepLabV3(
                    backbone,
                    encoder_weights="imagenet" if pretrained else None,
                    encoder_output_stride=output_stride,
                    decoder_channels=decoder_channels,
                    decoder_atrous_rates=tuple(atrous_rates),
                    classes=num_classes,
                    upsampling=1,
                )
            except (KeyError, RuntimeError) as error:
                raise ValueError(
                    f"segmentation-models-pytorch has no encoder {backbone!r}: {error}"
                ) from error
            self.encoder, self.decoder = (
                model.encoder,
                nn.Sequential(_Last(model.decoder), model.segmentation_head),
            )
        if backbone_weights is not None:
            _load_backbone(self.encoder, backbone_weights)
        self.freeze_backbone = freeze_backbone
        self.encoder.requires_grad_(not freeze_backbone)
        self.train()

    def train(self, mode: bool = True) -> "DeepLabV3":
        """Sets train mode, except for a frozen backbone, which stays in eval mode."""
        super().train(mode)
        if self.freeze_backbone:
            self.encoder.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Class logits (B, C, h, w), at least in float32, of normalized inputs (B, 3, H, W)."""
        features = self.encoder(inputs.to(next(self.parameters()).dtype))
        logits: Tensor = self.decoder(features["out"] if isinstance(features, dict) else features)
        return losses.widen(logits)

    def target_masks(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Masks (B, H, W) in [0, 1] of targets (B, C) bool, in the size of the inputs.

        A mask is the pixelwise maximum over the true classes. A target without a class gives 0.
        """
        return planes.max_over_classes(self(inputs), targets, inputs.shape[-2:]).sigmoid()

    def class_masks(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, k, H, W) in [0, 1] of several classes (B, k) int64 for each input."""
        return planes.gather_classes(self(inputs), classes, inputs.shape[-2:]).sigmoid()


def _load_backbone(encoder: nn.Module, path: str) -> None:
    """Loads a classifier's state dict into an encoder, which has all of its keys but the head's."""
    inner = getattr(encoder, "model", encoder)  # segmentation-models-pytorch wraps timm's encoders
    wanted, state = inner.state_dict(), read_state(path)
    wrong = [
        name for name, own in wanted.items() if name not in state or state[name].shape != own.shape
    ]
    if wrong:
        raise ValueError(
            f"{path} does not fit the backbone: {len(wrong)} of its keys differ, first {wrong[0]!r}"
        )
    inner.load_state_dict({name: state[name] for name in wanted})


class _Last(nn.Module):
    """The decoder of smp's DeepLabV3 as a plain module. It takes the list of all features."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: list[Tensor]) -> Tensor:
        out: Tensor = self.decoder(features)
        return out
