"""The command line of `train.py` and `evaluate.py`: LightningCLI with one-line errors."""

import argparse
import difflib
import importlib
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from explainers import files
from explainers.base import Explainer
from explainers.callbacks.progress import CloseBars
from explainers.explanandum.classifier import Classifier

# Lightning calls a method that jsonargparse has renamed; its users cannot mend that.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


# jsonargparse's account of a value of a wrong type, for one type or for several.
WRONG_TYPE = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\s+(?:'
    r"Expected a (?P<type>(?:<class|typing).*?)\. Got value: (?P<got>.*?)(?:\. Got value: .*)?$"
    r"|Does not validate .*\s+Subtypes: \[(?P<types>.*)\]\s+"
    r"Errors:(?:\s+- Expected a (?:<class|typing).*)+\s+"
    r"Given value type: .*\s+Given value: (?P<given>.*))",
    re.MULTILINE,
)


class CLI(LightningCLI):
    """LightningCLI over any method and data set; of several `-c` files, later ones win."""

    commands: tuple[str, ...] = ("fit", "validate")
    save_config: type[SaveConfigCallback] | None = SaveConfigCallback

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=self.save_config,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "inference_mode": False,  # explanations take gradients
                "callbacks": [CloseBars()],
            },
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            load_from_checkpoint_support=False,  # our modules write their own plain arguments
            args=None if args is None else list(args),
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises, so that `main` can say in one line what is wrong."""
        return super().init_parser(**kwargs | {"exit_on_error": False})

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Only what this program is for."""
        return {
            name: skip for name, skip in LightningCLI.subcommands().items() if name in cls.commands
        }

    def instantiate_classes(self) -> None:
        """Build everything; refuse to fit what has nothing to learn."""
        super().instantiate_classes()
        kind = type(self.model)
        if self.subcommand == "fit" and kind.training_step is LightningModule.training_step:
            raise ValueError(
                f"{kind.__name__} needs no training: score it with evaluate.py test, the same "
                "files and -c configs/evaluate.yaml"
            )
        folders = [getattr(each, "dirpath", None) for each in self.trainer.checkpoint_callbacks]
        # What else is in the folder, such as a logger's files, is no run to be overwritten.
        if not any(list(Path(folder).glob("*.ckpt")) for folder in folders if folder):
            warnings.filterwarnings("ignore", "Checkpoint directory")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as given: a checkpoint never overrules the command line."""

    def before_instantiate_classes(self) -> None:
        """Silence what Lightning says to everybody at every start."""
        rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        rank_zero.addFilter(lambda record: "Tip:" not in record.getMessage())
        for message in (".*LeafSpec.*", ".*does not have many workers.*", "Found .* in eval mode"):
            warnings.filterwarnings("ignore", message)


class EvaluateCLI(CLI):
    """The command line of `evaluate.py`: `--ckpt_path` alone brings the whole model."""

    commands = ("test", "predict", "validate")
    save_config = None  # Score writes its settings beside its scores

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Make the checkpoint's own model the default; files and flags may change it."""
        words = sys.argv[1:] if args is None else list(args)
        peek = argparse.ArgumentParser(add_help=False)
        peek.add_argument("--ckpt_path")
        path = peek.parse_known_args(words)[0].ckpt_path
        if path is not None and words and words[0] in self.commands:
            self._subcommand_parsers[words[0]].set_defaults({"model": model_config(path)})
        super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """Build everything and load the weights; `validate` then measures the explanandum."""
        super().instantiate_classes()
        if path := self._get(self.config_init, "ckpt_path"):
            # Not left to the trainer, which would restore the fit's callbacks and loops as well.
            checkpoint = files.read_checkpoint(path)
            self.model.on_load_checkpoint(checkpoint)
            self.model.load_state_dict(checkpoint["state_dict"])
            self.config_init[self.subcommand]["ckpt_path"] = None
        found: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks = {type(callback).__name__ for callback in found}
        if self.subcommand == "predict" and "SaveMaps" not in callbacks:
            raise ValueError("nothing would be written: add -c configs/evaluate.yaml (SaveMaps)")
        if self.subcommand == "validate" and isinstance(self.model, Explainer):
            subject = self.model.explanandum
            if (count := self.datamodule.num_classes) != subject.num_classes:
                raise ValueError(
                    f"the data have {count} classes, the explanandum {subject.num_classes}"
                )
            self.model = Classifier(
                subject, subject.num_classes, subject.multi_label, mean=[0.0] * 3, std=[1.0] * 3
            )


