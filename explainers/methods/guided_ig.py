"""Guided integrated gradients: a path that changes the values of the smallest gradients first."""

import math

import torch
from torch import Tensor
from tqdm import tqdm

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.explanandum.input_gradients import (
    Channels,
    Score,
    input_gradients,
    over_channels,
)

CLOSE = 1e-9  # of the distance that is left, relative to the whole distance


class GuidedIG(Explainer):
    """Gradients along a path from a baseline to the image that avoids large gradients.

    At every step, the path must have come a given share of the L1 distance to the image. The values
    (of a pixel and channel) whose gradients are smallest move first, to the end of a band around
    the straight path. The attribution of a value is the sum of its moves times its gradients. Each
    image and class has a path of its own. Sums are in float64.

    Source: Kapishnikov et al., "Guided Integrated Gradients: An Adaptive Path Method for Removing
    Noise", CVPR 2021, algorithm 1 and section 3.3 (the band), and the released code, whose defaults
    are those of `steps`, `fraction` and `max_distance`. SLOC's comparison has 100, 0.5 and 1.0 and
    explains the probability.

    Differences from the released code:
        - Distances and gradients are those of images in [0, 1], not of normalized images.
        - Several images and classes are explained side by side.

    Cost for each image and class: `steps` forward and backward passes, one after another. The sum
    of the map with `channels` "sum" differs from score(image) - score(baseline) by an error of
    order 1 / `steps`.

    Args:
        explanandum: The classifier to explain.
        steps: Number of steps.
        fraction: Fraction of all values that move together, in (0, 1]. The values that have moved
            already count among those that are left.
        max_distance: Half the width of the band around the straight path, as a fraction of the
            path. 0 gives integrated gradients, 1 a free path.
        channels: Reduction of the signed values over the channels, see `over_channels`.
        score: Score that is explained, "logit" or "probability".
        batch_size: Number of image-class pairs side by side. It changes only speed and memory.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If a choice is unknown or a number is out of range.
    """

    needs_gradients = True
    speed_only = ("batch_size",)
    quick = {"steps": 12}  # noqa: RUF012

    def __init__(
        self,
        explanandum: Explanandum,
        steps: int = 200,
        fraction: float = 0.25,
        max_distance: float = 0.02,
        channels: Channels = "sum_abs",
        score: Score = "logit",
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if min(steps, batch_size) < 1 or not 0 < fraction <= 1 or not 0 <= max_distance <= 1:
            raise ValueError(
                "steps and batch_size must be positive, fraction must lie in (0, 1] and "
                f"max_distance in [0, 1], got {steps}, {batch_size}, {fraction} and {max_distance}"
            )
        self.steps, self.fraction, self.max_distance = steps, fraction, max_distance
        self.channels, self.score, self.batch_size = channels, score, batch_size
        self.is_signed = channels == "sum"

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), signed if `channels` is "sum", otherwise >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, `batch_size` pairs at a time."""
        rows = torch.arange(len(images), device=images.device).repeat_interleave(classes.shape[1])
        chunks = (torch.split(each, self.batch_size) for each in (rows, classes.flatten()))
        parts = list(zip(*chunks, strict=True))
        # The bar appears only in terminals, and only if the work takes longer than a second.
        total = self.steps * len(parts)
        with tqdm(total=total, desc="Guided IG", leave=False, delay=1, disable=None) as bar:
            found = torch.cat([self._along_path(images[own], wanted, bar) for own, wanted in parts])
        return over_channels(found.view(*classes.shape, *images.shape[1:]), self.channels)

    def _along_path(self, images: Tensor, classes: Tensor, bar: "tqdm[None]") -> Tensor:
        """Attributions (n, 3, H, W) of images with one class each, (n,)."""
        goal = images.flatten(1).double()
        start = self.explanandum.mean.to(images).expand_as(images).flatten(1).double()
        way = goal - start
        whole = way.abs().sum(dim=1)
        place, result = start.clone(), torch.zeros_like(goal)
        for step in range(1, self.steps + 1):
            shown = place.to(images).view_as(images)
            grads = input_gradients(
                self.explanandum, shown, classes[:, None], self.score, self.batch_size
            )
            share = step / self.steps
            low = start + max(share - self.max_distance, 0.0) * way
            high = start + min(share + self.max_distance, 1.0) * way
            ahead = torch.sign(way)
            slopes = grads[:, 0].flatten(1).double()
            # A value behind the band jumps to its near end, before any other moves.
            before, place = place, torch.where((low - place) * ahead > 0, low, place)
            place = self._move(place, goal, high, slopes.abs(), (1 - share) * whole, CLOSE * whole)
            result += (place - before) * slopes
            bar.update()
        return result.view_as(images)

    def _move(
        self, place: Tensor, goal: Tensor, high: Tensor, sizes: Tensor, wanted: Tensor, near: Tensor
    ) -> Tensor:
        """Values (n, F) after those of the smallest gradients have moved, up to `high`.

        Args:
            place: Values (n, F) before.
            goal: Values (n, F) of the images.
            high: Values (n, F) at the far end of the band.
            sizes: Magnitudes (n, F) of the gradients.
            wanted: Distance (n,) to the image that must be left.
            near: Difference (n,) from that distance which counts as none.
        """
        last = math.floor(self.fraction * (place.shape[1] - 1)) + 1
        place, rows = place.clone(), torch.arange(len(place), device=place.device)
        while True:
            surplus = (place[rows] - goal[rows]).abs().sum(dim=1) - wanted[rows]
            rows, surplus = rows[surplus > near[rows]], surplus[surplus > near[rows]]
            if not len(rows):
                return place
            left = (high[rows] - place[rows]).abs()
            order = sizes[rows].where(left > 0, torch.inf)
            limit = order.kthvalue(last, dim=1, keepdim=True).values
            moved = (order <= limit) & (order < torch.inf)
            reach = left.where(moved, 0.0).sum(dim=1)
            # With no way left, or gradients that are not finite, nothing can move.
            gain = (surplus / reach.clamp(min=torch.finfo(reach.dtype).tiny)).clamp(max=1.0)
            there = torch.where(
                gain[:, None] < 1, torch.lerp(place[rows], high[rows], gain[:, None]), high[rows]
            )
            place[rows] = torch.where(moved, there, place[rows])
            rows = rows[(reach > 0) & (surplus > reach)]
