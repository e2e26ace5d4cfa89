"""Ra-NEM: a network that ranks pixels, trained on the insertion and deletion curves themselves."""

from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.explanandum.gradients import pyramid_maps
from explainers.functional import losses
from explainers.functional.fills import FillChoice, Inpainted
from explainers.functional.omega import draw_k, gumbel, omega
from explainers.learned import LearnedExplainer
from explainers.networks import unet
from explainers.networks.unet import UNetOptions
from explainers.optimization import representation
from explainers.optimizers import PRODIGY, OptimizerOptions


class SelectionOptions(TypedDict, total=False):
    """How the pixels of a training step are selected.

    Args:
        sampling: Distribution of the numbers k: "stratified" over equal parts of the range, as in
            the released code, or "uniform", as in the paper; see `omega.draw_k`.
        draw: Whether the numbers k and the fill are drawn for each "image" (paper) or once for the
            "batch" (released code).
        shared_noise: Whether all numbers k of an image share one Gumbel noise. Its masks are then
            nested, and cheaper to compute.
        threshold: Center of the soft selection, "kth" as in the released code or "next" as in the
            paper, see `omega.omega`.
    """

    sampling: Literal["stratified", "uniform"]
    draw: Literal["image", "batch"]
    shared_noise: bool
    threshold: Literal["kth", "next"]


SELECTION: SelectionOptions = {
    "sampling": "stratified",
    "draw": "image",
    "shared_noise": False,
    "threshold": "kth",
}


