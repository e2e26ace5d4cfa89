"""The command line of `train.py` and `evaluate.py`: LightningCLI with one-line errors."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from explainers import configfiles, memory
from explainers.base import Explainer
from explainers.callbacks.accuracy import CheckClassifier
from explainers.callbacks.checkpointio import WholeCheckpointIO
from explainers.callbacks.dashboard import HoldConfig
from explainers.callbacks.folder import FitFolder, newest_checkpoint
from explainers.callbacks.interrupt import SaveOnInterrupt
from explainers.callbacks.judge import JudgeImages
from explainers.callbacks.progress import CloseBars
from explainers.callbacks.save import SaveMaps
from explainers.callbacks.score import Score
from explainers.checkpoint import (
    brings_classifier,
    check_resumable,
    explainer_class,
    is_loaded,
    model_config,
    restore,
)
from explainers.explanandum.classes import check_classes
from explainers.explanandum.classifier import Classifier
from explainers.learned import is_trained
from explainers.messages import helptexts, noise, one_line
from explainers.tools import TOOLS
from explainers.trust import granting

# Lightning calls a method that jsonargparse has renamed; its users cannot mend that.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


class CLI(LightningCLI):
    """LightningCLI over any method and data set.

    Configuration files are merged key by key, later ones win, and flags win over all files. `score`
    and `save` are groups of the command line: callbacks that only `test` and `predict` build, and
    only if `trainer.callbacks` holds none of their class.

    `out` is the run folder; without it, it is named after what runs. `trust` are packages whose
    classes and functions checkpoints may name, see SECURITY.md.
    """

    commands: ClassVar[Sequence[str]] = ("fit", "validate")
    # group of the command line -> its callback, and the only command that builds it
    groups: ClassVar = {"score": (Score, "test"), "save": (SaveMaps, "predict")}
    checkpoint: dict[str, Any] | None = None  # read once, for its configuration and its weights

    def __init__(self, args: Sequence[str] | None = None) -> None:
        program, words = Path(sys.argv[0]).name, sys.argv[1:] if args is None else list(args)
        self.trains, self.validates = words[:1] == ["fit"], words[:1] == ["validate"]
        paths, flags = configfiles.split(words[1:])
        packages, flags = configfiles.taken(flags, "trust")
        rows, flags = configfiles.taken(flags, "methods")
        files = configfiles.load(paths)
        self.files = configfiles.compared(files, flags, rows) if rows else files
        with granting(packages), granting(self.files.get("trust")):
            super().__init__(
                LightningModule,
                LightningDataModule,
                save_config_callback=SaveConfigCallback if self.trains else HoldConfig,
                save_config_kwargs={"overwrite": True, "save_to_log_dir": self.trains},
                trainer_defaults={
                    "inference_mode": False,  # explanations take gradients
                    "callbacks": [CloseBars()],
                },
                seed_everything_default=0,
                subclass_mode_model=True,
                subclass_mode_data=True,
                load_from_checkpoint_support=False,  # our modules write their own plain arguments
                parser_kwargs=helptexts.parser_options(program, tuple(self.commands)),
                args=[*words[:1], *flags],
            )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises, so that `main` can say in one line what is wrong."""
        return super().init_parser(**kwargs | {"exit_on_error": False, "allow_abbrev": False})

    def setup_parser(self, *args: Any) -> None:
        """Leave the groups of other commands out of a command's help."""
        super().setup_parser(*args)
        for command, parser in self._subcommand_parsers.items():
            for name, (_, user) in self.groups.items():
                if command != user:
                    helptexts.hide(parser, name)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups, and the arguments of every command."""
        for name, (callback, _) in self.groups.items():
            parser.add_class_arguments(callback, name, instantiate=False, sub_configs=True)
        parser.add_argument(
            "--out", type=str | None, help="run folder; by default named after what runs"
        )
        parser.add_argument(
            "--trust",
            type=str | list[str] | None,
            help="package whose classes and functions a checkpoint may name; may be repeated",
        )
        parser.add_argument(
            "--methods",
            type=str | list[str] | None,
            help="rows to compare: names in configs/methods and checkpoints, separated by commas",
        )
        parser.add_argument(
            "--untrained", action="store_true", help="test what learns even without a checkpoint"
        )

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Only what this program is for."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in cls.commands}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Merge the configuration files into one, which the parser reads before the flags."""
        if not args or args[0] not in self.commands:
            self.config = parser.parse_args(args)
            return
        command, *flags = args
        helptexts.check_groups(flags, command, {n: user for n, (_, user) in self.groups.items()})
        merged = configfiles.merge(self.base_config(flags), self.files)
        merged = configfiles.settle(merged, flags, command)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            yaml.safe_dump(merged, file, sort_keys=False, allow_unicode=True)
            file.flush()
            self.config = parser.parse_args([command, "--config", file.name, *flags])
        self.rows = (merged["score"].get("methods") or {}) if command == "test" else {}
        config = self.config[command]
        config.trainer.default_root_dir = merged["trainer"]["default_root_dir"]
        config.weights_only = True  # Lightning unpickles nothing
        rank_zero_info(f"run folder: {config.trainer.default_root_dir}")
        if self.trains and config.ckpt_path is None:
            config.ckpt_path = newest_checkpoint(config.trainer.default_root_dir)
        if command == "predict":
            config.return_predictions = False  # maps would be kept in memory

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
        noise.mute()

    def instantiate_classes(self) -> None:
        """Build everything; refuse to fit what has nothing to learn, or to test what has not."""
        super().instantiate_classes()
        config, kind = self.config[self.subcommand], type(self.model)
        if self.trains:
            if not is_trained(kind):
                raise ValueError(
                    f"{kind.__name__} needs no training: score it with evaluate.py test, the same "
                    "files and -c configs/evaluate.yaml"
                )
            if config.ckpt_path is not None:
                check_resumable(config.ckpt_path, kind)
        elif not config.untrained:
            self.refuse_untrained()

    def refuse_untrained(self) -> None:
        """Refuse to measure weights that no training has made, of the module and of the rows.

        Raises:
            ValueError: If there are some.
        """
        given, kind = self.config[self.subcommand].ckpt_path, type(self.model)
        loaded = given is not None or is_loaded(self.model)
        rows = {name: str(row.get("class_path")) for name, row in self.rows.items()}
        new = [name for name, path in rows.items() if is_trained(explainer_class(path))]
        if is_trained(kind) and not loaded:
            raise ValueError(
                f"{kind.__name__} has not been trained: give --ckpt_path FILE, or --untrained to "
                "measure its initial weights"
            )
        if new:
            raise ValueError(
                f"{new[0]} of score.methods has not been trained: name its checkpoint in "
                "score.checkpoints instead, or add --untrained to score its initial weights"
            )

    def before_fit(self) -> None:
        """Take the run folder, before a logger writes into it."""
        self.trainer.datamodule = self.datamodule  # type: ignore[attr-defined]
        self.datamodule.trainer = self.trainer
        self.trainer.strategy.connect(self.model)
        self.folder.take(self.trainer, self.model)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the callbacks of its list and of this command's groups."""
        used = self._get(self.config_init, "trainer", default={})
        groups = {name: self._get(self.config_init, name) for name in self.groups}
        built = [self.groups[n][0](**given) for n, given in groups.items() if given is not None]
        self.folder = FitFolder(self._get(self.config_init, "ckpt_path"))
        # First, to see every image before it is explained.
        first: list[Callback] = [self.folder] if self.trains else [JudgeImages(), CheckClassifier()]
        last = [SaveOnInterrupt()] if self.trains else []  # when all others have seen the batch
        used = {**used, "callbacks": [*first, *(used["callbacks"] or []), *last]}
        if not used["plugins"]:
            used["plugins"] = [WholeCheckpointIO()]
        return self._instantiate_trainer({**used, **kwargs}, built)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as given: a checkpoint never overrules the command line."""


class EvaluateCLI(CLI):
    """The command line of `evaluate.py`: `--ckpt_path` alone brings the whole model."""

    commands: ClassVar[Sequence[str]] = ("test", "predict", "validate")

    def base_config(self, flags: Sequence[str]) -> dict[str, Any]:
        """The checkpoint's own model, which files and flags may change."""
        given = configfiles.merge(self.files, configfiles.given(flags, ("model", "ckpt_path")))
        path, model = given.get("ckpt_path"), given.get("model") or {}
        if path is None:  # `validate` measures the classifier, whatever explains it
            chosen = {"class_path": "explainers.methods.constant.Random"}
            return {"model": chosen} if self.validates else {}
        self.compares = brings_classifier(model)
        self.checkpoint, config = model_config(path, model)
        return {"model": config}

    def instantiate_classes(self) -> None:
        """Build everything and load the weights; `validate` then measures the explanandum."""
        super().instantiate_classes()
        if self.checkpoint is not None:
            config = self.config_init[self.subcommand]
            # Not left to the trainer, which would restore the fit's callbacks and loops as well.
            restore(self.model, self.checkpoint, config["ckpt_path"], self.compares)
            config["ckpt_path"] = None
        if self.subcommand == "validate" and isinstance(self.model, Explainer):
            subject = self.model.explanandum
            check_classes(self.datamodule.class_names, subject)
            count, many, plain = subject.num_classes, subject.multi_label, [0.0] * 3
            self.model = Classifier(subject, count, multi_label=many, mean=plain, std=[1.0] * 3)
            self.model.input_size = subject.input_size  # which the data take

    def refuse_untrained(self) -> None:
        """`validate` measures the classifier, whose explainer need not be trained."""
        if self.subcommand != "validate":
            super().refuse_untrained()


