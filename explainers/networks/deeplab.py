"""Trainable mask networks, and single class maps out of many without storing all."""

from typing import Literal

from torch import Tensor, nn

from explainers.files import read_state


class DeepLabV3(nn.Module):
    """DeepLabV3: inputs (B, 3, H, W) -> low-resolution class logits (B, C, ~H/8, ~W/8).

    Args:
        num_classes: Number of class maps.
        backbone: "torchvision/resnet50", "torchvision/resnet101" or
            "torchvision/mobilenet_v3_large" for the published network, or any encoder of
            segmentation-models-pytorch ("resnet18", "tu-<timm name>").
        pretrained: Download ImageNet weights of the backbone.
        backbone_weights: Or start it from a local file of a classifier with the same backbone.
        freeze_backbone: Train the decoder alone, on the backbone's features as they are.
        decoder_channels: Width of the decoder; for segmentation-models-pytorch only.
        atrous_rates: Dilations of the decoder; for segmentation-models-pytorch only.
        output_stride: 8 as published, or 16 for cheaper, coarser maps; for
            segmentation-models-pytorch only.

    Raises:
        ValueError: If the backbone is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "torchvision/resnet50",
        pretrained: bool = False,
        backbone_weights: str | None = None,
        freeze_backbone: bool = False,
        decoder_channels: int = 256,
        atrous_rates: tuple[int, int, int] = (12, 24, 36),
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
        """Train mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.freeze_backbone:
            self.encoder.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised inputs (B, 3, H, W) -> class logits (B, C, h, w)."""
        features = self.encoder(inputs)
        logits: Tensor = self.decoder(features["out"] if isinstance(features, dict) else features)
        return logits


def _load_backbone(encoder: nn.Module, path: str) -> None:
    """Load a classifier's state dict into an encoder, which has all of its keys but the head's."""
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
    """An smp decoder as a plain module (its DeepLabV3 decoder takes the whole feature list)."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: list[Tensor]) -> Tensor:
        out: Tensor = self.decoder(features)
        return out
