"""Ra-NEM: a network that ranks pixels, trained on the insertion and deletion curves themselves."""

from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.explanandum.gradients import pyramid_maps
from explainers.functional import losses
from explainers.functional.fills import OwnFill
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
        shared_noise: One Gumbel noise for all numbers k of an image, so that its masks are nested:
            cheaper.
        threshold: Center of the soft selection, see `omega.omega`.
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
    """Rankings whose first k pixels keep the predicted class, whatever k is.

    Source: "Ra-NEM: Faithful Model Explanations through Stochastic Feature Selection", eq. 9-12 and
    Algorithm 1 (`omega`). The loss is the mean of 1 - p over random k, that is 1 - the area under
    the insertion curve, with a random fill. (As printed, eq. 11 and 12 together maximise 1 - p; the
    code and the later version of the paper minimise it.) The network is `unet.UNetDecoder` on the
    explanandum's own features; labels are not used.

    As published, it explains the predicted class only, and warns once if asked for another. With
    `class_conditioned` the deepest features pass `unet.ClassGate`, and each image is trained for
    two classes, the predicted one and another, drawn in proportion to the root of its probability,
    so that runners-up come up more often than classes that no mask could bring about. That is ours.

    Two more things are ours, for short trainings. With `deletion` every second masked image lacks
    the first k pixels instead of the others, and is to lose the class: the loss is then about both
    areas, as Faithfulness is. With `start` the scores begin as the map of a gradient method; the
    network sees that map as well, averaged to each level, and learns what to add. As gradients know
    the class, any class can be explained. An image then costs two forward passes and, for each
    class, a backward pass of the explanandum, not one forward pass.

    Attribution: the raw scores, a full ranking without a scale.

    Args:
        explanandum: The frozen classifier to explain.
        samples: Numbers k of kept pixels for each image and step, each a masked image.
        fills: Fills to draw from, see `fills.fill`; "mean" is the papers' zero. A "noise" fill is
            one picture for all images of a step.
        selection: Options of how pixels are selected, see `SelectionOptions`.
        delta: "supervised": the probability of the class. "unsupervised": the similarity of
            representations, see `representation.similarity`; the map then has no class.
        layer: Of these representations, see `representation.representation`.
        loss: "row" as in eq. 12, or "crossed" as in the released code, see
            `representation.target_probabilities`.
        deletion: Learn from both senses of a ranking, see above.
        start: "none" as published, or "pyramid_cam" for `cam.PyramidCAM`, see above.
        class_conditioned: Explain any class, not just the predicted one.
        gain: Factor of the network's scores; published is 1. The Gumbel noise has a standard
            deviation of 1.28, and a fresh network's scores hardly more, so that at first masks are
            nearly random: a gain of 10 shortens trainings of a few hundred steps. That is ours.
        network: Options of the network, see `networks.unet.UNetDecoder`; the defaults are the
            published ones.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`; Prodigy is
            published.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument is out of range or unknown, or two do not go together.
    """

    uses_targets = False
    quick = unet.QUICK
    optimizer_defaults = PRODIGY

    def __init__(
        self,
        explanandum: Explanandum,
        samples: int = 6,
        fills: list[OwnFill] | None = None,
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
        self.samples = samples
        self.selection: SelectionOptions = self.complete("selection", SELECTION)
        self.gain = gain
        self.delta, self.layer = delta, layer
        self.loss: Literal["row", "crossed"] = loss
        self.deletion, self.start, self.conditioned = deletion, start, class_conditioned
        self.class_specific = class_conditioned or start != "none"
        self.network = unet.decoder(
            explanandum, self.complete("network", unet.PUBLISHED), extra=int(start != "none")
        )
        if start != "none":
            nn.init.zeros_(self.network.head.weight)  # nothing is added at first
        if class_conditioned:
            self.gate = unet.ClassGate(explanandum.num_classes, self.network.depth)
        self.warned = False

    def forward(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> scores (B, H, W), as one graph without any check.

        This is what to deploy: `torch.export.export(explainer.eval(), (images,))`, or
        `torch.onnx.export(explainer.eval(), (images,), "explainer.onnx", dynamo=True)`. One
        that explains any class also takes the classes (B,) int64; one with a `start` needs
        gradients and cannot be exported.
        """
        start = None if classes is None else self.starts(images, classes[:, None])[0]
        return self.scores(self.explanandum.features(images), images.shape[-2:], classes, start)

    def starts(self, images: Tensor, classes: Tensor) -> list[Tensor | None]:
        """Where the scores of classes (B, k) begin: k maps (B, 1, H, W), or None."""
        if self.start == "none":
            return [None] * classes.shape[1]
        return list(pyramid_maps(self.explanandum, images, classes).unsqueeze(2).unbind(1))

    def scores(
        self,
        features: list[Tensor],
        size: torch.Size,
        classes: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Scores (B, *size) from the features, for classes (B,) and their start if there are."""
        if start is not None:
            sizes = [(level.shape[-2], level.shape[-1]) for level in features]
            seen = [F.adaptive_avg_pool2d(start, each) for each in sizes]
            features = [torch.cat(pair, dim=1) for pair in zip(features, seen, strict=True)]
        if self.conditioned:
            features = [*features[:-1], self.gate(features[-1], classes)]
        scores = losses.widen(self.network(features, size))
        return self.gain * (scores if start is None else scores + start).squeeze(1)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scores (B, H, W); for several classes the maximum of their min-maxed scores."""
        if self.class_specific:
            return self.merged_map(images, targets)
        self.check_inputs(images, targets)
        features, logits = self.explanandum.features_and_logits(images)
        if self.delta == "supervised" and not self.warned:
            self.warned = representation.asks_for_another_class("Ra-NEM", logits, targets)
        return self.scores(features, images.shape[-2:])

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Scores (B, k, H, W) of several classes an image, from the same features."""
        if not self.class_specific:
            return super().class_maps(images, classes)
        features, size = self.explanandum.features(images), images.shape[-2:]
        each = zip(classes.unbind(1), self.starts(images, classes), strict=True)
        maps = [self.scores(features, size, chosen, start) for chosen, start in each]
        return torch.stack(maps, dim=1)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """The mean distance of masked images from whole ones; one forward pass shows them all."""
        images = batch["image"]
        with torch.no_grad():
            features, logits = self.explanandum.features_and_logits(images)
        classes = logits.argmax(dim=1)
        if self.conditioned:
            probabilities = self.explanandum.to_probabilities(logits)
            classes = torch.stack(
                [classes, draw_other_class(probabilities, classes, generator)], 1
            ).flatten()
            images = images.repeat_interleave(2, dim=0)
            features = [level.repeat_interleave(2, dim=0) for level in features]
        (start,) = self.starts(images, classes[:, None])
        scores = self.scores(features, images.shape[-2:], classes, start)
        masked, removed = self.masked(images, scores, generator)
        shown = masked.flatten(0, 1)
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
        """Images (B, S, 3, H, W) of which only the first k pixels of a noisy ranking are left.

        And which of them (B, S) lack these instead: with `deletion` every second one.
        """
        batch, size = scores.shape[0], scores.shape[1:]
        draws = batch if self.selection["draw"] == "image" else 1
        k = draw_k(draws, self.samples, size.numel(), self.selection["sampling"], generator)
        choice = torch.randint(len(self.fills), (draws,), generator=generator).expand(batch)
        noise = gumbel(
            (batch, 1 if self.selection["shared_noise"] else self.samples, *size),
            generator,
            scores.device,
        )
        masks = omega(scores, k.expand(batch, -1), noise, self.selection["threshold"])
        removed = torch.zeros(batch, self.samples, dtype=torch.bool)
        if self.deletion:
            parity = torch.randint(2, (draws, 1), generator=generator)
            removed |= (torch.arange(self.samples) + parity) % 2 == 1
            masks = torch.where(removed[:, :, None, None].to(masks.device), 1 - masks, masks)
        fill = torch.empty_like(images)
        with torch.autocast(images.device.type, enabled=False):
            for number, name in enumerate(self.fills):
                rows = (choice == number).nonzero()[:, 0].to(images.device)
                fill[rows] = self.explanandum.fill(name, generator)(images[rows])
        return fill.unsqueeze(1) + (images - fill).unsqueeze(1) * masks.unsqueeze(2), removed


def draw_other_class(probabilities: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """A class (B,) beside the given one (B,), in proportion to the root of probabilities (B, K)."""
    weights = (probabilities.sqrt() + 1e-6).scatter(1, classes.unsqueeze(1), 0.0)
    drawn = torch.multinomial(weights.cpu(), 1, generator=generator)
    return drawn.squeeze(1).to(classes.device)
