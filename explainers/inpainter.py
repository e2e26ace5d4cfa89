"""The learned inpainter: a network that corrects the harmonic fill."""

from pathlib import Path
from typing import Any, Self, TypedDict

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from explainers import optimizers
from explainers.cost import CountCost
from explainers.explanandum import Explanandum
from explainers.finite import StayFinite, check_weights
from explainers.frozenpart import KeepFrozen, fill_in, leave_out
from explainers.functional import reconstruction, seeds
from explainers.functional.holes import holes
from explainers.functional.inpainting import SWEEPS, harmonic
from explainers.monitor import Monitor
from explainers.naming import class_path
from explainers.networks.inpainting import SMALL, GatedUNet, GatedUNetOptions, PatchCritic
from explainers.optimizers import OptimizerOptions
from explainers.options import check_choices, complete
from explainers.reading import building, read_checkpoint
from explainers.resuming import ResumeExactly
from explainers.trust import check_arguments


class LossWeights(TypedDict, total=False):
    """Weights of the loss terms. A term of weight 0 is not computed.

    Args:
        hole: Absolute difference in the hole.
        scales: Number of resolutions at which `hole` compares, see `reconstruction.hole_l1`.
        kept: Size of the correction where pixels are kept, which `inpaint` does not show.
        gradient: Absolute difference of the gradients.
        spectrum: Absolute difference of the Fourier magnitudes.
        perceptual: Absolute difference of the features of `perceptual`, in proportion to their
            mean size and averaged over the levels of its pyramid.
        adversarial: Hinge loss of a critic of image patches, which is trained at the same time.
    """

    hole: float
    scales: int
    kept: float
    gradient: float
    spectrum: float
    perceptual: float
    adversarial: float


WEIGHTS: LossWeights = {
    "hole": 1.0,
    "scales": 1,
    "kept": 0.0,
    "gradient": 0.0,
    "spectrum": 0.0,
    "perceptual": 0.0,
    "adversarial": 0.0,
}