class WholeCLI(EvaluateCLI):
    """The installed program: `fit` as in `train.py`, the other commands as in `evaluate.py`."""

    commands: ClassVar[Sequence[str]] = ("fit", "test", "predict", "validate")

    def base_config(self, flags: Sequence[str]) -> dict[str, Any]:
        """A fit resumes from its `--ckpt_path`; other commands take their model from it."""
        return {} if self.trains else super().base_config(flags)


def main(cli: type[CLI], args: Sequence[str] | None = None) -> int:
    """Run a command line; whatever the user can mend is said in one line on stderr.

    Returns 0 on success, 2 on bad input, 128 and the signal's number after an interruption.
    """
    torch.set_float32_matmul_precision("high")
    memory.keep_freed()
    words = sys.argv[1:] if args is None else list(args)
    try:
        if issubclass(cli, EvaluateCLI) and words and words[0] in TOOLS:
            TOOLS[words[0]](words[1:])
        else:
            cli(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if (told := one_line(error, Path(sys.argv[0]).name)) is None:
            raise
        # What a file holds may be told; a terminal obeys control characters.
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in told)
        print(f"error: {shown}", file=sys.stderr)
        return 2
    return 0


def program() -> int:
    """The installed command `learned-explainers`."""
    return main(WholeCLI)
