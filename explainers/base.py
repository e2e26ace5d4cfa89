"""The base class of all explanation methods."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from explainers import door
from explainers.explanandum import Explanandum
from explainers.explanandum.classes import check_classes
from explainers.explanandum.inpainters import open_all, without_paths
from explainers.frozenpart import fill_in, leave_out
from explainers.functional import masking
from explainers.naming import class_path
from explainers.options import Group, check_choices, complete, without_sources
from explainers.reading import building, read_explainer
from explainers.trust import granting


class Explainer(LightningModule, ABC):
    """Scores, for images and targets, how much each pixel mattered to the explanandum's decision.

    Subclasses implement `attribute`. It needs no checks, casts or `enable_grad` of its own: every
    call passes the door first, see `door.of_targets`. A map never depends on the rest of its batch.
    Every call draws its random numbers from `self.generator()`, the same stream for every image.

    Args:
        explanandum: The frozen classifier to explain.
        seed: Seed of all randomness of the method.

    Raises:
        ValueError: If an argument with a `Literal` type has none of its values.
    """

    is_mask = False  # whether maps are in [0, 1]; otherwise only their order is meaningful
    is_signed = False  # whether values speak for the class above 0, and against it below
    class_specific = True  # whether maps depend on the target
    needs_gradients = False  # whether `attribute` differentiates: gradients are then on inside
    needs_masks = False  # whether `observe` must receive the object masks of the images
    is_stored = False  # whether there are no maps but those that exist already
    speed_only: tuple[str, ...] = ()  # names of arguments that change speed and memory, but no map
    # Arguments of a cheap run, which still finds a planted ground truth.
    quick: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Puts `attribute` and `class_maps` behind the door, unless a base class has done so."""
        super().__init_subclass__(**kwargs)
        for name, guard in (("attribute", door.of_targets), ("class_maps", door.of_classes)):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if owner is cls or not issubclass(owner, Explainer):
                setattr(cls, name, guard(vars(owner)[name]))

    def __init__(self, explanandum: Explanandum, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["explanandum"], logger=False)
        check_choices(type(self), self.hparams)
        open_all(self.hparams)
        self.explanandum = explanandum
        self.seed = seed
        self.cost: dict[str, float] | None = None  # of the training, see `cost.CountCost`

    @abstractmethod
    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scores pixels, where larger values matter more.

        Args:
            images: Images (B, 3, H, W) in [0, 1].
            targets: Classes to explain, multi-hot (B, K) bool, one class or several. A target
                without a class gives 0, if maps depend on the target.

        Returns:
            Maps (B, H, W) float32.
        """

    @door.of_classes
    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, `classes` (B, k) int64."""
        one_hot = F.one_hot(classes, self.explanandum.num_classes).bool()  # (B, k, K)
        return torch.stack(
            [self.attribute(images, targets) for targets in one_hot.unbind(1)], dim=1
        )

    def plot(self, image: str | Path | Tensor, classes: str = "top1") -> Figure:
        """The picture of an image and its maps, see `explainers.show`."""
        from explainers.explaining.explain import show  # knows all methods, hence not above

        return show(self, image, classes)

    def observe(self, batch: dict[str, Any]) -> None:
        """Receives the whole batch before its images are explained. Most methods ignore it."""

    @door.of_targets
    def merged_map(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) of targets (B, K), merged from the maps of `class_maps`.

        The map of several classes is the pixelwise maximum of their maps, which are min-max scaled
        first unless they are masks. A single map is not scaled. A target without a class gives 0.
        """
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

    def complete(self, name: str, defaults: Group) -> Group:
        """The options of a group argument, with defaults for those that are not given.

        They are stored in this form, so that a later default does not change an old checkpoint.
        """
        options: Group = complete(self.hparams[name], defaults)
        self.hparams[name] = dict(options)
        return options

    def generator(self) -> torch.Generator:
        """A new generator on the CPU, seeded by `seed`: the same numbers on every device."""
        return torch.Generator().manual_seed(self.seed)

    def setup(self, stage: str) -> None:
        """Refuses data whose classes are not those of the explanandum, see `check_classes`."""
        data = getattr(self.trainer, "datamodule", None)
        check_classes(getattr(data, "class_names", None) or [], self.explanandum)

    def on_test_start(self) -> None:
        """Refuses a test run without the Score callback, which would measure nothing."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(type(callback).__name__ == "Score" for callback in callbacks):
            raise ValueError(
                "a test run is scored by the Score callback: add -c configs/evaluate.yaml"
            )

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Does nothing. The Score callback explains and scores the batch, for all methods alike."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Explains the predicted classes: `maps` (B, H, W) and their `targets` (B, K) bool.

        The result is empty if a callback such as SaveMaps explains the images itself, because the
        trainer would keep all maps.
        """
        callbacks: list[Any] = self._trainer.callbacks if self._trainer else []  # type: ignore[attr-defined]
        if any(getattr(callback, "explains", False) for callback in callbacks):
            return {}
        targets = self.explanandum.predict(batch["image"])
        return {"maps": self.attribute(batch["image"], targets), "targets": targets}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds this explainer, without the original sources of its weights."""
        accepted = inspect.signature(type(self)).parameters  # Lightning adds those of base classes
        hparams = {name: value for name, value in self.hparams.items() if name in accepted}
        checkpoint["hyper_parameters"] = without_paths(without_sources(hparams))
        checkpoint["class_path"] = class_path(type(self))
        checkpoint["explanandum"] = self.explanandum.config
        if not self.explanandum.in_checkpoint:
            leave_out(checkpoint, "explanandum", self.explanandum)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fills in the weights of the explanandum if the checkpoint does not contain them.

        Raises:
            ValueError: If they are not those of the classifier that was explained.
        """
        self.cost = checkpoint.get("cost")
        if not any(name.startswith("explanandum.") for name in checkpoint["state_dict"]):
            otherwise = "the checkpoint explains another classifier than the given one"
            fill_in(checkpoint, "explanandum", self.explanandum, otherwise)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        explanandum: Explanandum | None = None,
        trust: Sequence[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Loads an explainer from its checkpoint alone.

        Args:
            checkpoint_path: Path of a checkpoint written by a fit.
            map_location: Device of the explainer.
            explanandum: Classifier to explain. Needed only if it was an `nn.Module` of your own, or
                if the checkpoint does not contain its weights.
            trust: Names of your packages whose functions the checkpoint may name as classifiers,
                see `trust.granting`.
            **kwargs: Constructor arguments to change.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not the checkpoint of an explainer, it names what is not trusted,
                or its classifier is needed and not passed.
        """
        path = str(checkpoint_path)
        given = [*kwargs, *(["explanandum"] if explanandum is not None else [])]
        with granting(trust):
            checkpoint = read_explainer(path, given, known=None)  # the class is not the file's
            return cls.restore(checkpoint, path, explanandum, **kwargs).to(map_location)

    @classmethod
    def restore(
        cls, checkpoint: dict[str, Any], path: str, explanandum: Explanandum | None, **changes: Any
    ) -> Self:
        """Builds the explainer of a checkpoint that is already read, see `load_from_checkpoint`."""
        if explanandum is None:
            config = checkpoint["explanandum"]
            if config["model"] is None:
                raise ValueError(
                    f"{path} explains a module of your own, which it cannot rebuild: "
                    "pass load_from_checkpoint(path, explanandum=Explanandum(your_module, ...))"
                )
            _check_names(Explanandum, config, path)
            with building(path):
                explanandum = Explanandum(**config)
        _check_names(cls, checkpoint["hyper_parameters"], path)
        arguments = without_sources(checkpoint["hyper_parameters"])
        with building(path):
            explainer = cls(explanandum, **{**arguments, **changes})
            explainer.on_load_checkpoint(checkpoint)
            explainer.load_state_dict(checkpoint["state_dict"])
        return explainer


def _check_names(kind: type, arguments: Mapping[str, Any], path: str) -> None:
    """Refuses arguments of a checkpoint that the class does not have."""
    accepted = inspect.signature(kind).parameters
    unknown = [name for name in arguments if name not in accepted]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        raise ValueError(
            f"{path} sets {unknown[0]!r}, which {kind.__name__} does not have: it was written by "
            "another version"
        )
