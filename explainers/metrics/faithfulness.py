"""Faithfulness: response of the classifier as pixels are removed or restored in map order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import fills
from explainers.functional.fills import Fill, FillName, Inpainted
from explainers.metrics.curve_metric import CurveMetric, Value, curve_values
from explainers.metrics.curve_options import (
    AREA,
    FILL,
    AreaOptions,
    FillOptions,
    ResponseOptions,
)
from explainers.options import check_choices, complete
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve, Order


class RISECurves(CurveMetric):
    """Areas under RISE's insertion and deletion curves of the probability, and their difference.

    Deletion replaces pixels by the mean color, insertion restores pixels of an image blurred by
    RISE's kernel; both start with the most relevant pixels. Areas are in [0, 1]. Faithfulness is
    insertion minus deletion, in [-1, 1]. Cost for each image, with n steps: 2 n + 1 forward passes,
    as both curves contain the unchanged image.

    Source: RISE (Petsiuk et al., BMVC 2018), released CausalMetric; Faithfulness: Ra-NEM, sec. 4.

    Differences from the released code:
        - Of pixels of equal relevance, the later one changes first. The code leaves this open.

    Args:
        pixels: Number of pixels per step. Without `pixels` and `steps` it is the width of the image
            (224 steps at 224 px), as in RISE and Ra-NEM. Generative-removal papers use 1792.
        steps: Number of equal steps, instead of `pixels`.
        deletion_fill: Name of the fill for deletion, see `fills.fill`.
        insertion_fill: Name of the fill for insertion.
        draws: Number of points of each curve to evaluate; None evaluates all. The points are drawn
            without replacement, the same for all images, which gives a Monte Carlo estimate
            (Ra-NEM, eq. 6). `pixels: 1` draws from H W points. An error bound follows the table.
        batch_size: Number of perturbed images in each forward pass.
        channels_last: Whether these batches are in the channels-last memory layout. None takes
            `Explanandum.channels_last`.
        response: What the curves follow, and the order of equal pixels, see `ResponseOptions`.
    """

    names = ("InsertionAUC", "DeletionAUC", "Faithfulness")
    # torchmetrics allows one direction per metric, and mypy checks against that declaration.
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
        channels_last: bool | None = None,
        response: ResponseOptions | None = None,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(draws, batch_size, channels_last, response)
        _check(pixels, steps)
        self.pixels, self.steps = pixels, steps
        self.deletion_fill, self.insertion_fill = deletion_fill, insertion_fill

    def setting(self, size: tuple[int, int]) -> Curve:
        """The deletion curve for images of size (H, W)."""
        pixels = self.pixels if self.steps or self.pixels else size[1]
        return Curve("most", "image", self.deletion_fill, steps=self.steps, pixels=pixels)

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Areas (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        deletion = self.setting((maps.shape[1], maps.shape[2]))
        settings = [replace(deletion, start="fill", fill=self.insertion_fill), deletion]
        found = self.run(settings, images, maps, targets, explanandum)
        areas = [
            self.kept_area(name, setting, curve.probability, maps[0].numel())
            for name, setting, curve in zip(self.names[:2], settings, found, strict=True)
        ]
        return dict(zip(self.names, (*areas, areas[0] - areas[1]), strict=True))


class SLOCCurves(CurveMetric):
    """SLOC's six scores, from removing the most relevant or the least relevant pixels first.

    POS (most relevant first) and NEG (least relevant first) are the areas under a curve that is 1
    while the most probable class is that of the clean image, and 0 otherwise. DEL and INS are the
    areas under the probability of the followed class on the same images. NPD = NEG - POS and
    IDD = INS - DEL. All are percentages. INS is not comparable with RISE's insertion: it replaces
    pixels by the mean color instead of restoring them in a blurred image. Cost for each image, with
    n steps: 2 n forward passes.

    Source: SLOC, the released metrics: 21 points, mean fill, trapezoidal rule. They follow the
    predicted class, `Score(target="predicted")`.

    Differences from the released code:
        - The two orders are exact reverses. The code leaves the order of equal pixels to topk.

    Args:
        steps: Number of equal steps.
        fill: Name of the fill, see `fills.fill`.
        draws: Number of points of each curve to evaluate, see `RISECurves`; None evaluates all.
            `steps` equal to H W draws from all pixels.
        batch_size: Number of perturbed images in each forward pass.
        channels_last: Whether these batches are in the channels-last memory layout. None takes
            `Explanandum.channels_last`.
        response: What the curves follow, and the order of equal pixels, see `ResponseOptions`.
    """

    names = ("POS", "NEG", "DEL", "INS", "NPD", "IDD")
    # torchmetrics allows one direction per metric, and mypy checks against that declaration.
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
        channels_last: bool | None = None,
        response: ResponseOptions | None = None,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(draws, batch_size, channels_last, response)
        _check(None, steps)
        if self.response["kind"] != "class":
            raise ValueError("POS and NEG follow the class: response: {kind: class}")
        self.steps, self.fill = steps, fill

    def setting(self, size: tuple[int, int]) -> Curve:
        """The curve that removes the most relevant pixels first."""
        return Curve("most", fill=self.fill, steps=self.steps)

    def score(
        self, images: Tensor, maps: Tensor, targets: Tensor, explanandum: Explanandum
    ) -> dict[str, Tensor]:
        """Percentages (B,) for images (B, 3, H, W), maps (B, H, W) and one-hot targets (B, K)."""
        first = self.setting((maps.shape[1], maps.shape[2]))
        last = replace(first, order="least")
        most, least = self.run([first, last], images, maps, targets, explanandum)
        heights = {
            "POS": (first, curve_values(most, "unchanged", targets)),
            "NEG": (last, curve_values(least, "unchanged", targets)),
            "DEL": (first, most.probability),
            "INS": (last, least.probability),
        }
        size = maps[0].numel()
        areas = {name: 100 * self.kept_area(name, *each, size) for name, each in heights.items()}
        return areas | {"NPD": areas["NEG"] - areas["POS"], "IDD": areas["INS"] - areas["DEL"]}


class CurveAUC(CurveMetric):
    """Area under a single perturbation curve.

    Higher is better if the most relevant pixels are restored first or the least relevant pixels are
    removed first. The base metric of the masking-explanations papers is start "fill", pixels 1792,
    rule "mean", skip_first true, and fill "mean" (gray) or "images" with a count of 40.

    Args:
        name: Name of the column.
        order: Pixels that change first: the "most" or the "least" relevant.
        start: Start of the curve: "image" replaces pixels by the fill, "fill" restores them.
        fill: Name of the fill, see `fills.fill`.
        steps: Number of equal steps. Without `steps` and `pixels`, a step is one image width.
        pixels: Number of pixels per step.
        value: Height of the curve: the "probability" or "logit" of the followed class, "hit" (1 if
            it is the most probable class) or "unchanged" (1 if the clean image's top class stays).
        area: Options for the area under the curve, see `AreaOptions`.
        fill_options: Options of the fill, see `FillOptions`.
        draws: Number of points to evaluate, whose mean is the area, see `RISECurves`; None
            evaluates all. Not allowed with random fills or `area`.
        inpainter: Function that fills the replaced pixels, instead of `fill`; see `Inpainted`.
        batch_size: Number of perturbed images in each forward pass.
        channels_last: Whether these batches are in the channels-last memory layout. None takes
            `Explanandum.channels_last`.
        response: What the curves follow, and the order of equal pixels, see `ResponseOptions`.

    Raises:
        ValueError: If an option is unknown or does not suit the others.
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
        channels_last: bool | None = None,
        response: ResponseOptions | None = None,
    ) -> None:
        check_choices(type(self), locals())
        super().__init__(draws, batch_size, channels_last, response)
        _check(pixels, steps)
        if self.response["kind"] == "similarity" and value != "probability":
            raise ValueError(
                f"with the response similarity there is no value {value!r}: leave it out"
            )
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
        """The curve for images of size (H, W)."""
        pixels = self.pixels if self.steps or self.pixels else size[1]
        return Curve(self.order, self.start, self.fill, steps=self.steps, pixels=pixels)

    def direction(self, figure: str) -> bool:
        """Whether higher is better: restoring the most or removing the least relevant pixels."""
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
        mean = self.kept_area(self.names[0], whole, values, maps[0].numel())
        if self.draws is not None:
            return {self.names[0]: mean}
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
