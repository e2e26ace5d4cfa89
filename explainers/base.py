"""The contract of every explanation method, and the base of the trained ones."""

import inspect
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from explainers import files
from explainers.explanandum.frozen import Explanandum
from explainers.functional import masking
from explainers.options import check_choices


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
        check_choices(type(self), self.hparams)
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
            config = files.read_checkpoint(checkpoint_path)["explanandum"]
            if config["model"] is None:
                raise ValueError(
                    f"{checkpoint_path} explains a module of your own, which it cannot rebuild: "
                    "pass load_from_checkpoint(path, explanandum=Explanandum(your_module, ...))"
                )
            explanandum = Explanandum(**config)
        return super().load_from_checkpoint(
            checkpoint_path, map_location=map_location, explanandum=explanandum, **kwargs
        )
