"""FORGrad: the map of another method without its high spatial frequencies."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.checkpoint import load_beside
from explainers.explanandum import Explanandum
from explainers.explanandum.input_gradients import input_gradients
from explainers.functional import fills
from explainers.metrics.faithfulness import RISECurves

CUTOFFS = (4.0, 8.0, 12.0, 15.0, 20.0, 28.0, 40.0, 56.0, 80.0, 112.0, 160.0)


class FORGrad(Explainer):
    """The map of any other method after an ideal low-pass filter.

    Frequencies above the cut-off are removed from the discrete Fourier transform of the map. The
    high frequencies of gradients are mostly noise of strided layers and poolings.

    With `bank`, the cut-off is the one whose maps have the highest mean Faithfulness, insertion
    minus deletion, on photographs of a folder. They should be others than those of the test. The
    row is then selected by the metric that RISECurves measures, and a table of these metrics must
    say so. `choose` does the same for any images.

    Source: Muzellec et al., "Saliency strikes back: How filtering out high frequencies improves
    white-box explanations", ICML 2024. They choose the cut-off of each classifier and method on
    1280 validation images of ImageNet.

    Cost for each image: that of the other method. The choice of a cut-off takes, once, that of the
    other method for each photograph, and a curve of 32 steps for each photograph and cut-off: 65
    forward passes.

    Args:
        explanandum: The classifier to explain.
        method: Method whose map is filtered. None takes the largest magnitude of the gradient of
            the logit over the channels, as `captum_methods.Saliency`.
        checkpoint: Checkpoint of an explainer of this classifier, instead of `method`.
        cutoff: Largest frequency that stays, in cycles per image side; 15 as in xplique. Of images
            that are not square, the frequencies of each axis are cycles along that axis.
        absolute: Whether absolute values are taken before and after the filter, as in xplique.
        bank: Folder of photographs on which the cut-off is chosen, in the first call. They are
            resized to the size of the classifier.
        photographs: Number of photographs that are drawn from `bank`.
        seed: Seed of the draw of photographs.

    Raises:
        ValueError: If a number is not positive, or both `method` and `checkpoint` are given.
    """

    needs_gradients = True

    def __init__(
        self,
        explanandum: Explanandum,
        method: Callable[[Explanandum], Explainer] | None = None,
        checkpoint: str | None = None,
        cutoff: float = 15.0,
        absolute: bool = False,
        bank: str | None = None,
        photographs: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if method is not None and checkpoint is not None:
            raise ValueError("give method or checkpoint, not both")
        if cutoff <= 0 or photographs < 1:
            raise ValueError(
                f"cutoff and photographs must be positive, got {cutoff} and {photographs}"
            )
        self.inner: Explainer | None = method(explanandum) if method else None
        if checkpoint is not None:
            self.inner = load_beside(explanandum, checkpoint)
        self.cutoff, self.absolute, self.bank = cutoff, absolute, bank
        self.photographs, self._chosen = photographs, bank is None
        if self.inner is not None:
            self.class_specific = self.inner.class_specific
            self.is_signed = self.inner.is_signed and not absolute
            self.needs_masks = self.inner.needs_masks

    def observe(self, batch: dict[str, Any]) -> None:
        """Hands the batch to the other method."""
        if self.inner is not None:
            self.inner.observe(batch)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), which can be slightly negative even if those of the other are not."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image."""
        if not self._chosen and self.bank is not None:
            height, width = self.explanandum.input_size
            bank = fills.read_bank(self.bank, height, width, self.photographs, self.seed)
            figures = self.choose(bank.to(images))
            self._chosen = True
            rank_zero_info(
                f"FORGrad: the cut-off {self.cutoff:g} was chosen by Faithfulness "
                f"({figures[self.cutoff]:.3f}) on {len(bank)} photographs of {self.bank}"
            )
        return self._filtered(self._unfiltered(images, classes), self.cutoff)

    def choose(self, images: Tensor, cutoffs: Sequence[float] = CUTOFFS) -> dict[float, float]:
        """Sets the cut-off with the highest mean Faithfulness on images, and returns all of them.

        Args:
            images: Images (B, 3, H, W) in [0, 1], explained for the classes predicted first.
            cutoffs: Cut-offs that are tried.
        """
        curves = RISECurves(steps=32)
        total = torch.zeros(len(cutoffs), dtype=torch.float64)
        for image in torch.split(images, 1):
            with torch.no_grad():
                top = self.explanandum(image).argmax(dim=1)
            targets = F.one_hot(top, self.explanandum.num_classes).bool()
            with torch.set_grad_enabled(self.needs_gradients):
                maps = self._unfiltered(image, top[:, None])[:, 0].detach()
            for place, cutoff in enumerate(cutoffs):
                filtered = self._filtered(maps, cutoff)
                with torch.no_grad():
                    found = curves.score(image, filtered, targets, self.explanandum)
                total[place] += float(found["Faithfulness"].sum()) / len(images)
        figures = dict(zip(cutoffs, total.tolist(), strict=True))
        self.cutoff = max(figures, key=lambda each: figures[each])
        return figures

    def _unfiltered(self, images: Tensor, classes: Tensor) -> Tensor:
        if self.inner is not None:
            return self.inner.class_maps(images, classes)
        return input_gradients(self.explanandum, images, classes).abs().amax(dim=2)

    def _filtered(self, maps: Tensor, cutoff: float) -> Tensor:
        filtered = low_pass(maps.abs() if self.absolute else maps, cutoff)
        return filtered.abs() if self.absolute else filtered


def low_pass(maps: Tensor, cutoff: float) -> Tensor:
    """Maps (..., H, W) without frequencies above `cutoff`, in cycles per side.

    Example:
        >>> low_pass(torch.tensor([[3.0, 1.0, 3.0, 1.0]]), cutoff=1.0)
        tensor([[2., 2., 2., 2.]])
    """
    height, width = maps.shape[-2:]
    rows = torch.fft.fftfreq(height, 1 / height, device=maps.device)
    columns = torch.fft.rfftfreq(width, 1 / width, device=maps.device)
    # Frequencies are whole numbers up to rounding, which must not decide at the cut-off.
    kept = rows.round()[:, None] ** 2 + columns.round() ** 2 <= cutoff**2
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(maps) * kept, s=(height, width))
    return filtered
