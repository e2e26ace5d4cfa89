"""LTX: a copy of the classifier learns to mask, and may go on learning for each image."""

import copy
import math
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional import content, losses, masking, planes
from explainers.functional.fills import FillChoice
from explainers.learned import LearnedExplainer
from explainers.networks.trunk import TrunkMasker
from explainers.optimization.pairs import Tick, solve_pairs
from explainers.optimizers import ADAM, OptimizerOptions
from explainers.perturbation import curves

WEIGHTS = {"sound": 30.0, "released": 50.0}  # of the size of the mask
SOLVED = 6.0  # a POS below it, in percent, ends the refinement


class RefineOptions(TypedDict, total=False):
    """How the network goes on learning for each image and class.

    Args:
        steps: Number of steps of AdamW. 0 gives the maps of the network as it was trained. LTX
            takes 25, and the comparison of SLOC takes 30.
        lr: Learning rate, which falls linearly to 0.
        prediction: Weight of the cross-entropy in these steps.
        select: Map that is returned. "last": the map after the last step. "pos": the map with the
            smallest POS, as released, see `LTX`.
    """

    steps: int
    lr: float
    prediction: float
    select: Literal["last", "pos"]


REFINE: RefineOptions = {"steps": 0, "lr": 5e-5, "prediction": 5.0, "select": "last"}


