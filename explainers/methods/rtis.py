"""RTIS: masks that preserve the class, destroy it when removed, and stay small and smooth."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import losses, masking, smoothing
from explainers.learned import LearnedExplainer
from explainers.networks.deeplab import PUBLISHED, QUICK, DeepLabOptions, DeepLabV3
from explainers.optimizers import ADAM, OptimizerOptions


class RTIS(LearnedExplainer):
    """Real-time image saliency: the losses of RTIS with the mask network DeepLabV3.

    With the default weights the loss is 10 TV + area + preserver + 5 destroyer^0.3, where TV is the
    total variation with squared differences. The preserver is the mean of -ln p over the targets of
    an image, where p is the probability if the mask is kept. The destroyer is the mean of p if the
    mask is removed. An image without a target adds nothing to either.

    Removed pixels show a random fill, drawn for each image and for each of the two cases. It is a
    uniform color with noise or, half of the time, the blurred image. Its magnitudes are those of
    RTIS, in units of the classifier's std. If the mask is kept, noise of 0.03 std is added as well.

    Source: Dabkowski and Gal, "Real Time Image Saliency for Black Box Classifiers", NeurIPS 2017,
    eq. 2, with the architecture and the weights of Stalder et al., NeurIPS 2022, section 4.1.

    Differences from the released code:
        - RTIS's own code has the area weight 8 with `area_power` 0.3, and the TV weight 0.005.
        - RTIS's network selects one class. Here each class has its own map, and several targets are
          merged by the maximum.
        - The preserver and the destroyer are averaged over the targets of each image, then over
          the images. The code of Stalder et al. (NN-Explainer) averages over all targets of the
          batch, and applies the power 0.3 to that average.
        - The last row and column add no difference to the TV. NN-Explainer mirrors the border,
          which counts the last difference twice.
        - NN-Explainer draws one kind of fill for a batch, shows the same fill in both cases, blurs
          with sigma 10, adds no noise where the mask is kept, and its noise has mean 0.11 and std 1
          by mistake.

    Cost: one forward pass of the network for each image, whatever the number of classes. The
    classifier is not asked. A training step takes a forward and a backward pass of the network
    for each image, and two of each of the classifier.

    Args:
        explanandum: The frozen classifier to explain.
        network: Options of the mask network, see `networks.deeplab.DeepLabV3`.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`; the learning rate is
            1e-4.
        tv: Weight of the squared total variation.
        area: Weight of the area of the mask; 1e-3 in RTIS's paper, 1 in its NN-Explainer
            adaptation.
        area_power: Exponent of each mask value in the area.
        destroyer: Weight of the probability of the class that remains if the mask is removed.
        destroyer_power: Exponent of that probability.
        seed: Seed of the method's randomness.
    """

    is_mask = True
    quick = QUICK
    optimizer_defaults: ClassVar[OptimizerOptions] = {**ADAM, "lr": 1e-4}

    def __init__(
        self,
        explanandum: Explanandum,
        network: DeepLabOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        tv: float = 10.0,
        area: float = 1.0,
        area_power: float = 1.0,
        destroyer: float = 5.0,
        destroyer_power: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        options = self.complete("network", PUBLISHED)
        self.network = DeepLabV3(explanandum.num_classes, **options)
        self.tv, self.area, self.area_power = tv, area, area_power
        self.destroyer, self.destroyer_power = destroyer, destroyer_power

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Masks (B, H, W) in [0, 1], the pixelwise maximum over the targets, or 0 without any."""
        return self.network.target_masks(self.explanandum.normalize(images), targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, k, H, W) of several classes of each image, from one forward pass."""
        return self.network.class_masks(self.explanandum.normalize(images), classes)

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms of RTIS's eq. 2, each averaged over the images."""
        images, targets = batch["image"], batch["target"]
        masks = self.network.target_masks(self.explanandum.normalize(images), targets)
        sides = torch.cat([masks, 1 - masks])
        fill = alternative(
            images.repeat(2, 1, 1, 1), self.explanandum.mean, self.explanandum.std, generator
        )
        shown = masking.blend(images.repeat(2, 1, 1, 1), sides, fill)
        noise = (
            torch.randn(images.shape, generator=generator).to(images) * 0.03 * self.explanandum.std
        )
        shown = shown + torch.cat([noise, torch.zeros_like(noise)])
        kept, removed = self.explanandum.to_probabilities(self.explanandum(shown)).chunk(2)

        labels = targets.sum(dim=1).clamp(min=1)
        log_kept = kept.clamp(min=1e-6).log()
        preserver = -(log_kept * targets).sum(dim=1) / labels
        left = (removed * targets).sum(dim=1) / labels
        destroyer = torch.where(
            targets.any(dim=1), (left + 1e-6) ** self.destroyer_power, torch.zeros_like(left)
        )
        area = (masks + 5e-4).pow(self.area_power).mean(dim=(1, 2))
        return {
            "preserver": preserver.mean(),
            "destroyer": self.destroyer * destroyer.mean(),
            "area": self.area * area.mean(),
            "tv": self.tv * losses.total_variation(masks, power=2).mean(),
        }


def alternative(images: Tensor, mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """RTIS's random fill for images (B, 3, H, W): a uniform color with noise, or a strong blur.

    Both are equally likely. The color is uniform in mean +- 0.33 std, and the noise has a standard
    deviation of 0.11 std. The blur is that of RTIS, with a kernel of 55 pixels and sigma 11 for
    images of 224 pixels, scaled with the shorter side of the images.
    """
    batch = len(images)
    colour = (torch.rand(batch, 3, 1, 1, generator=generator) - 0.5) * 0.66
    noise = torch.randn(images.shape, generator=generator) * 0.11
    blurred = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
    scale = min(images.shape[-2:]) / 224
    smooth = smoothing.blur(
        images, 2 * max(1, round(27 * scale)) + 1, max(11 * scale, 0.5), mean.to(images)
    )
    plain = mean + std * (colour + noise).to(images)
    return torch.where(blurred.to(images.device), smooth, plain)
