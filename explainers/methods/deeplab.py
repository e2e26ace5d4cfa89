"""The NN-Explainer: a segmentation network that masks what a classifier relies on."""

from typing import Any, Literal

import torch
from torch import Tensor

from explainers.explanandum.frozen import Explanandum
from explainers.functional import losses, masking, planes
from explainers.learned import LearnedExplainer
from explainers.networks import deeplab


class DeepLabExplainer(LearnedExplainer):
    """One mask per class from one forward pass of a DeepLabV3 trained against the explanandum.

    Source: Stalder et al., "What You See is What You Classify: Black Box Attributions", NeurIPS
        2022, eq. 1-8.
    The kept image should be classified as before (`classification`), the removed part should say
    nothing (`entropy`), masks should be small but within area bounds (`mask_area`, `other_area`,
    `area_bounds`) and smooth (`tv`). The paper's single area weight does not exist in the released
    code; its three weights are used. The defaults are the released ones for VOC-2007 with VGG-16;
    configs/papers/nn_explainer holds all four settings.

    An image without any label (the paper's loss fails there) has the empty target mask: nothing is
    kept, the area bounds and the target mask's terms are 0, and all classes form its non-target
    mask. With every label present, the non-target mask is empty likewise.

    Args:
        explanandum: The frozen classifier to explain.
        backbone: See `deeplab.DeepLabV3`.
        pretrained: Start the backbone from ImageNet weights (the released code does, though the
            paper says "from scratch").
        backbone_weights: Or from a local file of a classifier with the same backbone, such as the
            explanandum's own: then class-specific masks take far fewer steps.
        freeze_backbone: Train the decoder alone: for few images or little time.
        decoder_channels: Width of the decoder (not for torchvision's backbones).
        atrous_rates: Dilations of the decoder (not for torchvision's backbones); smaller for small
            images.
        output_stride: 8 as published, or 16 for cheaper, coarser maps (not for torchvision's
            backbones).
        entropy: Weight of the negative entropy on the removed part.
        tv: Weight of the total variation of target and non-target mask.
        area_bounds: Weight of the area bounds of each present class.
        mask_area: Weight of the mean target mask.
        other_area: Weight of the mean non-target mask.
        lower: Least area of a present class's mask, as a fraction of the image.
        upper: Largest area of a present class's mask, as a fraction of the image.
        bounds_reduction: Over an image's classes: "mean" as in eq. 6, "sum" as in the released
            code.
        tv_border: "replicate" as in eq. 7, "reflect" as in the released code, see
            `losses.total_variation`.
        lr: Learning rate of Adam.
        schedule: "constant" as released, or "cosine" with warm-up for short trainings.
        seed: Seed of the method's randomness.
    """

    is_mask = True

    def __init__(
        self,
        explanandum: Explanandum,
        backbone: str = "torchvision/resnet50",
        pretrained: bool = False,
        backbone_weights: str | None = None,
        freeze_backbone: bool = False,
        decoder_channels: int = 256,
        atrous_rates: list[int] | None = None,
        output_stride: Literal[8, 16] = 8,
        entropy: float = 1.0,
        tv: float = 1.0,
        area_bounds: float = 1.0,
        mask_area: float = 0.1,
        other_area: float = 0.3,
        lower: float = 0.05,
        upper: float = 0.3,
        bounds_reduction: Literal["mean", "sum"] = "mean",
        tv_border: Literal["replicate", "reflect"] = "replicate",
        lr: float = 1e-5,
        schedule: Literal["constant", "cosine"] = "constant",
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, lr, schedule, seed)
        rates = atrous_rates or [12, 24, 36]
        self.network = deeplab.DeepLabV3(
            explanandum.num_classes,
            backbone,
            pretrained,
            backbone_weights,
            freeze_backbone,
            decoder_channels,
            (rates[0], rates[1], rates[2]),
            output_stride,
        )
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

    def logits(self, images: Tensor) -> Tensor:
        """Class logits (B, K, h, w) at the network's own resolution."""
        return losses.widen(self.network(self.explanandum.normalize(images)))

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Target mask in [0, 1]: the pixelwise maximum over the true targets; none gives 0."""
        self.check_inputs(images, targets)
        return planes.max_over_classes(self.logits(images), targets, images.shape[-2:]).sigmoid()

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, k, H, W) of several classes an image, from one forward pass."""
        return planes.gather_classes(self.logits(images), classes, images.shape[-2:]).sigmoid()

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted terms of eq. 1, each the mean over images."""
        images, targets = batch["image"], batch["target"]
        size = images.shape[-2:]
        logits = self.logits(images)
        target_mask = planes.max_over_classes(logits, targets, size).sigmoid()
        other_mask = planes.max_over_classes(logits, ~targets, size).sigmoid()
        present = planes.select_classes(logits, targets, size).sigmoid()  # (N, H, W), one per label

        both = torch.cat([target_mask, 1 - target_mask])
        kept, removed = self.explanandum(
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
