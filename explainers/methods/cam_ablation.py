"""Class activation maps whose weights are found by trying each channel, without gradients."""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from explainers.base import Explainer
from explainers.explanandum import Explanandum, layouts
from explainers.explanandum.gradients import checked_layer
from explainers.explanandum.neurons import from_neurons, to_neurons
from explainers.explanandum.tails import Tail, finished_before
from explainers.functional import masking
from explainers.functional.planes import upsample


class AblationCAM(Explainer):
    """Sum of a layer's channels, weighted by the drop of the logit if the channel is set to 0.

    Negative sums are set to 0, and the map is upsampled bilinearly. Of tokens, those of the class
    and registers lose the channel too.

    The features and all earlier outputs of the network are kept, so that only the layers behind run
    for each channel.

    Source: Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network
    via Gradient-free Localization", WACV 2020, eq. 5 and 6.

    Cost for each image, whatever the number of classes: one forward pass, and one pass through the
    layers behind for each channel (512 for a ResNet-18, 1920 for a DenseNet-201), which the metric
    Passes does not count.

    Args:
        explanandum: The classifier to explain.
        layer: Name of the layer's module in `explanandum.model`. None selects `default_layer`.
        relative: Whether the drop is divided by the logit, as published. This changes the sign of
            the map where the logit is negative, and otherwise only its scale.
        batch_size: Number of channels in a pass. It changes only speed and memory.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If there is no such layer, it gives no maps, or `batch_size` is not positive.
        NotDefinedError: If no layer is given and no default is found.
    """

    speed_only = ("batch_size",)

    def __init__(
        self,
        explanandum: Explanandum,
        layer: str | None = None,
        relative: bool = False,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        _check(batch_size)
        self.layer = checked_layer(explanandum, layer)
        self.relative, self.batch_size = relative, batch_size
        self.before = finished_before(explanandum, self.layer)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    @torch.no_grad()
    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one set of passes."""
        tail = Tail(self.explanandum, self.layer, self.before, images)
        layout = layouts.of(self.explanandum, self.layer)
        values = layout.to_maps(tail.final, images.shape).float()
        neurons, _ = to_neurons(tail.output, layout, images.shape)
        whole = tail.logits.gather(1, classes)  # (B, k)
        dropped = whole.new_empty(neurons.shape[1], *classes.shape)
        for row, chunk in _chunks(values, self.batch_size, "Ablation-CAM"):
            without = neurons[row].repeat(len(chunk), 1, 1)
            without[torch.arange(len(chunk), device=chunk.device), chunk] = 0
            form = tail.output[row].expand(len(chunk), *tail.output.shape[1:])
            logits = tail.rerun(row, from_neurons(without, form, layout))
            dropped[chunk, row] = whole[row] - logits[:, classes[row]]
        weights = dropped / whole if self.relative else dropped
        return _summed(weights, values, images)


class ScoreCAM(Explainer):
    """Sum of a layer's channels, weighted by what the image scores if only the channel is shown.

    Each channel is upsampled bilinearly, scaled to [0, 1] and multiplied with the normalized image,
    which shows the mean color where the channel is 0. The weights are the softmax over the channels
    of the logits of these images. Negative sums are set to 0. The published difference from the
    logit of a baseline leaves the softmax as it is. With hundreds of channels, the softmax of
    logits often selects only a few of them.

    Source: Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
    Networks", CVPR workshops 2020, eq. 7 to 9 and algorithm 1.

    Cost for each image, whatever the number of classes: one forward pass and one for each channel
    (512 for a ResNet-18, 1280 for an EfficientNet-Lite0).

    Args:
        explanandum: The classifier to explain.
        layer: Name of the layer's module in `explanandum.model`. None selects `default_layer`.
        batch_size: Number of masked images in a pass. It changes only speed and memory.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If there is no such layer, it gives no maps, or `batch_size` is not positive.
        NotDefinedError: If no layer is given and no default is found.
    """

    speed_only = ("batch_size",)

    def __init__(
        self,
        explanandum: Explanandum,
        layer: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        _check(batch_size)
        self.layer, self.batch_size = checked_layer(explanandum, layer), batch_size

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    @torch.no_grad()
    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one set of forward passes."""
        kept = Tail(self.explanandum, self.layer, [], images)
        layout, mean = layouts.of(self.explanandum, self.layer), self.explanandum.mean.to(images)
        values = layout.to_maps(kept.final, images.shape).float()
        scores = kept.logits.new_empty(values.shape[1], *classes.shape)
        for row, chunk in _chunks(values, self.batch_size, "Score-CAM"):
            large = upsample(values[row, chunk][:, None], images.shape[-2:])[:, 0]
            shown = masking.blend(images[row : row + 1], masking.minmax(large), mean)
            scores[chunk, row] = self.explanandum(shown)[:, classes[row]]
        return _summed(scores.softmax(dim=0), values, images)


def _check(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")


def _chunks(values: Tensor, batch_size: int, title: str) -> Iterator[tuple[int, Tensor]]:
    """Each image of features (B, C, h, w), with its channels in chunks, under a progress bar."""
    channels = torch.arange(values.shape[1], device=values.device)
    total = len(values) * len(channels)
    # The bar appears only in terminals, and only if the work takes longer than a second.
    with tqdm(total=total, desc=title, leave=False, delay=1, disable=None) as bar:
        for row in range(len(values)):
            for chunk in torch.split(channels, batch_size):
                yield row, chunk
                bar.update(len(chunk))


def _summed(weights: Tensor, values: Tensor, images: Tensor) -> Tensor:
    """Maps (B, k, H, W) of weights (C, B, k) and features (B, C, h, w)."""
    maps = torch.einsum("cbk,bchw->bkhw", weights.to(values), values).relu()
    return upsample(maps, images.shape[-2:])