class Inpainter(LightningModule):
    """Completes images (B, 3, H, W) in [0, 1] whose masks (B, H, W) say which pixels are kept.

    The harmonic fill comes first. A small network, `GatedUNet`, predicts what must be added to it.
    A new network adds nothing, so that training starts at the harmonic fill.

    It is trained on images without labels, with random holes, see `holes.holes`. Nothing is
    downloaded. The validation logs the peak signal-to-noise ratio and the structural similarity in
    the holes, as `val/psnr` and `val/ssim`, and those of the harmonic fill beside them.

    With an adversarial term, a critic learns to tell completed images from originals. One step
    trains both networks with one optimizer: the critic does not see the gradient of the inpainter's
    loss, nor the inpainter that of the critic's loss.

    A completed image costs one forward pass of the network and one harmonic fill.

    Args:
        network: Options of the network, see `GatedUNet`.
        losses: Weights of the loss terms, see `LossWeights`.
        perceptual: Frozen classifier whose features are compared, such as the one to explain. The
            checkpoint does not contain it, and only training needs it.
        sweeps: Number of sweeps of the harmonic fill, see `inpainting.harmonic`.
        optimizer: Options of the optimizer, see `optimizers.OptimizerOptions`. The default is Adam
            with a learning rate of 2e-3 and a cosine schedule.
        seed: Seed of the holes.

    Raises:
        ValueError: If a weight is negative, all of them are 0, or `perceptual` has no weight.
    """

    def __init__(
        self,
        network: GatedUNetOptions | None = None,
        losses: LossWeights | None = None,
        perceptual: Explanandum | None = None,
        sweeps: int = SWEEPS,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["perceptual"], logger=False)
        check_choices(type(self), self.hparams)
        defaults: OptimizerOptions = {**optimizers.ADAM, "lr": 2e-3, "schedule": "cosine"}
        options = complete(network, SMALL)
        self.weights, self.optimizer = complete(losses, WEIGHTS), complete(optimizer, defaults)
        groups = {"network": options, "losses": self.weights, "optimizer": self.optimizer}
        self.hparams.update({name: dict(group) for name, group in groups.items()})
        numbers = {name: weight for name, weight in self.weights.items() if name != "scales"}
        wrong = [name for name, weight in numbers.items() if not float(str(weight)) >= 0]
        if wrong or not any(numbers.values()) or self.weights["scales"] < 1:
            raise ValueError(
                "the weights of losses must be at least 0, some of them above 0, and scales at "
                f"least 1, got {dict(self.weights)}"
            )
        if perceptual is not None and not self.weights["perceptual"]:
            raise ValueError("perceptual is given but has no weight: set losses.perceptual too")
        self.sweeps, self.seed = sweeps, seed
        self.network = GatedUNet(**options)
        self.critic = PatchCritic() if self.weights["adversarial"] else None
        self.perceptual = perceptual
        self.cost: dict[str, float] | None = None  # of the training, see `cost.CountCost`

    def forward(self, filled: Tensor, masks: Tensor) -> Tensor:
        """Images (B, 3, H, W) whose holes are filled, with what the network adds to them."""
        weight = self.network.head.weight
        corrections: Tensor = self.network(filled.to(weight.dtype), masks)
        return filled + corrections.to(filled.dtype)

    @torch.no_grad()
    def inpaint(self, images: Tensor, masks: Tensor) -> Tensor:
        """Completed images (B, 3, H, W) in [0, 1], without gradients.

        Kept pixels stay as they are. An image that keeps no pixel is filled with gray first.

        Args:
            images: Images in [0, 1], of any size. Their missing pixels are not read.
            masks: Keep masks (B, H, W). Pixels of at least 0.5 are kept, the others are missing.
        """
        kept = masks >= 0.5
        filled = harmonic(images, masks, self.sweeps)
        completed = self(filled.to(torch.promote_types(filled.dtype, torch.float32)), kept)
        return images.where(kept[:, None], completed.clamp(0, 1).to(images.dtype))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch. Its holes depend on (seed, global step): a resumed fit repeats them."""
        return self._step(batch, "train", self.global_step)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The same loss on validation images, with the same holes at every validation."""
        return self._step(batch, "val", batch_idx)

    def _step(self, batch: dict[str, Any], stage: str, step: int) -> Tensor:
        images = batch["image"]
        generator = torch.Generator().manual_seed(
            seeds.combine(self.seed, step, self.global_rank, int(stage == "val"))
        )
        size = (images.shape[-2], images.shape[-1])
        masks = holes(len(images), size, generator).to(images.device)
        filled = harmonic(images, masks, self.sweeps)
        terms = self.loss_terms(images, masks, predicted := self(filled, masks))
        loss = torch.stack(list(terms.values())).sum()
        self.terms = {name: value.detach() for name, value in terms.items()}
        values = {f"{stage}/{name}": value for name, value in self.terms.items()}
        own: dict[str, Any] = {"batch_size": len(images), "sync_dist": stage == "val"}
        self.log_dict(values, **own)
        self.log(f"{stage}/loss", loss.detach(), prog_bar=True, **own)
        if stage == "val":
            completed = predicted.clamp(0, 1).where(masks[:, None] < 0.5, images)
            for name, result in (("", completed), ("harmonic_", filled)):
                psnr = reconstruction.hole_psnr(result, images, masks).mean()
                ssim = reconstruction.hole_ssim(result, images, masks).mean()
                self.log(f"val/{name}psnr", psnr, prog_bar=True, **own)
                self.log(f"val/{name}ssim", ssim, **own)
        return loss

    def loss_terms(self, images: Tensor, masks: Tensor, predicted: Tensor) -> dict[str, Tensor]:
        """Named, weighted scalar terms, which add up to the loss.

        Args:
            images: Original images (B, 3, H, W).
            masks: Keep masks (B, H, W) of 0 and 1.
            predicted: Output (B, 3, H, W) of the network.
        """
        kept, weights = masks[:, None] >= 0.5, self.weights
        completed = images.where(kept, predicted)
        terms = {}
        if weight := weights["hole"]:
            gaps = reconstruction.hole_l1(completed, images, masks, weights["scales"])
            terms["hole"] = weight * gaps
        if weight := weights["kept"]:
            terms["kept"] = weight * reconstruction.hole_l1(predicted, images, 1 - masks)
        if weight := weights["gradient"]:
            terms["gradient"] = weight * reconstruction.gradient_l1(completed, images, masks)
        if weight := weights["spectrum"]:
            terms["spectrum"] = weight * reconstruction.spectrum_l1(completed, images)
        if weight := weights["perceptual"]:
            terms["perceptual"] = weight * self._perceptual(completed, images)
        if self.critic is not None:
            frozen = {name: p.detach() for name, p in self.critic.named_parameters()}
            judged = torch.func.functional_call(self.critic, frozen, (completed, masks))
            terms["adversarial"] = -weights["adversarial"] * judged.mean()
            real, made = self.critic(images, masks), self.critic(completed.detach(), masks)
            terms["critic"] = F.relu(1 - real).mean() + F.relu(1 + made).mean()
        return terms

    def _perceptual(self, completed: Tensor, images: Tensor) -> Tensor:
        assert self.perceptual is not None
        with torch.no_grad():
            wanted = self.perceptual.features(images)
        found = self.perceptual.features(completed)
        gaps = [
            (a - b).abs().mean() / b.abs().mean().clamp_min(1e-6)
            for a, b in zip(found, wanted, strict=True)
        ]
        return torch.stack(gaps).mean()

    def setup(self, stage: str) -> None:
        """Refuses a fit whose perceptual term has no network.

        Raises:
            ValueError: If it has none.
        """
        if self.weights["perceptual"] and self.perceptual is None and stage in ("fit", "validate"):
            raise ValueError(
                f"losses.perceptual is {self.weights['perceptual']}, but there is no network for "
                "it: give model.init_args.perceptual, or set the weight to 0"
            )

    def configure_callbacks(self) -> list[Callback]:
        """What every fit needs: to stay finite, to resume exactly, to count and to log."""
        frozen = [KeepFrozen("perceptual")] if self.perceptual is not None else []
        return [*frozen, StayFinite(), ResumeExactly(), CountCost(), Monitor()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and learning-rate schedule of the options."""
        return optimizers.configure(self, self.optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds this inpainter; leaves out the perceptual network."""
        check_weights(self)
        checkpoint["hyper_parameters"] = dict(self.hparams)
        checkpoint["class_path"] = class_path(type(self))
        if size := getattr(getattr(self._trainer, "datamodule", None), "image_size", None):
            checkpoint["trained"] = {"input_size": [int(side) for side in size]}
        if self.perceptual is not None:
            leave_out(checkpoint, "perceptual", self.perceptual)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fills in the weights of the perceptual network, which no checkpoint contains.

        Raises:
            ValueError: If they are not those with which the fit began.
        """
        self.cost = checkpoint.get("cost")
        if self.perceptual is not None:
            otherwise = "the fit began with another perceptual network"
            fill_in(checkpoint, "perceptual", self.perceptual, otherwise)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **kwargs: Any
    ) -> Self:
        """Loads an inpainter from its checkpoint alone.

        Args:
            checkpoint_path: Path of a checkpoint written by a fit.
            map_location: Device of the inpainter.
            **kwargs: Constructor arguments to change.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not the checkpoint of an inpainter, or names what is not trusted.
        """
        path, checkpoint = str(checkpoint_path), read_checkpoint(checkpoint_path)
        if checkpoint.get("class_path") != class_path(cls):
            raise ValueError(f"{path} is not a checkpoint of an inpainter")
        arguments = checkpoint.get("hyper_parameters", {})
        check_arguments(arguments, path)
        with building(path):
            inpainter = cls(**{**arguments, **kwargs})
            inpainter.on_load_checkpoint(checkpoint)
            inpainter.load_state_dict(checkpoint["state_dict"])
        return inpainter.to(map_location)
