"""What a classifier still sees of an object whose pixels are filled in."""

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import content, masking
from explainers.functional.fills import FillChoice
from explainers.metrics.base import PerImageMetric
from explainers.options import check_choices


class FilledObjects(PerImageMetric):
    """Accuracy of the classifier after the pixels of the object are filled in, for several fills.

    It judges the fills, not the maps: the object mask of the data takes their place, so that every
    row of a table has the same values. A fill that removes the object leaves a low accuracy. An
    image counts as right if its most probable class is one of the explained ones. The column
    `Filled/clean` is about the unchanged images. Images with an empty mask have no value.

    Source: Agarwal & Nguyen, ACCV 2020, section 4.2 and table 1, with Inception-v3 and masks of
    birds.

    Differences from the paper:
        - MS-SSIM and LPIPS between the filled and the real image are not computed.

    Range: [0, 1].

    Cost: one forward pass for each fill.

    Blind to: what surrounds the object: a background that tells the class keeps the accuracy high
    under every fill.

    Args:
        fills: Names of fills, see `fills.fill`, or paths of inpainters.
        sigma: Width of "blur" in pixels.
        seed: Seed of the fill "noise".

    Raises:
        ValueError: If a fill is unknown, there is none, or one is named twice.
    """

    needs = ("images", "targets", "mask", "logits", "explanandum")
    higher_is_better = False

    def __init__(
        self, fills: list[FillChoice] | None = None, sigma: float = 10.0, seed: int = 0
    ) -> None:
        check_choices(type(self), locals())
        super().__init__()
        chosen: list[FillChoice] = ["blur", "mean", "noise"] if fills is None else list(fills)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"expected different fills, at least one, got {chosen}")
        self.fills, self.sigma, self.seed = chosen, sigma, seed
        self.names = ("Filled/clean", *(f"Filled/{name}" for name in chosen))

    def score(
        self,
        images: Tensor,
        targets: Tensor,
        mask: Tensor,
        logits: Tensor,
        explanandum: Explanandum,
    ) -> dict[str, Tensor]:
        """Hits (B,) of each fill for images (B, 3, H, W) and object masks (B, H, W)."""
        kept = 1 - mask.to(images)
        answers = [logits]
        for name in self.fills:
            fill = explanandum.fill(name, self.seed, self.sigma)
            filled = content.pixels(content.behind(fill, images), images, kept)
            answers.append(explanandum(masking.blend(images, kept, filled)))
        empty = ~mask.cpu().bool().flatten(1).any(dim=1)
        return {
            name: _hits(answer, targets).masked_fill(empty, torch.nan)
            for name, answer in zip(self.names, answers, strict=True)
        }


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the most probable class is a target, (B,) float64; NaN for logits not finite."""
    top = logits.argmax(dim=1, keepdim=True)
    hits = targets.to(top.device).gather(1, top)[:, 0].double().cpu()
    return hits.masked_fill(~logits.isfinite().all(dim=1).cpu(), torch.nan)
