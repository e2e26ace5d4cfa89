"""Observers of a solver that keep the maps of some of its steps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional import content
from explainers.functional.content import Content
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve

Observer = Callable[[Tensor, int, Tensor], None]  # image indices, finished steps, maps (n, k, H, W)


class KeepSteps:
    """Keeps the maps after given steps, as `maps` (len(steps), B, k, H, W).

    Args:
        steps: Numbers of the steps.
        like: Maps (B, k, H, W), which determine the shape, type and device.
    """

    def __init__(self, steps: Sequence[int], like: Tensor) -> None:
        self.steps = list(steps)
        self.maps = like.new_zeros(len(self.steps), *like.shape)

    def __call__(self, rows: Tensor, step: int, maps: Tensor) -> None:
        """Keeps the maps of some images if this step is one of the given ones."""
        for slot in (i for i, wanted in enumerate(self.steps) if wanted == step):
            self.maps[slot, rows] = maps


class KeepBest:
    """Keeps the snapshot of each map with the highest insertion minus deletion, (B, k, H, W).

    Insertion and deletion are areas under the probability of the class at 11 points. They are
    SLOC's INS and DEL on a coarser grid, so that selecting by them means selecting by the metric.
    They take 20 forward passes for each image, class and snapshot.

    Source: the released code of SLOC_m, which counts steps from 0 and takes snapshots at the end of
    steps 60, 75, 90, ... and of the last one: after 61, 76, 91, ... updates.

    Differences from the released code:
        - A point keeps or removes a tenth more of the pixels, and equal pixels are ordered. The
          released code cuts the map at its quantiles and keeps what is strictly above, or below.

    Args:
        explanandum: The classifier.
        images: Images (B, 3, H, W) in [0, 1].
        fills: Content that replaces removed pixels, broadcastable to the images, or an inpainter.
        classes: Classes of the maps, (B, k) int64.
        last: Number of the solver's steps.
        batch_size: Number of perturbed images in a forward pass.
        channels_last: Whether the batches use the channels-last memory layout. None takes
            `Explanandum.channels_last`.
    """

    def __init__(
        self,
        explanandum: Explanandum,
        images: Tensor,
        fills: Content,
        classes: Tensor,
        last: int,
        batch_size: int,
        channels_last: bool | None = None,
    ) -> None:
        self.explanandum, self.classes, self.last = explanandum, classes, last
        self.images = images
        self.fills = fills.expand_as(images) if isinstance(fills, Tensor) else fills
        self.batch_size, self.channels_last = batch_size, channels_last
        self.maps = images.new_zeros(*classes.shape, *images.shape[-2:])
        self.scores = images.new_full(classes.shape, -torch.inf, dtype=torch.float64)

    def __call__(self, rows: Tensor, step: int, maps: Tensor) -> None:
        """Scores the maps of some images if a snapshot is due after this step."""
        if step != self.last and (step <= 51 or step % 15 != 1):
            return
        classes = self.classes[rows]
        images = self.images[rows].repeat_interleave(classes.shape[1], dim=0)
        fill = content.repeated(content.rows(self.fills, rows), classes.shape[1])
        least, most = curves.run(
            self.explanandum,
            images,
            maps.flatten(0, 1),
            F.one_hot(classes.flatten(), self.explanandum.num_classes).bool(),
            [Curve("least", fill=fill, steps=10), Curve("most", fill=fill, steps=10)],
            self.batch_size,
            self.channels_last,
        )
        gains = curves.auc(least.probability) - curves.auc(most.probability)
        scores = gains.to(self.scores).view_as(classes)
        better = scores > self.scores[rows]
        self.scores[rows] = torch.maximum(scores, self.scores[rows])
        self.maps[rows] = torch.where(better[:, :, None, None], maps, self.maps[rows])
