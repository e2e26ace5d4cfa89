"""The command line of `train.py` and `evaluate.py`: LightningCLI with one-line errors."""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from explainers import configfiles, files
from explainers.base import Explainer
from explainers.callbacks.accuracy import CheckClassifier
from explainers.callbacks.progress import CloseBars
from explainers.callbacks.save import SaveMaps
from explainers.callbacks.score import Score
from explainers.checkpoint import plain_config
from explainers.explanandum.classes import check_classes
from explainers.explanandum.classifier import Classifier
from explainers.learned import is_trained
from explainers.messages import one_line

# Lightning calls a method that jsonargparse has renamed; its users cannot mend that.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


class CLI(LightningCLI):
    """LightningCLI over any method and data set.

    Configuration files are merged key by key, later ones win, and flags win over all files. `score`
    and `save` are groups of the command line: callbacks that only `test` and `predict` build, and
    only if `trainer.callbacks` holds none of their class.
    """

    commands: ClassVar[Sequence[str]] = ("fit", "validate")
    # group of the command line -> its callback, and the only command that builds it
    groups: ClassVar = {"score": (Score, "test"), "save": (SaveMaps, "predict")}

    def __init__(self, args: Sequence[str] | None = None) -> None:
        words = list(sys.argv[1:] if args is None else args)
        self.trains = bool(words) and words[0] == "fit"
        super().__init__(
            LightningModule,
            LightningDataModule,
            # Score writes its settings beside its scores.
            save_config_callback=SaveConfigCallback if self.trains else None,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "inference_mode": False,  # explanations take gradients
                "callbacks": [CloseBars()],
            },
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            load_from_checkpoint_support=False,  # our modules write their own plain arguments
            args=words,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises, so that `main` can say in one line what is wrong."""
        return super().init_parser(**kwargs | {"exit_on_error": False})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups."""
        for name, (callback, _) in self.groups.items():
            parser.add_class_arguments(callback, name, instantiate=False, sub_configs=True)

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Only what this program is for."""
        return {
            name: skip for name, skip in LightningCLI.subcommands().items() if name in cls.commands
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Merge the configuration files into one, which the parser reads before the flags."""
        if not args or args[0] not in self.commands:
            self.config = parser.parse_args(args)
            return
        paths, flags = configfiles.split(args[1:])
        merged = configfiles.combine(paths, self.base_config(flags), flags)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            yaml.safe_dump(merged, file, sort_keys=False, allow_unicode=True)
            file.flush()
            first = ["--config", file.name] if merged else []
            self.config = parser.parse_args([args[0], *first, *flags])

    def base_config(self, flags: Sequence[str]) -> dict[str, Any]:
        """What the configuration files change; nothing here."""
        return {}

    def before_instantiate_classes(self) -> None:
        """Leave out the groups of other commands, and what Lightning says at every start."""
        config = self.config[self.subcommand]
        listed = config.trainer.callbacks or []
        for name, (callback, command) in self.groups.items():
            held = {str(entry.class_path).rpartition(".")[2] for entry in listed}
            if self.subcommand != command or callback.__name__ in held:
                del config[name]
        rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        rank_zero.addFilter(lambda record: "Tip:" not in record.getMessage())
        for message in (".*LeafSpec.*", ".*does not have many workers.*", "Found .* in eval mode"):
            warnings.filterwarnings("ignore", message)

    def instantiate_classes(self) -> None:
        """Build everything; refuse to fit what has nothing to learn."""
        super().instantiate_classes()
        kind = type(self.model)
        if self.subcommand == "fit" and not is_trained(kind):
            raise ValueError(
                f"{kind.__name__} needs no training: score it with evaluate.py test, the same "
                "files and -c configs/evaluate.yaml"
            )
        folders = [getattr(each, "dirpath", None) for each in self.trainer.checkpoint_callbacks]
        # What else is in the folder, such as a logger's files, is no run to be overwritten.
        if not any(list(Path(folder).glob("*.ckpt")) for folder in folders if folder):
            warnings.filterwarnings("ignore", "Checkpoint directory")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the callbacks of its list and of this command's groups."""
        used = self._get(self.config_init, "trainer", default={})
        groups = {name: self._get(self.config_init, name) for name in self.groups}
        built = [self.groups[n][0](**given) for n, given in groups.items() if given is not None]
        # First, because SaveMaps removes from a batch what is already explained.
        check = [CheckClassifier()] if self.subcommand in ("test", "predict") else []
        used = {**used, "callbacks": [*check, *(used["callbacks"] or [])]}
        return self._instantiate_trainer({**used, **kwargs}, built)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as given: a checkpoint never overrules the command line."""


class EvaluateCLI(CLI):
    """The command line of `evaluate.py`: `--ckpt_path` alone brings the whole model."""

    commands: ClassVar[Sequence[str]] = ("test", "predict", "validate")
    checkpoint: dict[str, Any] | None = None  # read once, for its configuration and its weights

    def base_config(self, flags: Sequence[str]) -> dict[str, Any]:
        """The checkpoint's own model, which files and flags may change."""
        path = configfiles.given(flags, ["ckpt_path"]).get("ckpt_path")
        if path is None:
            return {}
        self.checkpoint = files.read_checkpoint(path)
        if "explanandum" not in self.checkpoint:
            raise ValueError(
                f"{path} is not a checkpoint of an explainer; name a classifier as the explanandum"
            )
        return {"model": plain_config(self.checkpoint, path)}

    def instantiate_classes(self) -> None:
        """Build everything and load the weights; `validate` then measures the explanandum."""
        super().instantiate_classes()
        if self.checkpoint is not None:
            # Not left to the trainer, which would restore the fit's callbacks and loops as well.
            self.model.on_load_checkpoint(self.checkpoint)
            self.model.load_state_dict(self.checkpoint["state_dict"])
            self.config_init[self.subcommand]["ckpt_path"] = None
        if self.subcommand == "validate" and isinstance(self.model, Explainer):
            subject = self.model.explanandum
            check_classes(self.datamodule.class_names, subject)
            self.model = Classifier(
                subject, subject.num_classes, subject.multi_label, mean=[0.0] * 3, std=[1.0] * 3
            )


class WholeCLI(EvaluateCLI):
    """The installed program: `fit` as in `train.py`, the other commands as in `evaluate.py`."""

    commands: ClassVar[Sequence[str]] = ("fit", "test", "predict", "validate")

    def base_config(self, flags: Sequence[str]) -> dict[str, Any]:
        """A fit resumes from its `--ckpt_path`; other commands take their model from it."""
        return {} if self.trains else super().base_config(flags)


def main(cli: type[CLI], args: Sequence[str] | None = None) -> int:
    """Run a command line; whatever the user can mend is said in one line on stderr.

    Returns:
        0 on success, 2 on bad input.
    """
    torch.set_float32_matmul_precision("high")
    try:
        cli(args)
    except ModuleNotFoundError as error:
        extra = "pip install 'learned-explainers[baselines]'" if error.name == "captum" else ""
        print(f"error: {error}; {extra or 'is its folder on PYTHONPATH?'}", file=sys.stderr)
        return 2
    except (argparse.ArgumentError, FileNotFoundError, ValueError, TypeError) as error:
        print(f"error: {one_line(error, Path(sys.argv[0]).name)}", file=sys.stderr)
        return 2
    return 0


def program() -> int:
    """The installed command `learned-explainers`."""
    return main(WholeCLI)
