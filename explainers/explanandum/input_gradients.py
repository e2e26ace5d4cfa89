"""Gradients of class scores with respect to images, in chunks, and their sums over channels."""

from typing import Literal

import torch
from torch import Tensor

from explainers.explanandum.frozen import Explanandum

Score = Literal["logit", "probability"]
Channels = Literal["sum", "sum_abs", "mean_clamp"]


@torch.enable_grad()
def input_gradients(
    explanandum: Explanandum,
    images: Tensor,
    classes: Tensor,
    score: Score = "logit",
    batch_size: int = 16,
) -> Tensor:
    """Gradients (N, k, 3, H, W) of the scores of classes (N, k), with respect to the images.

    The cost is one forward pass for each image, and one backward pass for each of its classes.

    Args:
        explanandum: The classifier.
        images: Images (N, 3, H, W), usually in [0, 1].
        classes: Classes of each image, (N, k) int64.
        score: Score that is differentiated.
        batch_size: Number of images in a pass. It changes only speed and memory.
    """
    value = explanandum if score == "logit" else explanandum.probabilities
    found = []
    chunks = (torch.split(each, batch_size) for each in (images, classes))
    for shown, wanted in zip(*chunks, strict=True):
        inputs = shown.detach().requires_grad_()
        scores = value(inputs).gather(1, wanted).sum(dim=0)  # (k,)
        last = len(scores) - 1
        each = [
            torch.autograd.grad(scores[column], inputs, retain_graph=column < last)[0]
            for column in range(len(scores))
        ]
        found.append(torch.stack(each, dim=1))
    return torch.cat(found)


def over_channels(parts: Tensor, channels: Channels) -> Tensor:
    """Maps (..., H, W) of the signed contributions (..., 3, H, W) of the channels of each pixel.

    Args:
        parts: Contributions.
        channels: "sum": the signed sum, which keeps the total. "sum_abs": the sum of the absolute
            values. "mean_clamp": the mean, with negative means set to 0.
    """
    if channels == "sum_abs":
        return parts.abs().sum(dim=-3)
    return parts.sum(dim=-3) if channels == "sum" else parts.mean(dim=-3).clamp(min=0)
