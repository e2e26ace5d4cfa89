"""The contract of every explanation method."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from explainers import files
from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.options import Group, check_choices, complete


class Explainer(LightningModule, ABC):
    """ResponseTable, for images and targets, which pixels made the explanandum decide.

    Subclasses implement `attribute`. A map never depends on the rest of its batch, and every call
    draws its randomness from `self.generator()`, the same stream for every image.

    Args:
        explanandum: The frozen classifier to explain.
        seed: Seed of all randomness of the method.

    Raises:
        ValueError: If an argument with a `Literal` type has none of its values.
    """

    is_mask = False  # True promises maps in [0, 1]; False promises only an order
    class_specific = True  # False: the map does not depend on the target
    needs_gradients = False  # True: differentiates the explanandum at each explanation
    needs_masks = False  # True: has to `observe` the object masks of the images it explains
    speed_only: tuple[str, ...] = ()  # arguments that change speed and memory, but no map
    quick: ClassVar[
        Mapping[str, Any]
    ] = {}  # arguments of a cheap run that still finds a planted truth

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
        """Maps (B, k, H, W) of several classes of each image, `classes` (B, k) int64."""
        one_hot = F.one_hot(classes, self.explanandum.num_classes).bool()  # (B, k, K)
        return torch.stack(
            [self.attribute(images, targets) for targets in one_hot.unbind(1)], dim=1
        )

    def observe(self, batch: dict[str, Any]) -> None:
        """See the whole batch before its images are explained; most methods ignore it."""

    def merged_map(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) of whole targets (B, K), for methods whose work is `class_maps`.

        The map of one class is returned as it is. The map of several classes is the pixelwise
        maximum of their maps, which are min-maxed first unless they are masks. A target without a
        class gives a map of zeros.
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

    def complete(self, name: str, defaults: Group) -> Group:
        """The options of a group argument, with defaults for those not given; they are stored so.

        A later default then never changes an old checkpoint.
        """
        options: Group = complete(self.hparams[name], defaults)
        self.hparams[name] = dict(options)
        return options

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
        accepted = inspect.signature(type(self)).parameters  # Lightning adds those of base classes
        hparams = {name: value for name, value in self.hparams.items() if name in accepted}
        checkpoint["hyper_parameters"] = _without_sources(hparams)
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
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        explanandum: Explanandum | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load an explainer from its checkpoint alone.

        Args:
            checkpoint_path: A file written by a fit.
            map_location: Device of the explainer.
            explanandum: Needed only if the checkpoint's was an `nn.Module` of your own.
            **kwargs: Init arguments to change.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint of an explainer, or its explanandum was a module of
                your own and is not passed.
        """
        checkpoint = files.read_explainer(checkpoint_path)
        return cls.restore(checkpoint, str(checkpoint_path), explanandum, **kwargs).to(map_location)

    @classmethod
    def restore(
        cls, checkpoint: dict[str, Any], path: str, explanandum: Explanandum | None, **changes: Any
    ) -> Self:
        """Build the explainer of a checkpoint that has been read already; see above."""
        if explanandum is None:
            config = checkpoint["explanandum"]
            if config["model"] is None:
                raise ValueError(
                    f"{path} explains a module of your own, which it cannot rebuild: "
                    "pass load_from_checkpoint(path, explanandum=Explanandum(your_module, ...))"
                )
            explanandum = Explanandum(**config)
        explainer = cls(explanandum, **{**checkpoint["hyper_parameters"], **changes})
        explainer.on_load_checkpoint(checkpoint)
        explainer.load_state_dict(checkpoint["state_dict"])
        return explainer


def _without_sources(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments, nested ones too, that neither download nor read weights when used again."""
    cleared = {"pretrained": False, "backbone_weights": None}
    return {
        name: _without_sources(value) if isinstance(value, Mapping) else cleared.get(name, value)
        for name, value in arguments.items()
    }
