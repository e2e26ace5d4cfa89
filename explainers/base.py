"""The contract of every explanation method, and the base of the trained ones."""

import importlib
import inspect
from abc import ABC, abstractmethod
from typing import Any, Literal, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from explainers import builders, masking
from explainers.explanandum import Explanandum


class NotDefinedError(ValueError):
    """This method cannot explain this classifier; a comparison shows its figures as missing."""


class Explainer(LightningModule, ABC):
    """Answers, for images and targets, which pixels made the explanandum decide.

    Subclasses implement `attribute`. A map never depends on the rest of its batch, and every call
    draws its randomness from `self.generator()`, the same stream for every image.

    Args:
        explanandum: The frozen classifier to explain.
        seed: Seed of all randomness of the method.
    """

    is_mask = False  # True promises maps in [0, 1]; False promises only an order
    class_specific = True  # False: the map does not depend on the target
    needs: tuple[str, ...] = ()  # of "features", "attention", "gradients", "masks"

    def __init__(self, explanandum: Explanandum, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["explanandum"], logger=False)
        self.explanandum = explanandum
        self.seed = seed

    @abstractmethod
    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Score pixels: larger matters more.

        Args:
            images: (B, 3, H, W) in [0, 1].
            targets: What to explain, (B, K) bool, one class or several.

        Returns:
            Maps (B, H, W) float32.
        """

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes an image, `classes` (B, k) int64."""
        one_hot = F.one_hot(classes, self.explanandum.num_classes).bool()  # (B, k, K)
        return torch.stack(
            [self.attribute(images, targets) for targets in one_hot.unbind(1)], dim=1
        )

    def merged_map(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) of whole targets (B, K), for methods whose work is `class_maps`.

        One class gives its map as it is. Several give the pixelwise maximum of their maps, which
        are min-maxed first unless they are masks. None gives 0.
        """
        self.check_inputs(images, targets)
        merged = torch.zeros_like(images[:, 0])
        counts = targets.sum(dim=1)
        for count in sorted(set(counts.tolist())):
            rows = counts == count
            if count > 0:
                classes = targets[rows].nonzero()[:, 1].view(-1, count)
                maps = self.class_maps(images[rows], classes)
                scaled = maps if self.is_mask or count == 1 else masking.minmax(maps)
                merged[rows] = scaled.amax(dim=1).to(merged)
        return merged

    def check_inputs(self, images: Tensor, targets: Tensor) -> None:
        """Raise a ValueError unless images are (B, 3, H, W) and targets (B, K) bool."""
        expected = (images.shape[0], self.explanandum.num_classes)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
        if targets.dtype != torch.bool or tuple(targets.shape) != expected:
            raise ValueError(
                f"expected multi-hot targets of shape {expected} and dtype bool, "
                f"got {tuple(targets.shape)} {targets.dtype}; "
                f"from class indices: F.one_hot(indices, {expected[1]}).bool()"
            )

    def generator(self) -> torch.Generator:
        """A fresh generator seeded by `seed`, on the CPU: the same numbers on every device."""
        return torch.Generator().manual_seed(self.seed)

    def on_test_start(self) -> None:
        """Refuse a test run that would measure nothing."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(type(callback).__name__ == "Score" for callback in callbacks):
            raise ValueError(
                "a test run is scored by the Score callback: add -c configs/evaluate.yaml"
            )

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Do nothing: Score explains and scores the batch, this module like every other."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Explain the predicted classes: `maps` (B, H, W) and their `targets` (B, K) bool."""
        targets = self.explanandum.predict(batch["image"])
        return {"maps": self.attribute(batch["image"], targets), "targets": targets}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds this explainer, and drop where its weights once came from."""
        sources = {"pretrained": False, "backbone_weights": None}
        accepted = inspect.signature(type(self)).parameters  # Lightning adds those of base classes
        hparams = {name: value for name, value in self.hparams.items() if name in accepted}
        checkpoint["hyper_parameters"] = hparams | {
            k: v for k, v in sources.items() if k in hparams
        }
        checkpoint["class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["explanandum"] = self.explanandum.config
        if not self.explanandum.in_checkpoint:
            for name in [n for n in checkpoint["state_dict"] if n.startswith("explanandum.")]:
                del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fill in the explanandum's weights where the checkpoint leaves them out."""
        if not any(name.startswith("explanandum.") for name in checkpoint["state_dict"]):
            own = {
                f"explanandum.{name}": value
                for name, value in self.explanandum.state_dict().items()
            }
            checkpoint["state_dict"].update(own)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str,
        map_location: Any = None,
        explanandum: Explanandum | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load an explainer from its checkpoint alone.

        Args:
            checkpoint_path: A file written by a fit.
            map_location: Device, as for `torch.load`.
            explanandum: Needed only if the checkpoint's was an `nn.Module` of your own.
            **kwargs: Init arguments to change.

        Raises:
            ValueError: If the explanandum was a module of your own and is not passed.
        """
        if explanandum is None:
            config = builders.read_checkpoint(checkpoint_path)["explanandum"]
            if config["model"] is None:
                raise ValueError(
                    f"{checkpoint_path} explains a module of your own, which it cannot rebuild: "
                    "pass load_from_checkpoint(path, explanandum=Explanandum(your_module, ...))"
                )
            explanandum = Explanandum(**config)
        return super().load_from_checkpoint(
            checkpoint_path, map_location=map_location, explanandum=explanandum, **kwargs
        )


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


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of a step's randomness on one process: a resumed fit draws what it would have drawn."""
    return hash((seed, step, rank)) & (2**63 - 1)


def warmup_cosine(step: int, total: int, warmup: float = 0.05) -> float:
    """Learning-rate factor: linear to 1 over the first `warmup` of `total` steps, then cosine to 0.

    Example:
        >>> [round(warmup_cosine(s, 100), 2) for s in (0, 4, 5, 52, 100)]
        [0.2, 1.0, 1.0, 0.51, 0.0]
    """
    start = max(1, int(warmup * total))
    if step < start:
        return (step + 1) / start
    progress = min(1.0, (step - start) / max(1, total - start))
    return 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))


def load(path: str, map_location: Any = None, explanandum: Explanandum | None = None) -> Explainer:
    """A ready explainer, in eval mode, from a checkpoint of any method.

    Args:
        path: A checkpoint file written by a fit.
        map_location: Device, as for `torch.load`.
        explanandum: Needed only if the checkpoint's was an `nn.Module` of your own.
    """
    module, _, name = class_path(path).rpartition(".")
    cls: type[Explainer] = getattr(importlib.import_module(module), name)
    return cls.load_from_checkpoint(path, map_location=map_location, explanandum=explanandum).eval()


def class_path(path: str) -> str:
    """Import path of the explainer class in a checkpoint file."""
    checkpoint = builders.read_checkpoint(path)
    if "class_path" not in checkpoint or "explanandum" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of an explainer")
    return str(checkpoint["class_path"])
