"""Faithfulness: what the classifier says while pixels vanish or appear in the order of the map."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypedDict

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import fills
from explainers.functional.fills import Fill, FillName, Inpainted
from explainers.metrics.curve_metric import CurveMetric, Value, curve_values
from explainers.options import check_choices, complete
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve, Order


class AreaOptions(TypedDict, total=False):
    """How the points of a curve become one number.

    Args:
        rule: "trapezoid" or "mean" of the points.
        part: Fractions of the steps between which points count.
        skip_first: Leave out the first of these points.
        scale: Factor of the result, such as 100.
    """

    rule: Literal["trapezoid", "mean"]
    part: list[float]
    skip_first: bool
    scale: float


class FillOptions(TypedDict, total=False):
    """Options of a fill.

    Args:
        sigma: Width of "blur" in pixels.
        bank: Folder of pictures for "images"; None takes other images of the batch, and the value
            then depends on the batch.
        count: Number of curves with independent fills "noise" or "images"; the result is the mean
            over them.
        seed: Seed of these fills.
    """

    sigma: float
    bank: str | None
    count: int
    seed: int


AREA: AreaOptions = {"rule": "trapezoid", "part": [0.0, 1.0], "skip_first": False, "scale": 1.0}
FILL: FillOptions = {"sigma": 10.0, "bank": None, "count": 1, "seed": 0}


class RISECurves(CurveMetric):
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
        draws: Look at so many points of each curve only, drawn without replacement, the same for
            all images: an estimate by Monte Carlo (Ra-NEM, eq. 6). With `pixels` 1 the points are
            drawn from all H W. How far it may be off stands below the table.
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
        draws: int | None = None,
        batch_size: int = 16,
        channels_last: bool = True,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(draws, batch_size, channels_last)
        _check(pixels, steps)
        self.pixels, self.steps = pixels, steps
        self.deletion_fill, self.insertion_fill = deletion_fill, insertion_fill

    def setting(self, size: tuple[int, int]) -> Curve:
        """The deletion curve of images (H, W)."""
        pixels = self.pixels if self.steps or self.pixels else size[1]
        return Curve("most", "image", self.deletion_fill, steps=self.steps, pixels=pixels)

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Areas (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        deletion = self.setting((maps.shape[1], maps.shape[2]))
        insertion = replace(deletion, start="fill", fill=self.insertion_fill)
        found = self.run([insertion, deletion], images, maps, targets, explanandum)
        areas = [self.area(curve.probability) for curve in found]
        return {
            "InsertionAUC": areas[0],
            "DeletionAUC": areas[1],
            "Faithfulness": areas[0] - areas[1],
        }


class SLOCCurves(CurveMetric):
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
        draws: Look at so many points of each curve only, see `RISECurves`; with `steps` H W they
            are drawn from all pixels.
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
        draws: int | None = None,
        batch_size: int = 16,
        channels_last: bool = True,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(draws, batch_size, channels_last)
        _check(None, steps)
        self.steps, self.fill = steps, fill

    def setting(self, size: tuple[int, int]) -> Curve:
        """The removal of the most relevant pixels."""
        return Curve("most", fill=self.fill, steps=self.steps)

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Percentages (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        first = self.setting((maps.shape[1], maps.shape[2]))
        settings = [first, replace(first, order="least")]
        most, least = self.run(settings, images, maps, targets, explanandum)
        pos, neg = (100 * self.area(curve_values(c, "unchanged", targets)) for c in (most, least))
        deletion, insertion = (100 * self.area(c.probability) for c in (most, least))
        return {
            "POS": pos,
            "NEG": neg,
            "DEL": deletion,
            "INS": insertion,
            "NPD": neg - pos,
            "IDD": insertion - deletion,
        }


class CurveAUC(CurveMetric):
    """The area under any one perturbation curve; higher is better where relevance should help.

    The masking-explanations papers' base metric: start "fill", pixels 1792, rule "mean", skip_first
    true, fill "mean" (gray) or "images", 40 of them.

    Args:
        name: Column of the value.
        order: Which pixels change first, "most" or "least" relevant.
        start: "image" (pixels are replaced) or "fill" (pixels are restored).
        fill: Name of a fill, see `fills.fill`.
        steps: Equal steps; without `pixels` too, steps of one image width.
        pixels: Pixels a step.
        value: "probability" or "logit" of the followed class, "hit" (1 where it is the most
            probable class) or "unchanged" (1 where the most probable class is that of the image).
        area: How the points become a number, see `AreaOptions`.
        fill_options: Options of the fill, see `FillOptions`.
        draws: Look at so many points only and take their mean, see `RISECurves`; not with random
            fills, nor with `area`.
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
        area: AreaOptions | None = None,
        fill_options: FillOptions | None = None,
        draws: int | None = None,
        inpainter: Callable[[Tensor, Tensor], Tensor] | None = None,
        batch_size: int = 16,
        channels_last: bool = True,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(draws, batch_size, channels_last)
        _check(pixels, steps)
        self.area_options = complete(area, AREA)
        self.fill_options = complete(fill_options, FILL)
        count, random = self.fill_options["count"], fill in ("noise", "images")
        if count < 1 or (count > 1 and not random):
            raise ValueError(
                f"{count} fills {fill!r}; only noise and images differ from each other"
            )
        if draws is not None and (random or area):
            raise ValueError(
                "draws is the number of points to look at, not with random fills nor with area; "
                "for several fills set fill_options: {count: ...}"
            )
        self.names = (name,)
        self.order, self.start, self.fill = order, start, fill
        self.steps, self.pixels, self.inpainter, self.value = steps, pixels, inpainter, value

    def setting(self, size: tuple[int, int]) -> Curve:
        """The curve of images (H, W)."""
        pixels = self.pixels if self.steps or self.pixels else size[1]
        return Curve(self.order, self.start, self.fill, steps=self.steps, pixels=pixels)

    def direction(self, figure: str) -> bool:
        """Whether more is better: restoring the most or removing the least relevant pixels."""
        return (self.order == "most") == (self.start == "fill")

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Area (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        whole = self.setting((maps.shape[1], maps.shape[2]))
        settings = [replace(whole, fill=fill) for fill in self._fills(images, explanandum)]
        seed, options = self.fill_options["seed"], self.area_options
        found = self.run(settings, images, maps, targets, explanandum, seed)
        values = torch.stack([curve_values(c, self.value, targets) for c in found]).mean(dim=0)
        if self.draws is not None:
            return {self.names[0]: self.area(values)}
        start, end = options["part"]
        area = curves.auc(values, options["rule"], start, end, options["skip_first"])
        return {self.names[0]: options["scale"] * area}

    def _fills(self, images: Tensor, explanandum: Explanandum) -> list[Tensor | Fill]:
        if self.inpainter is not None:
            return [Inpainted(self.inpainter)]
        options = self.fill_options
        height, width = images.shape[-2:]
        bank = fills.read_bank(options["bank"], height, width) if options["bank"] else None
        seeds = range(options["seed"], options["seed"] + options["count"])
        several = [explanandum.fill(self.fill, seed, options["sigma"], bank) for seed in seeds]
        if self.fill == "images" and bank is None:
            return [fill(images) for fill in several]
        return list(several)


def _check(pixels: int | None, steps: int | None) -> None:
    Curve(pixels=pixels, steps=1 if steps is None and pixels is None else steps)
