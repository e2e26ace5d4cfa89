"""Size of a mask compared with the probability of the class on the masked image."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric, exact, pixel_sum
from explainers.options import check_choices


def mask_saliency(
    maps: Tensor, log_probabilities: Tensor, targets: Tensor, floor: float = 0.05
) -> Tensor:
    """Log area minus log probability: ln max(mean mask, floor) - ln sum of target probabilities.

    Lower is better: the mask is small and the classifier still recognizes the targets.

    Source: Stalder et al., NeurIPS 2022, eq. 9.

    Differences from the released code:
        - Each class counts once. The released code counts a VOC class once for each annotated
          object, which lowers its numbers.

    Args:
        maps: Masks (B, H, W) in [0, 1].
        log_probabilities: Log-probabilities (B, K) of the masked images.
        targets: Classes of the sum, (B, K) bool.
        floor: Area below which a smaller mask no longer lowers the score.

    Returns:
        Scores (B,) float64; NaN for an image without a target.
    """
    area = pixel_sum(maps) / (maps.shape[1] * maps.shape[2])
    targets = targets.cpu()
    seen = exact(log_probabilities).masked_fill(~targets, -torch.inf).logsumexp(dim=1)
    scores = area.clamp_min(floor).log() - seen
    return scores.masked_fill(~targets.any(dim=1), torch.nan)


class MaskSaliency(PerImageMetric):
    """Log area minus log probability of images masked by their maps, see `mask_saliency`.

    The mean color replaces the removed pixels.

    Range: (-inf, inf).

    Cost: one forward pass.

    Blind to: the shape of the mask; a mask may keep a pattern that only fools the classifier.

    Source: Dabkowski and Gal, NeurIPS 2017, eq. 5, for masks in place of crops.

    Args:
        activation: Function that gives the probabilities. "softmax": as in the paper, even for
            classifiers trained with a sigmoid. "model": the activation of the classifier.
    """

    names = ("MaskSaliency",)
    needs = ("maps", "targets", "masked_logits", "explanandum")
    wants_unit_maps = True
    higher_is_better = False

    def __init__(self, activation: Literal["softmax", "model"] = "softmax") -> None:
        check_choices(type(self), locals())
        super().__init__()
        self.activation = activation

    def score(
        self, maps: Tensor, targets: Tensor, masked_logits: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Scores (B,) of maps (B, H, W) in [0, 1] and targets (B, K)."""
        sigmoid = self.activation == "model" and explanandum.multi_label
        logits = exact(masked_logits)
        log_probabilities = F.logsigmoid(logits) if sigmoid else logits.log_softmax(dim=1)
        return {"MaskSaliency": mask_saliency(maps, log_probabilities, targets)}
