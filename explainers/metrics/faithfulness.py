"""Faithfulness: what the classifier says while pixels vanish or appear in the order of the map."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from explainers.explanandum.frozen import Explanandum
from explainers.functional import fills
from explainers.functional.fills import Fill, FillName, Inpainted
from explainers.metrics.base import PerImageMetric
from explainers.options import check_choices
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve, Order, Responses

Value = Literal["probability", "logit", "hit", "unchanged"]


class _CurveMetric(PerImageMetric):
    """Follows one class, one-hot; `Score` decides which, and with it the map."""

    needs = ("images", "maps", "targets", "explanandum")
    per_class = True

    def __init__(self, batch_size: int = 16, channels_last: bool = True) -> None:
        super().__init__()
        self.batch_size, self.channels_last = batch_size, channels_last

    def run(
        self,
        settings: list[Curve],
        images: Tensor,
        maps: Tensor,
        targets: Tensor,
        explanandum: Explanandum,
        seed: int = 0,
    ) -> list[Responses]:
        """Responses along each curve, `curves.run` with this metric's batches."""
        return curves.run(
            explanandum,
            images,
            maps,
            targets,
            settings,
            batch_size=self.batch_size,
            channels_last=self.channels_last,
            seed=seed,
        )


class RISECurves(_CurveMetric):
    """Areas under RISE's insertion and deletion curves of the probability, and their difference.

    Deletion replaces the most relevant pixels by the mean colour first; insertion restores them
    first in an image blurred by RISE's kernel. All values are in [0, 1], Faithfulness in [-1, 1].
    n steps take 2 n + 1 forward passes an image: both curves end in the image itself.

    Source: Petsiuk et al., "RISE", BMVC 2018, and its released CausalMetric; Faithfulness: Ra-NEM,
    section 4. Pixels of equal relevance: the later changes first, where the code leaves it open.

    Args:
        pixels: Pixels a step; without `steps` too, the width of the image (224 steps at 224 px), as
            RISE and Ra-NEM do. Generative-removal papers take 1792.
        steps: Equal steps instead.
        deletion_fill: Name of a fill, see `fills.fill`.
        insertion_fill: Name of a fill.
        batch_size: Perturbed images a forward pass.
        channels_last: Memory layout of these batches.
    """

    names = ("InsertionAUC", "DeletionAUC", "Faithfulness")
    # torchmetrics knows one direction a metric only; mypy compares with it, past PerImageMetric
    higher_is_better = {  # type: ignore[assignment]  # noqa: RUF012
        "InsertionAUC": True,
        "DeletionAUC": False,
        "Faithfulness": True,
    }

    def __init__(
        self,
        pixels: int | None = None,
        steps: int | None = None,
        deletion_fill: FillName = "mean",
        insertion_fill: FillName = "kernel_blur",
        batch_size: int = 16,
        channels_last: bool = True,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(batch_size, channels_last)
        _check(pixels, steps)
        self.pixels, self.steps = pixels, steps
        self.deletion_fill, self.insertion_fill = deletion_fill, insertion_fill

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Areas (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        pixels = self.pixels if self.steps or self.pixels else maps.shape[2]
        settings = [
            Curve("most", "fill", self.insertion_fill, steps=self.steps, pixels=pixels),
            Curve("most", "image", self.deletion_fill, steps=self.steps, pixels=pixels),
        ]
        found = self.run(settings, images, maps, targets, explanandum)
        insertion, deletion = (curves.auc(curve.probability) for curve in found)
        return {
            "InsertionAUC": insertion,
            "DeletionAUC": deletion,
            "Faithfulness": insertion - deletion,
        }


class SLOCCurves(_CurveMetric):
    """SLOC's six figures from two removals, of the most and of the least relevant pixels first.

    POS and NEG are the areas under "the most probable class is still that of the clean image" when
    the most (POS) or least (NEG) relevant pixels go first; DEL and INS those under the probability
    of the followed class on the same images. NPD = NEG - POS, IDD = INS - DEL. All times 100, so
    percentages. INS is a removal with the mean colour, not RISE's insertion into a blur: the
    two are not comparable. n steps take 2 n forward passes an image.

    Source: SLOC, the released metrics: 21 points, mean fill, trapezoid. There the followed class is
    the predicted one, `Score(target="predicted")`. Pixels of equal relevance: one order and its
    reverse, where the code leaves it to topk.

    Args:
        steps: Equal steps.
        fill: Name of a fill, see `fills.fill`.
        batch_size: Perturbed images a forward pass.
        channels_last: Memory layout of these batches.
    """

    names = ("POS", "NEG", "DEL", "INS", "NPD", "IDD")
    # torchmetrics knows one direction a metric only; mypy compares with it, past PerImageMetric
    higher_is_better = {  # type: ignore[assignment]  # noqa: RUF012
        "POS": False,
        "NEG": True,
        "DEL": False,
        "INS": True,
        "NPD": True,
        "IDD": True,
    }

    def __init__(
        self,
        steps: int = 20,
        fill: FillName = "mean",
        batch_size: int = 16,
        channels_last: bool = True,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(batch_size, channels_last)
        _check(None, steps)
        self.steps, self.fill = steps, fill

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Percentages (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        settings = [Curve(order, fill=self.fill, steps=self.steps) for order in ("most", "least")]
        most, least = self.run(settings, images, maps, targets, explanandum)
        pos, neg = (100 * curves.auc(curve_values(c, "unchanged", targets)) for c in (most, least))
        deletion, insertion = (100 * curves.auc(c.probability) for c in (most, least))
        return {
            "POS": pos,
            "NEG": neg,
            "DEL": deletion,
            "INS": insertion,
            "NPD": neg - pos,
            "IDD": insertion - deletion,
        }


class CurveAUC(_CurveMetric):
    """The area under any one perturbation curve; higher is better where relevance should help.

    The masking-explanations papers' base metric: start "fill", pixels 1792, rule "mean", skip_first
    true, fill "mean" (gray) or "images" with 40 draws.

    Args:
        name: Column of the value.
        order: Which pixels change first, "most" or "least" relevant.
        start: "image" (pixels are replaced) or "fill" (pixels are restored).
        fill: Name of a fill, see `fills.fill`.
        steps: Equal steps; without `pixels` too, steps of one image width.
        pixels: Pixels a step.
        value: "probability" or "logit" of the followed class, "hit" (1 where it is the most
            probable class) or "unchanged" (1 where the most probable class is that of the image).
        rule: "trapezoid" or "mean" of the points.
        part: Fractions of the steps between which points count.
        skip_first: Leave out the first of these points.
        scale: Factor of the result, such as 100.
        sigma: Width of the fill "blur".
        bank: A folder of pictures for the fill "images"; None takes other images of the batch, and
            the value then depends on the batch.
        draws: Curves with independent fills "noise" or "images"; the result is their mean.
        seed: Of these fills.
        inpainter: Fills instead of `fill`, see `Inpainted`.
        batch_size: Perturbed images a forward pass.
        channels_last: Memory layout of these batches.

    Raises:
        ValueError: If an option is unknown.
    """

    def __init__(
        self,
        name: str = "CurveAUC",
        order: Order = "most",
        start: Literal["image", "fill"] = "image",
        fill: FillName = "mean",
        steps: int | None = None,
        pixels: int | None = None,
        value: Value = "probability",
        rule: Literal["trapezoid", "mean"] = "trapezoid",
        part: tuple[float, float] = (0.0, 1.0),
        skip_first: bool = False,
        scale: float = 1.0,
        sigma: float = 10.0,
        bank: str | None = None,
        draws: int = 1,
        seed: int = 0,
        inpainter: Callable[[Tensor, Tensor], Tensor] | None = None,
        batch_size: int = 16,
        channels_last: bool = True,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(batch_size, channels_last)
        _check(pixels, steps)
        if draws < 1 or (draws > 1 and fill not in ("noise", "images")):
            raise ValueError(f"{draws} draws of the fill {fill!r}; only random fills need several")
        self.names = (name,)
        self.order, self.start, self.fill = order, start, fill
        self.steps, self.pixels, self.inpainter = steps, pixels, inpainter
        self.value, self.rule, self.skip_first = value, rule, skip_first
        self.part = [float(part[0]), float(part[1])]
        self.scale, self.sigma, self.bank, self.draws, self.seed = scale, sigma, bank, draws, seed

    def direction(self, figure: str) -> bool:
        """Whether more is better: restoring the most or removing the least relevant pixels."""
        return (self.order == "most") == (self.start == "fill")

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Area (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        pixels = self.pixels if self.steps or self.pixels else maps.shape[2]
        settings = [
            Curve(self.order, self.start, fill, steps=self.steps, pixels=pixels)
            for fill in self._fills(images, explanandum)
        ]
        found = self.run(settings, images, maps, targets, explanandum, self.seed)
        values = torch.stack([curve_values(c, self.value, targets) for c in found]).mean(dim=0)
        area = curves.auc(values, self.rule, self.part[0], self.part[1], self.skip_first)
        return {self.names[0]: self.scale * area}

    def _fills(self, images: Tensor, explanandum: Explanandum) -> list[Tensor | Fill]:
        if self.inpainter is not None:
            return [Inpainted(self.inpainter)]
        bank = fills.read_bank(self.bank, *images.shape[2:]) if self.bank else None
        seeds = range(self.seed, self.seed + self.draws)
        drawn = [explanandum.fill(self.fill, seed, self.sigma, bank) for seed in seeds]
        if self.fill == "images" and bank is None:
            return [fill(images) for fill in drawn]
        return list(drawn)


def curve_values(found: Responses, value: Value, targets: Tensor) -> Tensor:
    """The points of a curve as numbers, (B, n + 1) float64: see `CurveAUC`."""
    if value == "probability":
        return found.probability
    if value == "logit":
        return found.logit
    if value == "hit":
        return (found.top == targets.int().argmax(dim=1, keepdim=True).cpu()).double()
    return (found.top == found.clean.unsqueeze(1)).double()


def _check(pixels: int | None, steps: int | None) -> None:
    Curve(pixels=pixels, steps=1 if steps is None and pixels is None else steps)
