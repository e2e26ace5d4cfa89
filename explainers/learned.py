"""The base class of the explainers that are trained."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from explainers import door, optimizers
from explainers.base import Explainer
from explainers.cost import CountCost
from explainers.explanandum import Explanandum
from explainers.finite import StayFinite, check_weights
from explainers.frozenpart import KeepFrozen
from explainers.functional import seeds
from explainers.monitor import Monitor
from explainers.optimizers import OptimizerOptions
from explainers.resuming import ResumeExactly


class LearnedExplainer(Explainer):
    """An explainer with a network that is trained once and then explains in one forward pass.

    Subclasses return their named, weighted loss terms. Training and validation use the same step.
    If the method `uses_targets`, a batch without `target` (unlabeled photographs) is given the
    prediction of the explanandum: the top class or, with `multi_label`, all classes above 0.5,
    possibly none.

    Args:
        explanandum: The frozen classifier to explain.
        optimizer: Options of the optimizer, see `optimizers.OptimizerOptions`. The defaults are the
            class's `optimizer_defaults`.
        seed: Seed of all randomness of the method.
    """

    uses_targets = True  # whether the loss reads batch["target"]
    optimizer_defaults: ClassVar[OptimizerOptions] = optimizers.ADAM

    def __init__(
        self,
        explanandum: Explanandum,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        self.optimizer: OptimizerOptions = self.complete("optimizer", self.optimizer_defaults)

    @abstractmethod
    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Named, weighted scalar terms, which add up to the loss. `generator` draws their noise."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch. Its noise depends on (seed, global step): a resumed fit repeats it."""
        return self._step(batch, "train", self.global_step)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The same loss on validation images, with the same noise at every validation."""
        return self._step(batch, "val", batch_idx)

    def _step(self, batch: dict[str, Any], stage: str, step: int) -> Tensor:
        if self.uses_targets:
            if "target" not in batch:
                batch = {**batch, "target": self._predicted(batch["image"])}
            # The values wait for the GPU, so only the first batch shows whether they are right.
            door.check_inputs(self, batch["image"], batch["target"], values=step == 0)
        seed = seeds.combine(self.seed, step, self.global_rank)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)  # for the network's dropout
            terms = self.loss_terms(batch, torch.Generator().manual_seed(seed))
        loss = torch.stack(list(terms.values())).sum()
        self.terms = {name: value.detach() for name, value in terms.items()}
        values = {f"{stage}/{name}": value for name, value in self.terms.items()}
        self.log_dict(values, batch_size=len(batch["image"]), sync_dist=stage == "val")
        self.log(
            f"{stage}/loss",
            loss.detach(),
            prog_bar=True,
            batch_size=len(batch["image"]),
            sync_dist=stage == "val",
        )
        return loss

    @torch.no_grad()
    def _predicted(self, images: Tensor) -> Tensor:
        """Predicted targets (B, K), possibly empty: an uncertain class would be a wrong label."""
        return self.explanandum.to_targets(self.explanandum(images), never_empty=False)

    def configure_callbacks(self) -> list[Callback]:
        """What every fit needs: an exact explanandum, to stay finite, to resume exactly, to log."""
        frozen = KeepFrozen("explanandum")
        return [frozen, StayFinite(), ResumeExactly(), CountCost(), Monitor()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds this explainer; refuses weights that are not finite."""
        check_weights(self)
        super().on_save_checkpoint(checkpoint)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and learning-rate schedule of the options."""
        return optimizers.configure(self, self.optimizer)


def is_trained(kind: type[LightningModule]) -> bool:
    """Whether a fit determines what a module of this class does: it has a training step."""
    return kind.training_step is not LightningModule.training_step
