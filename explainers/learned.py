"""The base of the trained explainers."""

from abc import abstractmethod
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.optimizers import step_seed, warmup_cosine


class LearnedExplainer(Explainer):
    """An explainer with a network that is trained once and then explains in one forward pass.

    Subclasses return their named, weighted loss terms; one step serves training and validation.
    A batch without `target` (unlabelled photographs) is given the explanandum's own prediction, if
    the method `uses_targets` at all: the top class, or with `multi_label` all above 0.5 and no
    class at all where there is none.

    Args:
        explanandum: The frozen classifier to explain.
        lr: Peak learning rate of Adam.
        schedule: "constant", or "cosine": linear warm-up over the first 5 % of the steps, then
            cosine to 0.
        seed: Seed of all randomness of the method.
    """

    uses_targets = True  # False: the loss reads no batch["target"]

    def __init__(
        self,
        explanandum: Explanandum,
        lr: float = 1e-3,
        schedule: Literal["constant", "cosine"] = "constant",
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        self.lr = lr
        self.schedule = schedule

    @abstractmethod
    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Named, weighted scalar terms; their sum is the loss, their noise is `generator`'s."""

    def on_fit_start(self) -> None:
        """Refuse data whose classes are not the explanandum's; unlabelled data have none."""
        data = getattr(self.trainer, "datamodule", None)
        names, own = getattr(data, "class_names", None), self.explanandum.class_names
        if names and len(names) != len(own):
            raise ValueError(
                f"the data have {len(names)} classes ({names[0]}, ...), the explanandum {len(own)} "
                f"({own[0]}, ...): take an explanandum of these data, or set its `classes`"
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch; its noise depends on (seed, global step): a resumed fit repeats it."""
        return self._step(batch, "train", self.global_step)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The same loss on held-out images, with the same noise at every validation."""
        return self._step(batch, "val", batch_idx)

    def _step(self, batch: dict[str, Any], stage: str, step: int) -> Tensor:
        if self.uses_targets:
            if "target" not in batch:
                batch = {**batch, "target": self._predicted(batch["image"])}
            self.check_inputs(batch["image"], batch["target"])
        seed = step_seed(self.seed, step, self.global_rank)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)  # for the network's dropout
            terms = self.loss_terms(batch, torch.Generator().manual_seed(seed))
        loss = torch.stack(list(terms.values())).sum()
        values = {f"{stage}/{name}": value.detach() for name, value in terms.items()}
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
        if self.explanandum.multi_label:
            logits: Tensor = self.explanandum(images)
            return logits > 0  # no fallback: a guess would be a wrong label
        return self.explanandum.predict(images)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam over whatever learns, with the schedule stepped per batch."""
        learned = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=self.lr)
        if self.schedule == "constant":
            return {"optimizer": optimizer}
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda step: warmup_cosine(step, total))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
