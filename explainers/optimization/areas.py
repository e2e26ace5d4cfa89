"""Estimates of the areas under the insertion and deletion curves, with gradients by the scores."""

from typing import TypedDict

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.explanandum.inpainters import check_name
from explainers.functional.content import Content, RowFills, pixels
from explainers.functional.fills import FillChoice, Inpainted
from explainers.functional.losses import log_odds
from explainers.functional.soft_masks import soft_masks, stratified_shares, tempered


class EstimatorOptions(TypedDict, total=False):
    """How the areas under the curves are estimated.

    Args:
        sharpness: Inverse width of the soft masks, see `soft_masks.soft_masks`.
        temperature: Divisor of the log-odds, see `soft_masks.tempered`.
        insertion: Probability of each fill where pixels are inserted.
        deletion: Probability of each fill where pixels are deleted.
    """

    sharpness: float
    temperature: float
    insertion: dict[FillChoice, float]
    deletion: dict[FillChoice, float]


ESTIMATOR: EstimatorOptions = {
    "sharpness": 8.0,
    "temperature": 3.0,
    "insertion": {"kernel_blur": 0.4, "mean": 0.4, "noise": 0.2},
    "deletion": {"kernel_blur": 0.2, "mean": 0.6, "noise": 0.2},
}


SENSES = ("insertion", "deletion")


def check(options: EstimatorOptions) -> None:
    """Checks complete options.

    Raises:
        ValueError: If one is out of range.
    """
    for name in ("insertion", "deletion"):
        for fill in options[name]:
            check_name(fill)
        chances = list(options[name].values())
        if not chances or min(chances) < 0 or abs(sum(chances) - 1) > 1e-6:
            raise ValueError(f"the probabilities of {name} must be >= 0 with sum 1")
    if min(options["sharpness"], options["temperature"]) <= 0:
        raise ValueError("sharpness and temperature must be positive")


def draw_fills(
    options: EstimatorOptions, sense: str, count: int, generator: torch.Generator
) -> list[FillChoice]:
    """Names (count,) of fills, drawn with the probabilities of a sense.

    Args:
        options: Complete options.
        sense: "insertion" or "deletion".
        count: Number of fills.
        generator: Source of the randomness, on the CPU.
    """
    chances: dict[FillChoice, float] = options[sense]  # type: ignore[literal-required]
    names, weights = list(chances), torch.tensor(list(chances.values()))
    choice = torch.multinomial(weights, count, replacement=True, generator=generator)
    return [names[number] for number in choice.tolist()]


def drawn_areas(
    explanandum: Explanandum,
    options: EstimatorOptions,
    images: Tensor,
    scores: Tensor,
    classes: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """`areas` with shares stratified over the batch, and a fill of its own for each image.

    Args:
        explanandum: The classifier.
        options: Complete options.
        images: Images (B, 3, H, W) in [0, 1].
        scores: Scores (B, H, W), with a standard deviation of about 1.
        classes: Classes (B,) int64.
        generator: Source of the randomness, on the CPU.
    """
    shares, fills = zip(
        *(
            (
                stratified_shares(len(images), generator),
                own_fills(explanandum, options, sense, images, generator),
            )
            for sense in SENSES
        ),
        strict=True,
    )
    return areas(explanandum, options, images, scores, classes, fills, shares)


def own_fills(
    explanandum: Explanandum,
    options: EstimatorOptions,
    sense: str,
    images: Tensor,
    generator: torch.Generator,
) -> Content:
    """Fills (B, 3, H, W) of images, each drawn with the probabilities of a sense."""
    names = draw_fills(options, sense, len(images), generator)
    filled, inpainters = torch.zeros_like(images), []
    with torch.autocast(images.device.type, enabled=False):
        for row, name in enumerate(names):
            fill = explanandum.fill(name, generator)
            if isinstance(fill, Inpainted):
                inpainters.append((torch.tensor([row], device=images.device), fill))
            else:
                filled[row : row + 1] = fill(images[row : row + 1])
    return RowFills(filled, inpainters) if inpainters else filled


def areas(
    explanandum: Explanandum,
    options: EstimatorOptions,
    images: Tensor,
    scores: Tensor,
    classes: Tensor,
    fills: tuple[Content, Content],
    shares: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Tempered probabilities (B,) of the classes if pixels are inserted, and if they are deleted.

    With random shares, their means estimate the areas under the two curves.

    Args:
        explanandum: The classifier.
        options: Complete options.
        images: Images (B, 3, H, W) in [0, 1].
        scores: Scores (B, H, W), with a standard deviation of about 1.
        classes: Classes (B,) int64.
        fills: What is behind the inserted, and in place of the deleted pixels, each as (B, 3, H, W)
            or an inpainter.
        shares: Shares of the pixels that are inserted and deleted, (B,) in [0, 1] each.
    """
    inserted, deleted = (
        soft_masks(scores, each, options["sharpness"])[:, None].to(images.dtype) for each in shares
    )
    with torch.autocast(images.device.type, enabled=False):
        behind = pixels(fills[0], images, inserted[:, 0])
        instead = pixels(fills[1], images, 1 - deleted[:, 0])
    shown = torch.cat(
        [behind + (images - behind) * inserted, images + (instead - images) * deleted]
    )
    odds = log_odds(explanandum(shown), classes.repeat(2), explanandum.multi_label)
    first, second = tempered(odds, options["temperature"]).chunk(2)
    return first, second
