"""AmortizedSLOC: a trained network that predicts the map for which SLOC solves a problem."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from explainers.explanandum import Explanandum, features, layouts, taps
from explainers.explanandum.folding import folded
from explainers.explanandum.gradients import Evidence, stage_evidence
from explainers.functional import content
from explainers.functional.content import Content
from explainers.functional.fills import FillChoice, Inpainted
from explainers.learned import LearnedExplainer
from explainers.networks.evidence import EvidenceNetwork, EvidenceOptions
from explainers.optimization import representation
from explainers.optimizers import ADAM, OptimizerOptions
from explainers.perturbation.patches import draw_patches
from explainers.perturbation.responses import CANDIDATES

NETWORK: EvidenceOptions = {"width": 64, "tile": 0}
SHOWN = 128  # masked images in a forward pass, or as many as the batch has images


class AmortizedSLOC(LearnedExplainer):
    """Maps whose sum over a mask predicts the response to it, from one forward pass.

    The response to a mask is the probability of the predicted class for the masked image, minus its
    probability for the fill alone. `sloc.SLOC` solves a least-squares problem with 1,000 responses
    to every image. Here, a network is trained on the same loss: each step draws new masks for every
    image, and the map a of an image of H W pixels has the loss

        H W (1 / (2 M) sum_m (r_m - a . m)^2 / |m| + l1 sum |a| + l2 (down + across)),

    where r_m are the responses to its M masks, `down` and `across` are sums of squared differences
    of neighboring pixels, and the weights l1 and l2 are those of SLOC's code. The factor H W makes
    the loss independent of the size. Labels are not used, and no gradient passes through the masked
    images.

    The map is p (1 + s) / (H W), with the probability p of the class and scores s, so that its sum
    is about the response to the whole image. `evidence.EvidenceNetwork` gives the scores. It sees
    one of these:
        - The features of the classifier and the squares of their deviations from the spatial mean,
          from the forward pass alone. The map is that of the predicted class. It warns once if
          another class is requested.
        - With `evidence`: the features and their products with the gradients of the class's
          log-odds, which also cost a backward pass for each class. Any class can be explained, and
          the scores start as the map of `cam.PyramidCAM`.

    Source of the loss: Haddad, Barkan, Elisha and Koenigstein, "Soft Local Completeness: Rethinking
    Completeness in XAI", eq. 4. It trains no network; learning from noisy estimates is the idea of
    Covert et al., "Stochastic Amortization", NeurIPS 2024.

    Differences from SLOC:
        - If `probability` is None, each image and side draws one of SLOC's 13 candidates in each
          step. SLOC chooses one for each image and side with 650 further forward passes.

    Cost of a training step: for each image a forward and a backward pass of the network, `masks` +
    1 forward passes of the classifier, and with `evidence` a backward pass. The fill costs 1
    forward pass for all images together, or 1 for each image if it is a blur.

    Args:
        explanandum: The frozen classifier to explain. Its stages must be known.
        evidence: Whether the network sees gradients, see above.
        masks: Number of masks for each image and step, divided evenly among the sides.
        sides: Sides of the squares that masks are made of, in pixels of an image whose shorter side
            is 224 pixels. They are scaled to the shorter side of the given images. None is [32, 56]
            as published.
        probability: Probability that a square is kept. None draws it, see above. The paper's
            SLOC_xp uses 0.2 for ViT-B, 0.3 for ViT-S, and 0.6 for ResNet50 and DenseNet201.
        fill: Content that replaces pixels, see `fills.fill`; "mean" as published.
        lambda1: Weight of the sum of the absolute values of the map; l1 is lambda1 / (3 H W).
        lambda2: Weight of the squared differences of neighboring pixels. As in SLOC's code, l2 is
            lambda2 H / (H - 1) for vertical and lambda2 W / (W - 1) for horizontal neighbors.
        network: Options of the network, see `evidence.EvidenceNetwork`. The default has no periodic
            pattern, which would not be smooth.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`. The default is AdamW
            with a learning rate of 2e-3 and a cosine schedule.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument or option is out of range.
        NotDefinedError: If the stages of the classifier are not known.
    """

    uses_targets = False
    is_signed = True
    optimizer_defaults: ClassVar[OptimizerOptions] = {
        **ADAM,
        "lr": 2e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
    }

    def __init__(
        self,
        explanandum: Explanandum,
        evidence: bool = False,
        masks: int = 8,
        sides: list[int] | None = None,
        probability: float | None = None,
        fill: FillChoice = "mean",
        lambda1: float = 0.01,
        lambda2: float = 0.1,
        network: EvidenceOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        self.sides = [32, 56] if sides is None else list(sides)
        self.candidates = CANDIDATES if probability is None else (probability,)
        self.masks, self.fill = masks, fill
        self.lambda1, self.lambda2 = lambda1, lambda2
        few = not 1 <= len(self.sides) <= masks or min(self.sides) < 1
        if few or not 0 < self.candidates[0] <= 1 or min(lambda1, lambda2) < 0:
            raise ValueError(
                "expected positive sides, at least one mask a side, a probability in (0, 1] or "
                "None, and lambda1 and lambda2 not negative, got "
                f"{self.sides}, {masks}, {probability}, {lambda1} and {lambda2}"
            )
        self.evidence = self.class_specific = self.needs_gradients = evidence
        self.warned = False
        self.faster: list[Explanandum] = []  # in a list, so that it is no part of this module
        with layouts.trying(explanandum):
            trial = explanandum.mean.expand(1, 3, *explanandum.input_size)
            (seen,), _ = self.look(explanandum, trial)
        channels = [values.shape[1] for values in seen.values]
        self.network = EvidenceNetwork(channels, 1, **self.complete("network", NETWORK))

    def on_fit_start(self) -> None:
        """Makes a faster copy of the classifier for the passes of the training."""
        self.faster = [folded(self.explanandum)]

    def on_fit_end(self) -> None:
        """Forgets the copy."""
        self.faster = []

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Signed maps (B, H, W), whose sum is about the response to the whole image.

        With `evidence`, several classes give the maximum of their maps, each min-maxed. Without, it
        is the map of the predicted class.
        """
        if self.evidence:
            return self.merged_map(images, targets)
        (seen,), logits = self.look(self.explanandum, images)
        if not self.warned:
            self.warned = representation.asks_for_another_class("AmortizedSLOC", logits, targets)
        return self.maps(seen, logits, logits.argmax(dim=1), images.shape[-2:])

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        if not self.evidence:
            return super().class_maps(images, classes)
        found, logits = self.look(self.explanandum, images, classes)
        columns = zip(found, classes.unbind(1), strict=True)
        size = images.shape[-2:]
        return torch.stack([self.maps(seen, logits, each, size) for seen, each in columns], dim=1)

    def look(
        self, explanandum: Explanandum, images: Tensor, classes: Tensor | None = None
    ) -> tuple[list[Evidence], Tensor]:
        """What the network sees for each column of classes (B, k), and the logits (B, K).

        Args:
            explanandum: The classifier, or a copy of it.
            images: Images (B, 3, H, W) in [0, 1].
            classes: Classes (B, k) int64. None takes the class with the largest logit. Not used
                without `evidence`.
        """
        if self.evidence:
            with torch.inference_mode(False):  # the state of Lightning's validation
                own = None if classes is None else classes.clone()
                return stage_evidence(explanandum, images.clone(), own)
        names = features.five_stages(explanandum)
        with torch.no_grad(), taps.recorded(explanandum.model, names) as outputs:
            logits = explanandum(images)
        kinds = [layouts.of(explanandum, name) for name in names]
        values = [
            layout.to_maps(outputs[name].float(), images.shape)
            for layout, name in zip(kinds, names, strict=True)
        ]
        powers = [(each - each.mean(dim=(2, 3), keepdim=True)).square() for each in values]
        return [Evidence(values, powers)], logits

    def maps(self, seen: Evidence, logits: Tensor, classes: Tensor, size: torch.Size) -> Tensor:
        """Maps (B, *size) of classes (B,) from what the network sees, and the logits (B, K)."""
        scores = self.network([seen], size)
        probabilities = self.explanandum.to_probabilities(logits).to(scores)
        share = probabilities.gather(1, classes[:, None]) / size.numel()
        maps: Tensor = share[:, :, None] * (1 + scores)
        return maps

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """`gap`: completeness gap; `absolute` and `smooth`: the penalties. Means of the images."""
        images = batch["image"]
        (explanandum,) = self.faster or [self.explanandum]
        (seen,), logits = self.look(explanandum, images)
        classes, size = logits.argmax(dim=1), images.shape[-2:]
        maps = self.maps(seen, logits, classes, size)
        height, width = size
        masks = self.draw_masks(len(images), (height, width), generator).to(maps)
        with torch.autocast(images.device.type, enabled=False):
            fill = explanandum.fill(self.fill, generator)
            fills: Content = fill
            if not isinstance(fill, Inpainted):
                fills = fill(images).expand(-1, -1, *size)
        wanted = self.responses(images, fills, masks, classes)
        pixels = height * width
        weights = [self.lambda2 * side / max(side - 1, 1) for side in (height, width)]
        return {
            "gap": pixels * completeness_gaps(maps, masks, wanted).mean(),
            "absolute": self.lambda1 / 3 * maps.abs().sum(dim=(1, 2)).mean(),
            "smooth": pixels * roughness(maps, *weights).mean(),
        }

    def draw_masks(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Masks (count, M, *size) of 0 and 1: others for each of `count` images."""
        masks = torch.empty(count, self.masks, *size, device=self.device, dtype=torch.float32)
        for i, side in enumerate(self.sides):
            place = slice(i, None, len(self.sides))
            number = len(range(self.masks)[place])
            squares = max(1, round(side * min(size) / 224))
            choice = torch.randint(len(self.candidates), (count,), generator=generator)
            for chosen, keep in enumerate(self.candidates):
                rows = (choice == chosen).nonzero()[:, 0].to(self.device)
                if total := number * len(rows):
                    group = draw_patches(total, size, squares, keep, generator, self.device)
                    pixels = group.pixels(0, total).float()  # autocast may have halved them
                    masks[rows, place] = pixels.view(-1, number, *size)
        return masks

    @torch.no_grad()
    def responses(self, images: Tensor, fills: Content, masks: Tensor, classes: Tensor) -> Tensor:
        """Responses (B, M) of the classes to the masks.

        Args:
            images: Images (B, 3, H, W) in [0, 1].
            fills: Content of masked pixels, (1, 3, H, W) or (B, 3, H, W), or an inpainter.
            masks: Masks (B, M, H, W), which are 1 where the image is shown.
            classes: Classes (B,) int64.
        """
        (explanandum,) = self.faster or [self.explanandum]
        empty = content.pixels_without_image(fills, images[:1])
        base = explanandum.probabilities(empty).expand(len(images), -1).gather(1, classes[:, None])
        found = []
        for part in torch.split(masks.to(images.dtype), max(1, SHOWN // len(images)), dim=1):
            count = part.shape[1]
            if isinstance(fills, Tensor):
                behind, rest = fills[:, None], (images - fills)[:, None]
            else:
                several = images.repeat_interleave(count, dim=0)
                behind = fills(several, part.flatten(0, 1)).view(*part.shape[:2], *images.shape[1:])
                rest = images[:, None] - behind
            shown = behind + rest * part[:, :, None]
            seen = explanandum.probabilities(shown.flatten(0, 1)).view(len(images), count, -1)
            found.append(seen.gather(2, classes[:, None, None].expand(-1, count, 1)))
        return torch.cat(found, dim=1).squeeze(2) - base


def completeness_gaps(maps: Tensor, masks: Tensor, responses: Tensor) -> Tensor:
    """Half the mean of (r_m - a . m)^2 / |m| over the masks m of each map a, (B,); SLOC eq. 4.

    Args:
        maps: Maps (B, H, W).
        masks: Masks (B, M, H, W), none of which is all zero.
        responses: Responses (B, M) to the masks.

    Example:
        >>> masks = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]]]])
        >>> completeness_gaps(torch.tensor([[[1.0, 2.0]]]), masks, torch.tensor([[5.0, 3.0]]))
        tensor([0.7500])
    """
    misses = responses - (masks * maps[:, None]).sum(dim=(2, 3))
    return 0.5 * (misses.square() / masks.sum(dim=(2, 3))).mean(dim=1)


def roughness(maps: Tensor, down: float, across: float) -> Tensor:
    """Weighted sum (B,) of the squared differences of neighboring pixels of maps (B, H, W).

    Args:
        maps: Maps (B, H, W).
        down: Weight of differences between vertical neighbors.
        across: Weight of differences between horizontal neighbors.
    """
    vertical, horizontal = (maps.diff(dim=dim).square().sum(dim=(1, 2)) for dim in (1, 2))
    return down * vertical + across * horizontal