class RaNEM(LearnedExplainer):
    """Ranks pixels so that the first k of them preserve the predicted class, for every k.

    The loss is the mean of 1 - p over random numbers k, where p is the probability of the class if
    the first k pixels are kept and the rest shows a random fill. It estimates 1 - the area under
    the insertion curve. The network is `unet.UNetDecoder` on the features of the explanandum.
    Labels are not used. The map is the raw scores, which rank the pixels and have no scale.

    Source: "Ra-NEM: Faithful Model Explanations through Stochastic Feature Selection", eq. 9-12 and
    Algorithm 1 (`omega`). As printed, eq. 11 and 12 together maximize 1 - p. The released code and
    the later version of the paper minimize it.

    The published method explains the predicted class only. It warns once if another is requested.
    Four options are extensions of this implementation:
        - `class_conditioned` explains any class. The deepest features pass through
          `unet.ClassGate`. Each image is trained for two classes, the predicted one and another
          one. The latter is drawn in proportion to the square root of its probability, so that
          probable classes are drawn more often than classes that no mask could produce.
        - `deletion` shortens training. In every second masked image the first k pixels are removed
          instead of kept, and the loss is p instead of 1 - p. The loss then covers the areas under
          both the insertion and the deletion curve, as the metric Faithfulness does.
        - `start` shortens training. The scores start as the map of a gradient method. The network
          also receives this map, averaged to the size of each level, and learns what to add to it.
          The gradients depend on the class, so any class can be explained. An image then costs two
          forward passes, and a backward pass for each class, instead of one forward pass.
        - `gain` shortens training, see below.

    Cost: one forward pass of the classifier for each image, and one of the decoder; with `start`,
    see above. A training step takes `samples` further forward and backward passes for each image,
    twice as many with `class_conditioned`.

    Args:
        explanandum: The frozen classifier to explain.
        samples: Number of masked images for each image and step, each with its own number k of kept
            pixels.
        fills: Names of the fills that are drawn from, see `fills.fill`. "mean" is the zero of the
            papers. A "noise" fill is the same for all images of a step.
        selection: Options of how pixels are selected, see `SelectionOptions`.
        delta: Score of a masked image. "supervised": the probability of the class. "unsupervised":
            the similarity of its representation to that of the whole image, see
            `representation.similarity`; the map then does not depend on a class.
        layer: Layer of the representations, see `representation.representation`.
        loss: Classes whose probabilities enter the loss of an image: "row" for its own class, as
            in eq. 12, or "crossed" for the classes of the whole batch, as in the released code, see
            `representation.target_probabilities`.
        deletion: Whether to train with insertion and deletion, see above.
        start: Initial scores: "none" as published, or "pyramid_cam" for `cam.PyramidCAM`.
        class_conditioned: Whether to explain any class instead of only the predicted one.
        gain: Factor of the network's scores, 1 as published. The Gumbel noise has a standard
            deviation of 1.28, and the scores of an untrained network hardly more, so that masks are
            almost random at first. A gain of 10 shortens trainings of a few hundred steps.
        network: Options of the network, see `networks.unet.UNetDecoder`; the defaults are the
            published ones.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`; the published
            optimizer is Prodigy.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument is out of range or unknown, or if two exclude each other.
    """

    uses_targets = False
    quick = unet.QUICK
    optimizer_defaults = PRODIGY

    def __init__(
        self,
        explanandum: Explanandum,
        samples: int = 6,
        fills: list[FillChoice] | None = None,
        selection: SelectionOptions | None = None,
        delta: Literal["supervised", "unsupervised"] = "supervised",
        layer: int | str = -1,
        loss: Literal["row", "crossed"] = "row",
        deletion: bool = False,
        start: Literal["none", "pyramid_cam"] = "none",
        class_conditioned: bool = False,
        gain: float = 1.0,
        network: UNetOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        self.fills = fills or ["mean", "kernel_blur", "noise"]
        if samples < 1 or gain <= 0:
            raise ValueError(f"samples and gain must be positive, got {samples} and {gain}")
        of_classes = class_conditioned or loss == "crossed" or start != "none"
        if delta == "unsupervised" and of_classes:
            raise ValueError(
                "an unsupervised delta has no classes: leave out class_conditioned, crossed, start"
            )
        if deletion and loss == "crossed":
            raise ValueError("deletion asks each image about its own class: use loss: row")
        if class_conditioned and explanandum.num_classes < 2:
            raise ValueError("class_conditioned needs an explanandum of at least two classes")
        self.samples, self.gain = samples, gain
        self.selection: SelectionOptions = self.complete("selection", SELECTION)
        self.delta, self.layer = delta, layer
        self.loss: Literal["row", "crossed"] = loss
        self.deletion, self.start, self.conditioned = deletion, start, class_conditioned
        self.class_specific = class_conditioned or start != "none"
        self.network = unet.decoder(
            explanandum, self.complete("network", unet.PUBLISHED), extra=int(start != "none")
        )
        if start != "none":
            nn.init.zeros_(self.network.head.weight)  # at first the network adds nothing
        if class_conditioned:
            self.gate = unet.ClassGate(explanandum.num_classes, self.network.depth)
        self.warned = False

    def forward(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """Scores (B, H, W) of images (B, 3, H, W) in [0, 1], as one graph without any check.

        An explainer of any class also takes the classes (B,) int64. `exporting.export` writes this
        graph to a file, and those of explainers with a `start`, which need gradients.
        """
        start = None if classes is None else self.starts(images, classes[:, None])[0]
        return self.scores(self.explanandum.features(images), images.shape[-2:], classes, start)

    def starts(self, images: Tensor, classes: Tensor) -> list[Tensor | None]:
        """Initial scores of classes (B, k): k maps (B, 1, H, W), or k times None."""
        if self.start == "none":
            return [None] * classes.shape[1]
        with torch.inference_mode(False):  # the state of Lightning's validation
            maps = pyramid_maps(self.explanandum, images.clone(), classes.clone())
        return list(maps.unsqueeze(2).unbind(1))

    def scores(
        self,
        features: list[Tensor],
        size: torch.Size,
        classes: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Scores (B, *size) from the features of the explanandum.

        Args:
            features: Levels of the feature pyramid, from shallow to deep.
            size: Height and width of the scores.
            classes: Classes (B,) int64, needed with `class_conditioned`.
            start: Initial scores (B, 1, H, W) of these classes, needed with `start`.
        """
        if start is not None:
            sizes = [(level.shape[-2], level.shape[-1]) for level in features]
            seen = [F.adaptive_avg_pool2d(start, each) for each in sizes]
            features = [torch.cat(pair, dim=1) for pair in zip(features, seen, strict=True)]
        if self.conditioned:
            features = [*features[:-1], self.gate(features[-1], classes)]
        scores = losses.widen(self.network(features, size))
        return self.gain * (scores if start is None else scores + start).squeeze(1)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scores (B, H, W). Several classes give the maximum of their scores, each min-maxed."""
        if self.class_specific:
            return self.merged_map(images, targets)
        features, logits = self.explanandum.features_and_logits(images)
        if self.delta == "supervised" and not self.warned:
            self.warned = representation.asks_for_another_class("Ra-NEM", logits, targets)
        return self.scores(features, images.shape[-2:])

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Scores (B, k, H, W) of several classes for each image, from the same features."""
        if not self.class_specific:
            return super().class_maps(images, classes)
        features, size = self.explanandum.features(images), images.shape[-2:]
        each = zip(classes.unbind(1), self.starts(images, classes), strict=True)
        maps = [self.scores(features, size, chosen, start) for chosen, start in each]
        return torch.stack(maps, dim=1)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Mean distance of the masked images from the whole ones, from a single forward pass."""
        images = batch["image"]
        with torch.no_grad():
            features, logits = self.explanandum.features_and_logits(images)
        classes = logits.argmax(dim=1)
        if self.conditioned:
            probabilities = self.explanandum.to_probabilities(logits)
            others = draw_other_class(probabilities, classes, generator)
            classes = torch.stack([classes, others], 1).flatten()
            images = images.repeat_interleave(2, dim=0)
            features = [level.repeat_interleave(2, dim=0) for level in features]
        (start,) = self.starts(images, classes[:, None])
        scores = self.scores(features, images.shape[-2:], classes, start)
        shown, removed = self.masked(images, scores, generator)
        shown = shown.flatten(0, 1)
        if self.delta == "unsupervised":
            with torch.no_grad():
                whole = representation.representation(self.explanandum, images, self.layer)
            found = representation.representation(self.explanandum, shown, self.layer)
            kept = representation.similarity(found, whole.repeat_interleave(self.samples, dim=0))
        else:
            probabilities = self.explanandum.probabilities(shown)
            kept = representation.target_probabilities(
                probabilities, classes.repeat_interleave(self.samples), self.loss
            )
        if self.deletion:
            kept = torch.where(removed.flatten().to(kept.device), 1 - kept, kept)
        return {"distance": 1 - kept.mean()}

    def masked(
        self, images: Tensor, scores: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Masked images, and which of them lack the first k pixels instead of keeping them.

        Args:
            images: Images (B, 3, H, W) in [0, 1].
            scores: Scores (B, H, W), whose ranking is perturbed by noise.
            generator: Source of the noise, the numbers k and the fills.

        Returns:
            Masked images (B, S, 3, H, W), and a mask (B, S) bool that is True for the images
            without the first k pixels: every second one with `deletion`, none otherwise.
        """
        batch, size = scores.shape[0], scores.shape[1:]
        draws = batch if self.selection["draw"] == "image" else 1
        k = draw_k(draws, self.samples, size.numel(), self.selection["sampling"], generator)
        choice = torch.randint(len(self.fills), (draws,), generator=generator).expand(batch)
        drawn = 1 if self.selection["shared_noise"] else self.samples
        noise = gumbel((batch, drawn, *size), generator, scores.device)
        masks = omega(scores, k.expand(batch, -1), noise, self.selection["threshold"])
        removed = torch.zeros(batch, self.samples, dtype=torch.bool)
        if self.deletion:
            parity = torch.randint(2, (draws, 1), generator=generator)
            removed |= (torch.arange(self.samples) + parity) % 2 == 1
            masks = torch.where(removed[:, :, None, None].to(masks.device), 1 - masks, masks)
        fill = torch.empty_like(images).unsqueeze(1)  # (B, 1, 3, H, W), or (B, S, 3, H, W)
        with torch.autocast(images.device.type, enabled=False):
            for number, name in enumerate(self.fills):
                rows = (choice == number).nonzero()[:, 0].to(images.device)
                source = self.explanandum.fill(name, generator)
                if not isinstance(source, Inpainted):
                    fill[rows] = source(images[rows])[:, None]
                elif len(rows):
                    fill = fill.expand(-1, self.samples, -1, -1, -1).clone()
                    several = images[rows].repeat_interleave(self.samples, dim=0)
                    fill[rows] = source(several, masks[rows].flatten(0, 1)).view_as(fill[rows])
        return fill + (images.unsqueeze(1) - fill) * masks.unsqueeze(2), removed


def draw_other_class(probabilities: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Random classes (B,) that differ from the given ones.

    Args:
        probabilities: Probabilities (B, K). Classes are drawn in proportion to their square roots.
        classes: Classes (B,) int64 that are not drawn.
        generator: Source of the randomness, on the CPU.
    """
    weights = (probabilities.sqrt() + 1e-6).scatter(1, classes.unsqueeze(1), 0.0)
    drawn = torch.multinomial(weights.cpu(), 1, generator=generator)
    return drawn.squeeze(1).to(classes.device)
