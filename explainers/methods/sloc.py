"""SLOC: a map whose sums over random masks approximate the classifier's responses to them."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from explainers import door
from explainers.base import Explainer
from explainers.checkpoint import load_beside
from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice, Inpainted
from explainers.optimization import completeness
from explainers.optimization.completeness import SOLVER, STEPS, SolverOptions
from explainers.optimization.snapshots import KeepBest, KeepSteps, Observer
from explainers.perturbation import responses
from explainers.perturbation.adaptive import check_tolerance, standard_error
from explainers.perturbation.patches import PatchSums
from explainers.perturbation.responses import PATCHES, PatchOptions


class SLOC(Explainer):
    """Soft local completeness: a map whose sum over every mask approximates the response to it.

    The response to a mask is the probability of the class for the masked image, minus its
    probability for the fill alone. The map minimizes the squared differences between its sums and
    the responses to random masks, plus penalties that make it sparse and smooth; see the loss in
    `completeness`.

    Source: Haddad, Barkan, Elisha and Koenigstein, "Soft Local Completeness: Rethinking
    Completeness in XAI", eq. 4, and its released code.

    Differences from the released code:
        - The squares of the masks tile the image exactly. The released code takes superpixels,
          which makes the squares a pixel larger or smaller.
        - The masks are seeded. All images with the same keep probabilities share one set.
        - The keep probabilities are chosen for the predicted class of the image, so that all
          classes share the masks.

    Cost for each image and run: 1 forward pass of the image, `masks` forward passes (fewer with a
    `tolerance`), and 13 `tuning_masks` for each side if `probability` is None. The fill costs 1
    forward pass for all images together, or 1 for each image if it is a blur. Forward passes do not
    depend on the class: `class_maps` of ten classes costs as many as of one.

    Args:
        explanandum: The classifier to explain; only its probabilities are used.
        masks: Number of masks.
        patches: Options of the masks, see `responses.PatchOptions`.
        fill: Content that replaces pixels, see `fills.fill`; "mean" as published. "images" is not
            allowed.
        solver: Options of the solver, see `completeness.SolverOptions`.
        lambda1: Weight of the sum of the absolute values of the map.
        lambda2: Weight of the sum of the squared differences of neighboring pixels.
        units: Units of lambda1 and lambda2. "released": as in the code and, judging by their
            values, in the paper's tables: lambda1 is divided by 3 H W, lambda2 is multiplied by
            H / (H - 1) for vertical and W / (W - 1) for horizontal neighbors. "paper": as printed
            in eq. 4, where lambda1 = 0.01 gives a map of zeros.
        start: Path of a checkpoint of an explainer of the same classifier. The optimization starts
            from its map instead of noise.
        runs: Number of independent runs, each with its own masks and noise.
        aggregation: Pixelwise aggregation of the runs' maps: "mean", "median", "min" or "product".
            The product is given as the geometric mean, which ranks pixels alike, and is 0 where a
            map is not positive.
        share: Whether to reuse the responses that the previous SLOC with the same masks and fill
            measured on the same images, for tables of settings that do not affect the masks. The
            `seconds` of such a table leave out the forward passes.
        batch_size: Number of masked images in a forward pass; it does not change the maps.
        channels_last: Whether these batches have the memory layout channels_last. None takes
            `Explanandum.channels_last`.
        seed: Seed of the masks and the noise.
        tolerance: Standard error of the map's ranks at which an image needs no more masks, see
            `adaptive.standard_error`. It is judged after 128, 256, ... masks by the minima of the
            loss for two halves; the least certain class counts. None shows all `masks`.

    Raises:
        ValueError: If an argument is out of range, or if `start` explains another classifier.
    """

    is_signed = True
    speed_only = ("batch_size", "channels_last")
    quick: ClassVar = {"masks": 300, "patches": {"tuning_masks": 20}}

    def __init__(
        self,
        explanandum: Explanandum,
        masks: int = 1000,
        patches: PatchOptions | None = None,
        fill: FillChoice = "mean",
        solver: SolverOptions | None = None,
        lambda1: float = 0.01,
        lambda2: float = 0.1,
        units: Literal["released", "paper"] = "released",
        start: str | None = None,
        runs: int = 1,
        aggregation: Literal["mean", "median", "min", "product"] = "mean",
        share: bool = False,
        batch_size: int = 64,
        channels_last: bool | None = None,
        seed: int = 0,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(explanandum, seed)
        patches = self.complete("patches", PATCHES)
        name = (solver or {}).get("name", SOLVER["name"])
        defaults: SolverOptions = {**SOLVER, "steps": STEPS[name]}
        self.solver = self.complete("solver", defaults)
        sides, probability = patches["sides"], patches["probability"]
        self.sides = [sides] if isinstance(sides, int) else list(sides)
        each = probability if isinstance(probability, list) else [probability] * len(self.sides)
        self.probability: list[float | None] = list(each)
        self.masks, self.tuning_masks, self.fill = masks, patches["tuning_masks"], fill
        self.steps = int(self.solver["steps"] or 0)
        self.lambda1, self.lambda2, self.units = lambda1, lambda2, units
        self.runs, self.aggregation, self.share = runs, aggregation, share
        self.batch_size, self.channels_last, self.tolerance = batch_size, channels_last, tolerance
        self._check()
        self.start = None if start is None else load_beside(explanandum, start)

    def _check(self) -> None:
        check_tolerance(self.tolerance, self.masks)
        if self.tolerance is not None and self.share:
            raise ValueError("share needs a fixed budget: set tolerance to null, or share to false")
        positive = [*self.sides, self.tuning_masks, self.runs, self.batch_size]
        few = not 1 <= len(self.sides) <= self.masks
        if few or min(positive) < 1 or self.steps < 0:
            raise ValueError(
                "expected at least one side, a mask a side, a positive side, tuning_masks, runs "
                "and batch_size, and steps not negative, got "
                f"{self.masks} masks, {positive} and {self.steps} steps"
            )
        fixed = [p for p in self.probability if p is not None]
        if len(self.probability) != len(self.sides) or not all(0 < p <= 1 for p in fixed):
            raise ValueError(
                "probability must be None, a number in (0, 1] or a list of one for each of the "
                f"sides {self.sides}, got {self.probability}"
            )
        if self.solver["monitor"] and self.solver["name"] != "adam":
            raise ValueError(
                "monitor chooses among the maps of Adam: give the solver the name 'adam'"
            )
        if min(self.solver["lr"], self.solver["lr_decay"], self.lambda1, self.lambda2) < 0:
            raise ValueError("lr, lr_decay, lambda1 and lambda2 must not be negative")

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Signed maps (B, H, W), whose sum is about the response to the whole image."""
        return self.merged_map(images, targets)

    @torch.no_grad()
    def class_maps(self, images: Tensor, classes: Tensor, start: Tensor | None = None) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one set of forward passes.

        Args:
            images: Images (B, 3, H, W) in [0, 1].
            classes: Classes (B, k) int64.
            start: Initial maps (B, H, W) or (B, k, H, W) that replace the noise or the maps of the
                `start` checkpoint. Like these, each is scaled to sum to the response to its image.
        """
        maps = [self._run(images, classes, run, start) for run in range(self.runs)]
        return masking.aggregate(torch.stack(maps), self.aggregation)

    @torch.no_grad()
    def map_over_steps(
        self, images: Tensor, targets: Tensor, steps: Sequence[int], start: Tensor | None = None
    ) -> Tensor:
        """Maps (len(steps), B, H, W) of the first run after several steps, as in SLOC's figure 3.

        Args:
            images: Images (B, 3, H, W) in [0, 1].
            targets: One-hot targets (B, K) bool.
            steps: Numbers of steps of the solver. 0 gives the initial map.
            start: Initial maps, as in `class_maps`.

        Raises:
            ValueError: If targets are not one-hot, or if the solver takes fewer steps.
        """
        door.check_inputs(self, images, targets)
        if bool((targets.sum(dim=1) != 1).any()):
            raise ValueError("a map over steps follows one class an image: give one-hot targets")
        if min(steps) < 0 or max(steps) > self.steps:
            raise ValueError(f"steps must lie in [0, {self.steps}], got {list(steps)}")
        classes = targets.int().argmax(dim=1, keepdim=True)
        kept = KeepSteps(steps, images[:, :1])
        self._run(images, classes, 0, start, kept)
        return kept.maps[:, :, 0]

    def measure_responses(
        self, images: Tensor, classes: Tensor, run: int = 0
    ) -> responses.ResponseSet:
        """Responses to the masks of a run, see `responses.measure_responses`."""
        scale, count = min(images.shape[-2:]) / 224, len(self.sides)
        sampling = responses.Sampling(
            sides=tuple(max(1, round(side * scale)) for side in self.sides),
            counts=tuple(self.masks // count + (i < self.masks % count) for i in range(count)),
            probabilities=tuple(self.probability),
            tuning_masks=self.tuning_masks,
            seed=self._seeds(run)[0],
            batch_size=self.batch_size,
            channels_last=self.channels_last,
        )
        fills, settled = self._fills(images), None if self.tolerance is None else self._settled
        return responses.measure_responses(
            self.explanandum, images, fills, classes, sampling, self.share, settled
        )

    def _settled(self, part: responses.MaskResponses) -> Tensor:
        """Images (n,) bool whose maps are certain enough."""
        halves, steps = [], STEPS["admm"]
        for half in part.halves():
            wanted, gap = half.responses.flatten(0, 1), self.gap(half.sums)
            zeros = wanted.new_zeros(len(wanted), *half.sums.size)
            found = completeness.admm(completeness.factors(gap), wanted, zeros, steps)
            halves.append(found.view(*half.responses.shape[:2], *half.sums.size))
        return standard_error(torch.stack(halves)) <= (self.tolerance or 0.0)

    def _seeds(self, run: int) -> list[int]:
        """Seeds of the masks and of the noise of a run."""
        draws = torch.randint(2**62, (run + 1, 2), generator=self.generator())
        seeds: list[int] = draws[run].tolist()
        return seeds

    def _fills(self, images: Tensor) -> Content:
        fill = self.explanandum.fill(self.fill, self.generator())
        if isinstance(fill, Inpainted):
            return fill
        fills = fill(images)
        return fills.expand(-1, -1, *images.shape[-2:])

    def gap(self, sums: PatchSums) -> completeness.Gap:
        """Optimization problem of a set of masks, with this method's weights."""
        height, width = sums.size
        if self.units == "paper":
            return completeness.Gap(sums, self.lambda1, (self.lambda2, self.lambda2))
        down, across = (self.lambda2 * n / max(n - 1, 1) for n in (height, width))
        return completeness.Gap(sums, self.lambda1 / (3 * height * width), (down, across))

    def _run(
        self,
        images: Tensor,
        classes: Tensor,
        run: int,
        start: Tensor | None,
        observe: Observer | None = None,
    ) -> Tensor:
        """Maps (B, k, H, W) of one run."""
        whole, parts = self.measure_responses(images, classes, run)
        begin = self._begin(images, classes, whole, run, start)
        best = None
        if self.solver["monitor"]:
            layout = (self.steps, self.batch_size, self.channels_last)
            best = KeepBest(self.explanandum, images, self._fills(images), classes, *layout)
        observers = [o for o in (observe, best) if o is not None]
        result = torch.empty_like(begin)
        for part in parts:
            own = begin[part.rows]

            def watch(
                step: int, maps: Tensor, rows: Tensor = part.rows, shape: torch.Size = own.shape
            ) -> None:
                for observer in observers:
                    observer(rows, step, maps.view(shape))

            watch(0, own)
            result[part.rows] = self._solve(part, own.flatten(0, 1), watch).view(own.shape)
        return result if best is None else best.maps

    def _begin(
        self, images: Tensor, classes: Tensor, whole: Tensor, run: int, start: Tensor | None
    ) -> Tensor:
        """Initial maps (B, k, H, W), scaled to the sums `whole` (B, k)."""
        if start is not None:
            maps = start if start.ndim == 4 else start[:, None]
        elif self.start is not None:
            maps = self.start.class_maps(images, classes)
        else:
            noise = torch.Generator().manual_seed(self._seeds(run)[1])
            maps = 3 + 0.2 * torch.randn(images.shape[-2:], generator=noise)[None, None]
        maps = maps.to(images).expand(*classes.shape, -1, -1)
        total = maps.sum(dim=(2, 3))
        return maps * (whole / total.where(total != 0, torch.ones_like(total)))[:, :, None, None]

    def _solve(
        self, part: responses.MaskResponses, begin: Tensor, watch: completeness.Observer
    ) -> Tensor:
        wanted, gap = part.responses.flatten(0, 1), self.gap(part.sums)
        with torch.autocast(begin.device.type, enabled=False):
            if self.solver["name"] == "admm":
                return completeness.admm(
                    completeness.factors(gap), wanted, begin, self.steps, watch
                )
            # The released code counts each color channel, so its gradients are three times ours.
            lr, eps = self.solver["lr"] / (3 * begin[0].numel()), 1e-8 / 3
            decay = self.solver["lr_decay"]
            return completeness.adam(
                gap, wanted, begin, self.steps, lr, decay, eps=eps, observe=watch
            )
