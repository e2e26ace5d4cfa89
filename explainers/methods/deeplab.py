"""NN-Explainer: a segmentation network that predicts masks of what a classifier relies on."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.explanandum.folding import folded
from explainers.functional import losses, masking, planes
from explainers.learned import LearnedExplainer
from explainers.networks.deeplab import PUBLISHED, QUICK, DeepLabOptions, DeepLabV3
from explainers.optimizers import ADAM, OptimizerOptions


class DeepLabExplainer(LearnedExplainer):
    """One mask for each class from one forward pass of a DeepLabV3 trained for the explanandum.

    The target mask is the pixelwise maximum of the masks of the image's labels, the non-target mask
    that of all other classes. The loss is a weighted sum of these terms:
        - `classification`: the kept part of the image should be classified as the labels say.
        - `entropy`: the classifier should be uncertain about the removed part.
        - `mask_area`, `other_area` and `area_bounds`: masks should be small, but within bounds.
        - `tv`: masks should be smooth.

    If an image has no label, where the loss of the paper fails, its target mask is empty: nothing
    is kept, the area bounds and the terms of the target mask are 0, and all classes form its
    non-target mask. Likewise, the non-target mask is empty if all labels are present.

    Source: Stalder et al., "What You See is What You Classify: Black Box Attributions", NeurIPS
    2022, eq. 1-8. The area weights are those of the released code, which has three instead of the
    single one of the paper. The default weights, bounds and learning rate are the released ones for
    VOC-2007 with VGG-16; the network and `bounds_reduction` are those of the paper.
    configs/papers/nn_explainer holds all four released settings.

    Cost: one forward pass of the network for each image, whatever the number of classes. The
    classifier is not asked. A training step takes a forward and a backward pass of the network
    for each image, and two of each of the classifier.

    Args:
        explanandum: The frozen classifier to explain.
        network: Options of the mask network, see `networks.deeplab.DeepLabV3`. The released code
            starts from ImageNet weights (`pretrained`), although the paper says "from scratch".
            With `backbone_weights` of the explanandum itself, class-specific masks take far fewer
            steps. `freeze_backbone` is for few images or little time.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`; the learning rate is
            1e-5, as released.
        entropy: Weight of the negative entropy of the prediction for the removed part.
        tv: Weight of the total variation of the target mask and the non-target mask.
        area_bounds: Weight of the penalty on mask areas out of bounds, for the labels of an image.
        mask_area: Weight of the mean of the target mask.
        other_area: Weight of the mean of the non-target mask.
        lower: Lower bound of the area of a label's mask, as a fraction of the image.
        upper: Upper bound of the area of a label's mask, as a fraction of the image.
        bounds_reduction: Reduction of the area penalty over the labels of an image: "mean" as in
            eq. 6, or "sum" as in the released code.
        tv_border: Border of the total variation, which eq. 7 leaves open: "replicate", or "reflect"
            as in the released code, see `losses.total_variation`.
        fold: Whether a folded copy of the classifier classifies the masked images while training,
            see `folding.folded`. It is faster, with the same logits up to rounding.
        seed: Seed of the method's randomness.
    """

    is_mask = True
    quick = QUICK
    optimizer_defaults: ClassVar[OptimizerOptions] = {**ADAM, "lr": 1e-5}

    def __init__(
        self,
        explanandum: Explanandum,
        network: DeepLabOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        entropy: float = 1.0,
        tv: float = 1.0,
        area_bounds: float = 1.0,
        mask_area: float = 0.1,
        other_area: float = 0.3,
        lower: float = 0.05,
        upper: float = 0.3,
        bounds_reduction: Literal["mean", "sum"] = "mean",
        tv_border: Literal["replicate", "reflect"] = "replicate",
        fold: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        options = self.complete("network", PUBLISHED)
        self.network = DeepLabV3(explanandum.num_classes, **options)
        self.weights = {
            "entropy": entropy,
            "tv": tv,
            "area_bounds": area_bounds,
            "mask_area": mask_area,
            "other_area": other_area,
        }
        self.lower, self.upper = lower, upper
        self.bounds_reduction: Literal["mean", "sum"] = bounds_reduction
        self.tv_border: Literal["replicate", "reflect"] = tv_border
        self.fold = fold
        self.faster: list[Explanandum] = []  # in a list, so that it is no part of this module

    def on_fit_start(self) -> None:
        """Makes a faster copy of the classifier for the masked images of the training."""
        self.faster = [folded(self.explanandum)] if self.fold else []

    def on_fit_end(self) -> None:
        """Forgets the copy."""
        self.faster = []

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Masks (B, H, W) in [0, 1], the pixelwise maximum over the targets, or 0 without any."""
        return self.network.target_masks(self.explanandum.normalize(images), targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, k, H, W) of several classes of each image, from one forward pass."""
        return self.network.class_masks(self.explanandum.normalize(images), classes)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms of eq. 1, each averaged over the images."""
        images, targets = batch["image"], batch["target"]
        size = images.shape[-2:]
        logits = self.network(self.explanandum.normalize(images))
        target_mask = planes.max_over_classes(logits, targets, size).sigmoid()
        other_mask = planes.max_over_classes(logits, ~targets, size).sigmoid()
        present = planes.select_classes(logits, targets, size).sigmoid()  # (N, H, W), one per label

        both = torch.cat([target_mask, 1 - target_mask])
        (explanandum,) = self.faster or [self.explanandum]
        kept, removed = explanandum(
            masking.blend(images.repeat(2, 1, 1, 1), both, self.explanandum.mean)
        ).chunk(2)
        bounds = losses.area_bounds(present, self.lower, self.upper)
        terms = {
            "entropy": losses.negative_entropy(removed),
            "tv": losses.total_variation(target_mask, self.tv_border)
            + losses.total_variation(other_mask, self.tv_border),
            "area_bounds": losses.mean_per_image(bounds, targets, self.bounds_reduction),
            "mask_area": target_mask.mean(dim=(1, 2)),
            "other_area": other_mask.mean(dim=(1, 2)),
        }
        weighted = {name: self.weights[name] * value.mean() for name, value in terms.items()}
        return {"classification": losses.classification(kept, targets).mean(), **weighted}