def model_config(path: str) -> dict[str, Any]:
    """Class path and init arguments of the module in a checkpoint, as a config file gives them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of an explainer, or of one whose explanandum cannot be
            rebuilt.
    """
    checkpoint = files.read_checkpoint(path)
    if "explanandum" not in checkpoint:
        raise ValueError(
            f"{path} is not a checkpoint of an explainer; name a classifier as the explanandum"
        )
    config = checkpoint["explanandum"]
    if config["model"] is None:
        raise ValueError(
            f"{path} explains an nn.Module of your own: give the explanandum a model "
            "package.module:callable instead"
        )
    explanandum = {"class_path": "explainers.Explanandum", "init_args": config}
    return {
        "class_path": checkpoint["class_path"],
        "init_args": dict(checkpoint["hyper_parameters"]) | {"explanandum": explanandum},
    }


def one_line(error: Exception, program: str) -> str:
    """What is wrong, without jsonargparse's account of everything it tried, and where to look."""
    text = str(error)
    if "in DataLoader worker process" in text:
        text = text.strip().splitlines()[-1]
    if wrong := WRONG_TYPE.search(text):
        return _wrong_type(text, wrong)
    lines = [line.strip(" -") for line in text.splitlines()]
    noise = (
        "Does not validate",
        "Subtypes",
        "Errors:",
        "Expected a <class 'NoneType'>",
        "Given value",
        "Parser key",
    )
    told = [line for line in lines if line and not line.startswith(noise)]
    message = " ".join(told or lines)
    if 'expected "subcommand"' in message:
        message += f" Try: python {program} <subcommand> -c configs/quickstart.yaml; or --help"
    elif "'lightning.LightningModule'" in message:
        message = "no method given: add -c configs/methods/<name>.yaml, or --ckpt_path FILE"
    elif found := re.search(r".*class_path '([\w.]+)'.*Option '(\w+)' is not accepted", message):
        module, _, name = found[1].rpartition(".")
        message += _nearest(found[2], getattr(importlib.import_module(module), name))
    elif "required: explanandum" in message:
        message += " (the classifier to explain: add a file of configs/explananda)"
    elif message.endswith(".model"):
        message += " (give --ckpt_path FILE, or a file of configs/methods)"
    elif found := re.search(r"does not accept option 'trainer\.(\w+)", message):
        message += _nearest(found[1], Trainer)
    elif found := re.search(r"does not accept option '(\w+)", message):
        message += _nearest(found[1], ["trainer", "model", "data", "seed_everything", "ckpt_path"])
    return message


def _wrong_type(text: str, found: re.Match[str]) -> str:
    """`model.RISE.masks must be int, got abc`: keys and classes down to the value."""
    path = r"Parser key \"([\w.]+)\"|class_path '(?:\w+\.)*(\w+)'"
    places = [key or name for key, name in re.findall(path, text[: found.end("key") + 1])]
    types = re.sub(r"<class '([\w.]+)'>", r"\1", found["types"] or found["type"])
    types = re.sub(r"(?:\w+\.)+(\w+)", r"\1", types).replace("Literal", "one of ")
    each = re.split(r", (?![^\[]*\])", types.replace("NoneType", "null"))
    return f"{'.'.join(places)} must be {' or '.join(each)}, got {found['given'] or found['got']}"


def _nearest(option: str, owner: type | list[str]) -> str:
    options = owner if isinstance(owner, list) else list(inspect.signature(owner).parameters)
    near = difflib.get_close_matches(option, options, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; its options are {', '.join(options)}"


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
