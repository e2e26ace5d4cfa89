"""What a classifier still sees of an object whose pixels, or whose surroundings, are filled in."""

from typing import Literal

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import content, masking
from explainers.functional.fills import FillChoice
from explainers.metrics.base import PerImageMetric
from explainers.metrics.lpips import LPIPS
from explainers.options import check_choices

SMALLEST = 176  # MS-SSIM averages windows of 11 pixels over five scales
PREFIXES = {"object": "Filled", "background": "ObjectOnly"}


class FilledObjects(PerImageMetric):
    """Accuracy of the classifier after the pixels of the object are filled in, for several fills.

    It judges the fills, not the maps: the object mask of the data takes their place, so that every
    row of a table has the same values. A fill that removes the object leaves a low accuracy. An
    image counts as right if its most probable class is one of the explained ones. The column
    `Filled/clean` is about the unchanged images. Images with an empty mask have no value.

    With `removed` "background", everything but the object is filled in instead, as a mask that
    preserves the class asks for. The columns are then `ObjectOnly/<fill>`, and higher is better:
    the object is still there.

    Source: Agarwal & Nguyen, ACCV 2020, section 4.2 and table 1, with Inception-v3 and masks of
    birds. Section 4.1 compares the two ways of removal, by pictures.

    Differences from the paper:
        - LPIPS is of version 0.1. The published values, above 2, are on another scale.
        - MS-SSIM is that of torchmetrics, with its default windows and weights.

    Range: [0, 1].

    Cost: one forward pass for each fill.

    Blind to: what surrounds the object: a background that tells the class keeps the accuracy high
    under every fill.

    Args:
        fills: Names of fills, see `fills.fill`, or paths of inpainters.
        sigma: Width of "blur" in pixels.
        seed: Seed of the fill "noise".
        removed: Pixels that are filled in, "object" or "background".
        ms_ssim: Whether to add a column `MS-SSIM/<fill>` for each fill: the multi-scale structural
            similarity of the filled and the real image, in [0, 1]. Lower is better: the object no
            longer shows. It needs images of at least 176 pixels along each side.
        lpips: File with the ImageNet weights of AlexNet, SqueezeNet 1.1 or VGG16, see
            `lpips.LPIPS`, to add a column `LPIPS/<fill>` for each fill: the learned perceptual
            distance of the filled and the real image. Higher is better, as in the paper.

    Raises:
        ValueError: If a fill is unknown, there is none, or one is named twice, if the images are
            too small for MS-SSIM, or if the file of `lpips` holds another network.
    """

    needs = ("images", "targets", "mask", "logits", "explanandum")
    higher_is_better = False

    def __init__(
        self,
        fills: list[FillChoice] | None = None,
        sigma: float = 10.0,
        seed: int = 0,
        removed: Literal["object", "background"] = "object",
        ms_ssim: bool = False,
        lpips: str | None = None,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__()
        chosen: list[FillChoice] = ["blur", "mean", "noise"] if fills is None else list(fills)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"expected different fills, at least one, got {chosen}")
        self.fills, self.sigma, self.seed = chosen, sigma, seed
        self.removed, self.ms_ssim, prefix = removed, ms_ssim, PREFIXES[removed]
        self.hits = tuple(f"{prefix}/{name}" for name in ("clean", *chosen))
        # In a list, so that it is no part of this module.
        self.perceptual = [] if lpips is None else [LPIPS(lpips)]
        self.names = self.hits + tuple(f"MS-SSIM/{name}" for name in chosen if ms_ssim)
        self.names += tuple(f"LPIPS/{name}" for name in chosen if lpips is not None)

    def direction(self, figure: str) -> bool:
        """Whether a higher value is better: of a distance, and if the images show the object."""
        return figure.startswith("LPIPS/") or (self.removed == "background" and figure in self.hits)

    def score(
        self,
        images: Tensor,
        targets: Tensor,
        mask: Tensor,
        logits: Tensor,
        explanandum: Explanandum,
    ) -> dict[str, Tensor]:
        """Values (B,) of each fill for images (B, 3, H, W) and object masks (B, H, W)."""
        objects = mask.bool()
        kept = (objects if self.removed == "background" else ~objects).to(images)
        hits, alike, apart = [_hits(logits, targets)], [], []
        for name in self.fills:
            fill = explanandum.fill(name, self.seed, self.sigma)
            filled = content.pixels(content.behind(fill, images), images, kept)
            shown = masking.blend(images, kept, filled)
            hits.append(_hits(explanandum(shown), targets))
            if self.ms_ssim:
                alike.append(ms_ssim(shown, images))
            apart += [network.to(images.device)(shown, images) for network in self.perceptual]
        empty = ~objects.cpu().flatten(1).any(dim=1)
        return {
            name: values.masked_fill(empty, torch.nan)
            for name, values in zip(self.names, hits + alike + apart, strict=True)
        }


def ms_ssim(one: Tensor, other: Tensor) -> Tensor:
    """Multi-scale structural similarity (B,) float64, in [0, 1], of images (B, 3, H, W) in [0, 1].

    Source: Wang, Simoncelli & Bovik, Asilomar 2003, with five scales, by torchmetrics.

    Raises:
        ValueError: If a side is shorter than 176 pixels.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    if min(one.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"MS-SSIM needs images of at least {SMALLEST} pixels along each side, got "
            f"{one.shape[-2]} x {one.shape[-1]}; take larger images, or set ms_ssim: false"
        )
    pairs = zip(torch.split(one.double(), 1), torch.split(other.double(), 1), strict=True)
    found = [
        multiscale_structural_similarity_index_measure(a, b, data_range=1.0, normalize="relu")
        for a, b in pairs
    ]
    return torch.stack(found).cpu()


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the most probable class is a target, (B,) float64; NaN for logits not finite."""
    top = logits.argmax(dim=1, keepdim=True)
    hits = targets.to(top.device).gather(1, top)[:, 0].double().cpu()
    return hits.masked_fill(~logits.isfinite().all(dim=1).cpu(), torch.nan)
