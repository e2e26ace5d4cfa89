"""What the removal of pixels costs: how far the score of a class falls."""

from typing import Literal

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional.fills import FillName, Inpainted
from explainers.functional.losses import log_odds
from explainers.metrics.base import exact

Response = Literal["log_odds", "logit", "probability"]


def falls(
    explanandum: Explanandum,
    images: Tensor,
    targets: Tensor,
    removed: Tensor,
    fill: FillName = "mean",
    response: Response = "logit",
    batch_size: int = 16,
) -> Tensor:
    """Score of the image minus the score without some pixels, (B, N) float64.

    NaN where the output of the classifier is not finite. Each image takes N + 1 forward passes.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        targets: Class to follow in each image, one-hot (B, K) bool.
        removed: Pixels to replace by the fill, (N, H, W) bool, the same for all images.
        fill: Name of the fill, see `fills.fill`. Random fills are drawn once.
        response: Score of the class: the logarithm of p / (1 - p), the logit or the probability p.
        batch_size: Number of images in each forward pass.
    """
    source = explanandum.fill(fill, 0)
    shared = None if isinstance(source, Inpainted) else source(images).expand_as(images)
    removed = torch.cat([torch.zeros_like(removed[:1]), removed]).to(images.device)
    found = []
    for row, label in enumerate(targets.int().argmax(dim=1)):
        scores = []
        for some in torch.split(removed, batch_size):
            shown = images[row].expand(len(some), -1, -1, -1)
            content = source(shown, (~some).to(images)) if shared is None else shared[row]
            logits = explanandum(torch.where(some[:, None], content, shown))
            scores.append(_score(explanandum, logits, label, response))
        values = exact(torch.cat(scores))
        found.append(values[0] - values[1:])
    return torch.stack(found)


def _score(explanandum: Explanandum, logits: Tensor, label: Tensor, response: Response) -> Tensor:
    """Score (n,) of one class for logits (n, K)."""
    if response == "log_odds":
        scores = log_odds(logits, label.expand(len(logits)), explanandum.multi_label)
    elif response == "logit":
        scores = logits[:, label]
    else:
        scores = explanandum.to_probabilities(logits)[:, label]
    return scores.masked_fill(~logits.isfinite().all(dim=1), torch.nan)
