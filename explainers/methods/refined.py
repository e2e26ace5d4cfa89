"""Refined: a map of any method, improved for one image by gradient steps on its own curves."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.checkpoint import load_beside
from explainers.explanandum import Explanandum
from explainers.explanandum.gradients import pyramid_maps, standardise
from explainers.functional import content
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice
from explainers.functional.soft_masks import stratified_shares
from explainers.optimization import areas
from explainers.optimization.areas import ESTIMATOR, SENSES, EstimatorOptions

EPS = 0.1  # of Adam, in root mean squares of the gradient


class Refined(Explainer):
    """The map of another method, after a few steps that raise its areas under the curves.

    The standardized map is changed by Adam so that the first pixels show the class when they are
    inserted into a fill, and the image without them does not. Each step estimates the difference of
    the two areas from one soft insertion mask and one soft deletion mask (see
    `optimization.areas`), with shares of the pixels that are spread evenly over the steps.

    This optimizes what insertion and deletion curves measure, on the very image that is explained,
    as the other optimizers of single images do. A trained explainer does not see the curves of the
    image. The map has no scale.

    Source: none published.

    Cost for each image and class: that of the method that it starts from, and `passes` forward and
    `passes` backward passes.

    Args:
        explanandum: The classifier to explain.
        start: Method whose map is refined. None takes `cam.PyramidCAM`.
        checkpoint: Checkpoint of an explainer of this classifier, instead of `start`.
        passes: Number of masked images, an even number. Each costs a forward and a backward pass
            beyond those of the start.
        lr: Learning rate of Adam, in standard deviations of the map.
        cell: Side in pixels of the grid on which the map is changed. The larger, the smoother.
        estimator: Options of the estimate, see `areas.EstimatorOptions`.
        seed: Seed of the shares and fills.

    Raises:
        ValueError: If an option is out of range, or both `start` and `checkpoint` are given.
    """

    needs_gradients = True

    def __init__(
        self,
        explanandum: Explanandum,
        start: Callable[[Explanandum], Explainer] | None = None,
        checkpoint: str | None = None,
        passes: int = 24,
        lr: float = 0.3,
        cell: int = 4,
        estimator: EstimatorOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if start is not None and checkpoint is not None:
            raise ValueError("give start or checkpoint, not both")
        if passes < 2 or passes % 2 or lr <= 0 or cell < 1:
            raise ValueError(
                "expected an even number of passes, lr > 0 and cell >= 1, "
                f"got {passes}, {lr} and {cell}"
            )
        self.estimator: EstimatorOptions = self.complete("estimator", ESTIMATOR)
        areas.check(self.estimator)
        self.passes, self.lr, self.cell = passes, lr, cell
        self.first: Explainer | None = start(explanandum) if start else None
        if checkpoint is not None:
            self.first = load_beside(explanandum, checkpoint)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scores (B, H, W), whose mean and variance are about 0 and 1."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Scores (B, k, H, W) of several classes for each image."""
        if self.first is None:
            starts = pyramid_maps(self.explanandum, images, classes)
        else:
            starts = standardise(self.first.class_maps(images, classes))
        columns = zip(starts.unbind(1), classes.unbind(1), strict=True)
        return torch.stack([self._refine(images, *each) for each in columns], dim=1)

    def _refine(self, images: Tensor, start: Tensor, classes: Tensor) -> Tensor:
        generator, steps = self.generator(), self.passes // 2
        # The same shares and fills for every image, so that no map depends on the others.
        shares = [stratified_shares(steps, generator) for _ in SENSES]
        fills = [areas.draw_fills(self.estimator, sense, steps, generator) for sense in SENSES]
        height, width = (-(-side // self.cell) for side in start.shape[-2:])
        change = start.new_zeros(len(start), 1, height, width).requires_grad_()
        optimizer = torch.optim.Adam([change], lr=self.lr, betas=(0.5, 0.9), eps=EPS)
        for step in range(steps):
            scores = start + _enlarged(change, start.shape[-2:])
            behind, instead = (self._fill(images, names[step], generator) for names in fills)
            first, second = (each[step].expand(len(images)) for each in shares)
            inserted, deleted = areas.areas(
                self.explanandum, self.estimator, images, scores, classes,
                (behind, instead), (first, second),
            )  # fmt: skip
            (grad,) = torch.autograd.grad((deleted - inserted).sum(), change)
            # Adam would let rounding decide where the gradient is almost 0.
            power = grad.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            change.grad = grad / power.clamp(min=torch.finfo(grad.dtype).tiny)
            optimizer.step()
        return (start + _enlarged(change, start.shape[-2:])).detach()

    def _fill(self, images: Tensor, name: FillChoice, generator: torch.Generator) -> Content:
        """The fill of all images; noise is the same for every image."""
        return content.behind(self.explanandum.fill(name, generator), images)


def _enlarged(change: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(change, size=size, mode="bilinear").squeeze(1)
