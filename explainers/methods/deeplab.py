"""The NN-Explainer: a segmentation network that masks what a classifier relies on."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import losses, masking, planes
from explainers.learned import LearnedExplainer
from explainers.networks.deeplab import PUBLISHED, QUICK, DeepLabOptions, DeepLabV3
from explainers.optimizers import ADAM, OptimizerOptions


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
        network: Options of the mask network, see `networks.deeplab.DeepLabV3`. The released code
            starts from ImageNet weights (`pretrained`), though the paper says "from scratch".
            `backbone_weights` of the explanandum itself make class-specific masks take far fewer
            steps; `freeze_backbone` is for few images or little time.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`; the learning rate is
            1e-5, as released.
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

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Masks (B, H, W) in [0, 1]: the pixelwise maximum over the true targets; none gives 0."""
        self.check_inputs(images, targets)
        return self.network.target_masks(self.explanandum.normalize(images), targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, k, H, W) of several classes of each image, from one forward pass."""
        return self.network.class_masks(self.explanandum.normalize(images), classes)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted terms of eq. 1, each the mean over images."""
        images, targets = batch["image"], batch["target"]
        size = images.shape[-2:]
        logits = self.network(self.explanandum.normalize(images))
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
