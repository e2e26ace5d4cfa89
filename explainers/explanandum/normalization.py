"""Mean and std of a classifier's input, and the input itself."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from explainers.explanandum import wrappers

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
GRAY = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601

Values = Mapping[str, Any]


def channel_values(name: str, values: Any, counts: Sequence[int] = (1, 3)) -> list[float]:
    """The mean or std of each channel of images in [0, 1], as floats.

    Args:
        name: "mean" or "std".
        values: What was given.
        counts: Numbers of channels that are allowed.

    Raises:
        ValueError: If the number of values is another, or a value cannot be one of images in
            [0, 1].
    """
    values = values.tolist() if hasattr(values, "tolist") else values  # of torch or numpy
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if len(listed) not in counts:
        raise ValueError(
            f"{name} must have {' or '.join(map(str, counts))} values, one for each input channel "
            f"of the network, got {values}"
        )
    numbers = [float(value) for value in listed]
    least = 0.0 if name == "mean" else math.nextafter(0.0, 1.0)
    if not all(least <= value <= 1.0 for value in numbers):
        where = "in [0, 1]" if name == "mean" else "above 0 and at most 1"
        hint = ": divide values for 0..255 by 255" if max(numbers) > 1.0 else ""
        raise ValueError(f"{name} of images in [0, 1] must lie {where}, got {numbers}{hint}")
    return numbers


def stated(given: Values, own: Values, channels: int | None = None) -> dict[str, list[float]]:
    """The mean and std that are given, else the network's own, else ImageNet's.

    Args:
        given: The user's `mean` and `std`, or None for each.
        own: Those of the network's library or checkpoint, or None for each.
        channels: Number of input channels of the network. None if it is not known yet.

    Raises:
        ValueError: If they cannot be those of images in [0, 1], or their number is not that of the
            channels.
    """
    result = {}
    for name, value in given.items():
        values = channel_values(name, own[name] or IMAGENET[name] if value is None else value)
        if value is None and channels == 1 and len(values) == 3:
            values = [sum(w * v for w, v in zip(GRAY, values, strict=True))]
        result[name] = channel_values(name, values, [channels] if channels else (1, 3))
    return result


def settled(
    network: nn.Module, given: Values, own: Values, channels: int, own_training: bool = False
) -> dict[str, list[float]]:
    """The mean and std of a network whose channels are known. What is assumed, a warning says.

    Args:
        network: The network.
        given: The user's `mean` and `std`, or None for each.
        own: Those of the network's library or checkpoint, or None for each.
        channels: Number of input channels of the network.
        own_training: Whether the network was trained by the user, whom its library does not know.

    Raises:
        ValueError: If the number of values is not that of the channels, or the network normalizes
            its input itself and no mean and std are given.
    """
    name = type(network).__name__
    if any(v is None for v in given.values()) and (layer := wrappers.own_normalization(network)):
        raise ValueError(
            f"{name} normalizes its input itself ({layer}), which would be done twice: "
            "set mean: [0, 0, 0] and std: [1, 1, 1], or leave that layer out"
        )
    result, assumed = {}, []
    for key, values in stated(given, own, channels).items():
        known = own[key] is not None and len(own[key]) == channels and not own_training
        if given[key] is None and not known:
            assumed.append(key)
        result[key] = values
    if assumed:
        told = " and ".join(f"{key} {[round(v, 4) for v in result[key]]}" for key in assumed)
        source = "its library's" if own[assumed[0]] else "ImageNet's"
        warnings.warn(
            f"the normalization of {name} is not known: {source} {told} are assumed; "
            "set mean and std to those of its training",
            stacklevel=3,
        )
    return result


def plane(values: Sequence[float]) -> Tensor:
    """The mean or std of each channel as (1, 3, 1, 1), also of gray images."""
    return torch.tensor(values, dtype=torch.float32).repeat(3 // len(values)).view(1, 3, 1, 1)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalized images (B, 3, H, W), at least in float32, in the memory layout of the images.

    Raises:
        ValueError: If the images are not floating-point RGB images.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"expected float images in [0, 1], got {images.dtype}: divide by 255")
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    # In the memory layout of the images: broadcasting (1, 3, 1, 1) is three times slower.
    plane = torch.zeros_like(images[:1])
    return (images - (plane + mean)).div_(plane + std)


def gray(images: Tensor) -> Tensor:
    """Gray images (B, 1, H, W) of RGB images (B, 3, H, W)."""
    return sum(w * images[:, c : c + 1] for c, w in enumerate(GRAY))  # type: ignore[return-value]


def to_channels_last(network: nn.Module) -> bool:
    """Lay out a network for the memory layout channels_last if it is the faster one, and return so.

    It is if all convolutions are plain ones, as in ResNet, VGG and DenseNet: a CPU takes up to a
    quarter less time. Weights in another layout than the images would be laid out anew in each
    pass, which takes more time than an image does. With grouped or depthwise convolutions, as in
    EfficientNet, some processors take twice as long. This rule does not measure, so that the last
    bits of a map never depend on the load of the machine.
    """
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    plain = bool(convolutions) and all(m.groups == 1 for m in convolutions)
    if plain:
        network.to(memory_format=torch.channels_last)
    return plain


def laid_out(images: Tensor, last: bool) -> Tensor:
    """Images (B, C, H, W), on a CPU in channels_last if `last`, otherwise in their own layout."""
    if last and images.device.type == "cpu":
        return images.contiguous(memory_format=torch.channels_last)
    return images
