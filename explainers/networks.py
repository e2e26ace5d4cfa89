"""Trainable mask networks, and single class maps out of many without storing all."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.builders import read_state


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


def upsample(maps: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear resize of maps (B, C, h, w) to (B, C, *size)."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def select_classes(logits: Tensor, targets: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Full-resolution logits (N, *size) of the true (image, class) pairs of targets (B, C)."""
    return upsample(logits[targets].unsqueeze(1), size).squeeze(1)


def gather_classes(logits: Tensor, classes: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Full-resolution logits (B, k, *size) of the asked classes (B, k) int64."""
    index = classes[:, :, None, None].expand(-1, -1, *logits.shape[-2:])
    return upsample(logits.gather(1, index), size)


def max_over_classes(
    logits: Tensor, allowed: Tensor, size: torch.Size | tuple[int, int], chunk: int = 32
) -> Tensor:
    """Pixelwise maximum (B, *size) over allowed classes of the upsampled logits (B, C, h, w).

    Exactly `upsample(logits, size)` masked by `allowed` (B, C) bool and reduced by a maximum,
    without keeping all classes at full resolution: the winners are found chunk by chunk without
    gradient, then interpolated alone. An image without an allowed class gives -inf, without
    gradient.
    """
    with torch.no_grad():
        best = logits.new_full((len(logits), *size), -torch.inf)
        winner = torch.zeros(best.shape, dtype=torch.long, device=logits.device)
        for start in range(0, logits.shape[1], chunk):
            part = upsample(logits[:, start : start + chunk], size)
            part = part.masked_fill(~allowed[:, start : start + chunk, None, None], -torch.inf)
            values, index = part.max(dim=1)
            winner = torch.where(values > best, index + start, winner)
            best = torch.maximum(values, best)
    values = _interpolate_at(logits, winner)
    return values.masked_fill(~allowed.any(dim=1)[:, None, None], -torch.inf)


def _interpolate_at(maps: Tensor, classes: Tensor) -> Tensor:
    """Bilinear value (B, H, W), at each pixel, of the class (B, H, W) chosen there."""
    batch, _, h, w = maps.shape
    rows = _corners(h, classes.shape[1], maps.device)
    columns = _corners(w, classes.shape[2], maps.device)
    flat = maps.flatten(1)
    out = torch.zeros(classes.shape, dtype=maps.dtype, device=maps.device)
    for y, weight_y in rows:
        for x, weight_x in columns:
            index = (classes * h + y[:, None]) * w + x[None, :]
            corner = flat.gather(1, index.flatten(1)).view(batch, *classes.shape[1:])
            out = out + corner * (weight_y[:, None] * weight_x[None, :]).to(maps.dtype)
    return out


def _corners(small: int, large: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The two source positions and weights of every target position of a bilinear resize."""
    position = (
        (torch.arange(large, dtype=torch.float64, device=device) + 0.5) * (small / large) - 0.5
    ).clamp(min=0)
    low = position.floor().long().clamp(max=small - 1)
    fraction = position - low
    return [(low, 1 - fraction), ((low + 1).clamp(max=small - 1), fraction)]
