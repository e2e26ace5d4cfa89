"""CASM: one mask for an image, which shows the label if kept and hides it if removed."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional import losses, masking
from explainers.learned import LearnedExplainer
from explainers.networks.masker import masker
from explainers.optimizers import ADAM, OptimizerOptions

BORDER = 0.3  # weight of the squared values at the border, relative to squared differences


class CASM(LearnedExplainer):
    """Masks that show the label when kept, and leave the classifier uncertain when removed.

    The network is `masker.StageMasker` on the features of the classifier. It gives one mask m for
    an image, whatever the class: the map does not depend on the target. Hidden pixels show the mean
    color. The loss of an image is the sum of these terms:
        - `kept`: the cross-entropy of the label if the mask is kept.
        - `kept_area`: -`kept_area` (1 - mean(m)) if the label is then predicted, else 0.
        - `removed`: minus the entropy of the prediction if the mask is removed, if the label is
          predicted for the whole image, else 0.
        - `removed_area`: -`removed_area` (1 - mean(m)) if the label is predicted for the whole
          image, but not without the mask, else 0.
        - `tv`: twice `tv` times half the sum of the squared differences between neighboring pixels
          and 0.3 times the squared values at the border.

    Areas thus shrink only while the mask succeeds. The loss of an image with several labels takes
    means over them: of the cross-entropy, and of the conditions, which are then fractions. With
    sigmoid heads, a label is predicted if its probability exceeds 0.5, and its entropy is that of
    its own probability. An image without a label only adds `tv`.

    Source: Phang et al., "Investigating and Simplifying Masking-based Saliency Methods for Model
    Interpretability", 2020, and the released code: the objective "FIX" for a fixed classifier. The
    objective "CA" trains the classifier with the masks, so it does not explain a given one; the
    method comes from Zolna et al., "Classifier-agnostic saliency map extraction", AAAI 2019.

    Differences from the released code:
        - Any classifier with known stages can be explained; the released masker needs a ResNet50.
        - The weight decay is decoupled from the gradient. The learning rate follows a cosine
          schedule, where the released one falls to a tenth after every 20 of 60 epochs.
        - The trainer clips the norm of the gradient, see configs/methods/casm.yaml.

    Cost: one forward pass of the classifier for each image.

    Args:
        explanandum: The frozen classifier to explain.
        kept_area: Reward of a small area if the label is predicted from the kept part.
        removed_area: Reward of a small area if the label is lost with the removed part; 15 for the
            objective "CA".
        tv: Weight of the total variation, which is a sum over pixels, published for images of 224.
        width: Number of channels of the network, see `masker.StageMasker`.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If the width is not positive.
        NotDefinedError: If the stages of the classifier are not known.
    """

    is_mask = True
    class_specific = False
    optimizer_defaults: ClassVar[OptimizerOptions] = {
        **ADAM,
        "weight_decay": 1e-4,
        "schedule": "cosine",
    }

    def __init__(
        self,
        explanandum: Explanandum,
        kept_area: float = 1.0,
        removed_area: float = 10.0,
        tv: float = 1e-3,
        width: int = 64,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        if width < 1:
            raise ValueError(f"expected a width of at least 1, got {width}")
        self.kept_area, self.removed_area, self.tv = kept_area, removed_area, tv
        self.network = masker(explanandum, width)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Masks (B, H, W) in [0, 1], whatever the targets."""
        masks: Tensor = self.network(self.explanandum.features(images), images.shape[-2:])
        return masks

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """The masks of `attribute`, the same (B, k, H, W) for every class."""
        masks: Tensor = self.network(self.explanandum.features(images), images.shape[-2:])
        return masks[:, None].repeat(1, classes.shape[1], 1, 1)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms of the objective "FIX", each averaged over the images."""
        images, targets = batch["image"], batch["target"]
        with torch.no_grad():
            features, whole = self.explanandum.features_and_logits(images)
        masks = self.network(features, images.shape[-2:])
        both = torch.cat([masks, 1 - masks])
        shown = masking.blend(images.repeat(2, 1, 1, 1), both, self.explanandum.mean)
        kept, removed = self.explanandum(shown).chunk(2)

        predicted, preserved, remaining = (
            self.explanandum.to_targets(logits, never_empty=False) & targets
            for logits in (whole, kept, removed)
        )
        count, area = targets.sum(dim=1).clamp(min=1), masks.mean(dim=(1, 2))
        error = -(self.log_probabilities(kept) * targets).sum(dim=1) / count
        entropy = (self.entropies(removed) * predicted).sum(dim=1) / count
        success = preserved.sum(dim=1) / count
        lost = (predicted & ~remaining).sum(dim=1) / count
        return {
            "kept": error.mean(),
            "kept_area": -self.kept_area * (success - area).relu().mean(),
            "removed": -entropy.mean(),
            "removed_area": -self.removed_area * (lost - area).relu().mean(),
            "tv": 2 * self.tv * roughness(masks).mean(),  # once for either side of the mask
        }

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Logarithms (B, K) of the probabilities of logits (B, K)."""
        return F.logsigmoid(logits) if self.explanandum.multi_label else logits.log_softmax(dim=1)

    def entropies(self, logits: Tensor) -> Tensor:
        """Entropy (B, K) of each class's own probability, or, with a softmax, (B, 1) of all."""
        log_p = self.log_probabilities(logits)
        own = log_p.exp() * log_p
        if not self.explanandum.multi_label:
            return -own.sum(dim=1, keepdim=True)
        log_q = F.logsigmoid(-logits)
        return -(own + log_q.exp() * log_q)


def roughness(masks: Tensor) -> Tensor:
    """Half the squared differences between neighbors plus 0.3 times the squared border, (B,).

    Corners belong to two sides of the border, and count twice.

    Args:
        masks: Masks (B, H, W).

    Example:
        >>> roughness(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
        tensor([1.3000])
    """
    sides = (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1])
    border = sum(side.square().sum(dim=1) for side in sides)
    return (losses.variation(masks, power=2) + BORDER * border) / 2