class LTX(LearnedExplainer):
    """Small masks that preserve the predicted class, from a trained copy of the classifier.

    The network is `trunk.TrunkMasker`. Its mask m of low resolution is upsampled bilinearly, and
    hidden pixels are black. The loss is

        prediction * cross-entropy of the predicted class for the masked image + mask * size(m)

    With the loss "sound", size(m) is the mean of m. With the loss "released", it is the mean of
    softplus(m): the released code takes m, which is a sigmoid already, for a logit of its binary
    cross-entropy with 0. This size lies between 0.69 and 1.31, and its slope between 0.5 and 0.73.

    Trained alone ("pLTX" in SLOC), the network explains the predicted class, whatever the target.
    Labels are not used. With `refine.steps`, a copy of the whole network takes these steps for each
    image and class, and the map explains that class. A checkpoint is loaded with other options by
    `LTX.load_from_checkpoint(path, refine={"steps": 25})`.

    The released refinement returns the best of its maps by the metric POS, which makes POS no fair
    measure of it. With `refine.select` "pos", the POS of each map is computed before its step: the
    area under a curve of 10 points that is 1 while the explained class is the top class, while 0 to
    90 % of the pixels are hidden, the most relevant ones first. The first map with the smallest
    area is returned. An area below 6 % ends the refinement. For a class that is not the top class
    of the image, all areas are about 0, so its map is that of the trained network.

    Source: Barkan et al., "Learning to Explain: A Model-Agnostic Framework for Explaining Black Box
    Models", ICDM 2023, and the released code. The code has no license and none of it is used here.

    Differences from the released code:
        - The loss "sound" is the default. Its weight is smaller, so that both have about the same
          slope.
        - The last refined map is the default.
        - The training has a cosine schedule with a warm-up over 5 % of the steps. The released one
          falls linearly after a warm-up over a fifth of the steps.
        - Any classifier with known stages can be explained. With sigmoid heads the cross-entropy is
          that of the explained class alone.
        - The released code keeps the checkpoint with the smallest POS on validation images. Here it
          is that with the smallest loss.

    Cost: one forward pass of the network for each image. The refinement takes, for each image and
    class, `refine.steps` forward and backward passes of the network and of the classifier; with
    "pos", 10 more forward passes of the classifier in each step. The steps of different images
    cannot be batched, because each has its own weights.

    Args:
        explanandum: The frozen classifier to explain.
        loss: Size of the mask in the loss, "sound" or "released", see above.
        prediction: Weight of the cross-entropy in the training.
        mask: Weight of the size of the mask. None selects the released 50 (30 for a small ViT) for
            "released", and 30 for "sound". They are for the 1000 classes of ImageNet: if losing the
            class costs less, as with few classes, all masks become 0, and a tenth of them works.
        fill: Content of hidden pixels, see `fills.fill`: "black", as released, or the "mean" color,
            as in the comparison of SLOC. "images" is not allowed.
        refine: Options of the refinement, see `RefineOptions`. Except for the number of steps, the
            defaults are those of the comparison of SLOC.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`. The default is AdamW
            with a learning rate of 2e-3, as released; the comparison of SLOC has 5e-3 for CNNs.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument or option is out of range or unknown.
        NotDefinedError: If the stages of the classifier are not known.
    """

    is_mask = True
    uses_targets = False
    quick: ClassVar[dict[str, Any]] = {"optimizer": {"lr": 1e-2}}
    optimizer_defaults: ClassVar[OptimizerOptions] = {
        **ADAM,
        "lr": 2e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
    }

    def __init__(
        self,
        explanandum: Explanandum,
        loss: Literal["sound", "released"] = "sound",
        prediction: float = 1.0,
        mask: float | None = None,
        fill: FillChoice = "black",
        refine: RefineOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        self.loss, self.prediction = loss, prediction
        self.mask = WEIGHTS[loss] if mask is None else mask
        self.fill: FillChoice = fill
        self.refine: RefineOptions = self.complete("refine", REFINE)
        if self.refine["steps"] < 0 or self.refine["lr"] <= 0:
            raise ValueError(
                "refine needs steps >= 0 and lr > 0, "
                f"got {self.refine['steps']} and {self.refine['lr']}"
            )
        self.class_specific = self.needs_gradients = self.refine["steps"] > 0
        self.network = TrunkMasker(explanandum)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Masks (B, H, W) in [0, 1]: of the predicted class, or of the targets if refined."""
        if self.class_specific:
            return self.merged_map(images, targets)
        return self.masks(self.network, images)[1]

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks (B, k, H, W), refined for each of the classes, or the same for all of them."""
        if self.class_specific:
            return solve_pairs(self._refined, images, classes, self.refine["steps"], 1, "LTX")
        return self.masks(self.network, images)[1][:, None].repeat(1, classes.shape[1], 1, 1)

    def masks(self, network: TrunkMasker, images: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (B, 1, h, w) in low resolution, and (B, H, W) in that of the images."""
        coarse = network(self.explanandum, images).sigmoid()
        return coarse, planes.upsample(coarse, images.shape[-2:])[:, 0]

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted cross-entropy and size of the mask, both averaged over images."""
        images = batch["image"]
        with torch.no_grad():
            classes = self.explanandum(images).argmax(dim=1)
        coarse, masks = self.masks(self.network, images)
        error = self.error(images, masks, classes)
        return {"prediction": self.prediction * error, "mask": self.mask * self.size(coarse)}

    def error(self, images: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
        """Mean cross-entropy of classes (B,) for images with masks (B, H, W)."""
        fill = self.explanandum.fill(self.fill, self.seed)
        shown = masking.blend(images, masks, content.behind(fill, images))
        logits = self.explanandum(shown)
        return F.softplus(-losses.log_odds(logits, classes, self.explanandum.multi_label)).mean()

    def size(self, coarse: Tensor) -> Tensor:
        """Mean size of masks (B, 1, h, w)."""
        return (F.softplus(coarse) if self.loss == "released" else coarse).mean()

    def pos(self, images: Tensor, masks: Tensor, classes: Tensor) -> float:
        """Mean area in percent under POS curves of 10 points, from 0 to 90 % of hidden pixels."""
        pixels = masks[0].numel()
        counts = tuple(pixels * step // 10 for step in range(10))
        curve = curves.Curve("most", fill=self.fill, counts=counts)
        targets = F.one_hot(classes, self.explanandum.num_classes).bool()
        (found,) = curves.run(self.explanandum, images, masks, targets, [curve])
        kept = (found.top == classes.cpu()[:, None]).double()
        return 100 * 0.9 * float(curves.auc(kept).mean())

    def _refined(self, images: Tensor, classes: Tensor, tick: Tick) -> Tensor:
        """Mask (1, H, W) of one image for one class, by a copy of the network."""
        network, steps = copy.deepcopy(self.network), self.refine["steps"]
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in network.learned)
        learned = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=self.refine["lr"], weight_decay=0.01)
        best, least = torch.empty(0), math.inf
        for step in range(steps):
            coarse, masks = self.masks(network, images)
            if self.refine["select"] == "pos":
                area = self.pos(images, masks.detach(), classes)
                if area < least:
                    best, least = masks.detach(), area
                if least < SOLVED:
                    break
            optimizer.param_groups[0]["lr"] = self.refine["lr"] * (1 - step / steps)
            optimizer.zero_grad()
            error = self.error(images, masks, classes)
            loss = self.refine["prediction"] * error + self.mask * self.size(coarse)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            tick()
        if self.refine["select"] == "pos":
            return best
        with torch.no_grad():
            return self.masks(network, images)[1]
