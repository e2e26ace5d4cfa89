"""Every file in configs parses and its trainer can be built, by discovery: none goes untested."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from explainers.cli import CLI, EvaluateCLI

# Those of papers are parsed by the commands that they name, see test_papers.
CONFIGS = sorted(path for path in Path("configs").rglob("*.yaml") if path.parts[1] != "papers")
BASE = {
    "methods": ["configs/explananda/shapes.yaml", "configs/data/shapes.yaml"],
    "explananda": ["configs/data/shapes.yaml"],
    "data": ["configs/explananda/shapes.yaml"],
}


class TrainerOnly:
    """A command line that stops after parsing and building the trainer with its callbacks."""

    def instantiate_classes(self):
        chosen = self.config[self.subcommand].clone()
        del chosen["model"], chosen["data"]  # they need weights and images
        parser = self._parser(self.subcommand)
        self.config_init = {self.subcommand: parser.instantiate_classes(chosen)}
        raise Built(self.instantiate_trainer())


class Built(Exception):
    """Everything was understood."""


class TrainOnly(TrainerOnly, CLI):
    pass


class EvaluateOnly(TrainerOnly, EvaluateCLI):
    pass


# A method's own file leaves the logger to trainer.yaml, and Lightning then recommends one.
pytestmark = pytest.mark.filterwarnings("ignore:.*tensorboardX.*:UserWarning")


def build(cli, command, files, tmp_path, monkeypatch, flags=()):
    """The trainer's callbacks by name; loggers make their folders in `tmp_path`."""
    words = [word for file in files for word in ("-c", str(Path(file).resolve()))]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Built) as built:
        cli([command, *words, *flags])
    return [type(callback).__name__ for callback in built.value.args[0].callbacks]


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_config_parses_and_its_trainer_is_built(path, tmp_path, monkeypatch):
    family, text = path.parts[1], path.read_text()
    own = yaml.safe_load(text)
    files = [str(path), *BASE.get(family, [])]
    if family in ("explananda", "data"):
        files.insert(0, "configs/methods/deeplab.yaml")
    if family in ("classifiers", "recipes") and "datamodules." not in text:
        files.append("configs/data/shapes.yaml")
    scoring = path.name.startswith(("evaluate", "compare"))
    if path.name.startswith(("evaluate", "compare", "trainer")):
        files = ["configs/methods/random.yaml", *BASE["methods"], *files]
    cli, command = (EvaluateOnly, "test") if scoring else (TrainOnly, "fit")
    built = build(cli, command, files, tmp_path, monkeypatch)
    for entry in own.get("trainer", {}).get("callbacks", []):
        assert entry["class_path"].rpartition(".")[2] in built
    assert ("Score" in built) == (command == "test" or "score.Score" in text)


DOWNLOADED = [
    path
    for path in CONFIGS
    if path.parts[1] == "explananda" and "pretrained: true" in path.read_text()
]


@pytest.mark.parametrize("path", DOWNLOADED, ids=str)
def test_a_downloaded_classifier_names_its_resizing_and_its_accuracy(path):
    arguments = yaml.safe_load(path.read_text())["model"]["init_args"]["explanandum"]["init_args"]
    assert 0.5 < arguments["expected_accuracy"] < 1
    own = timm.get_pretrained_cfg(arguments["model"])
    flags = dict(re.findall(r"--data\.init_args\.(\w+) (\S+)", path.read_text()))
    assert float(flags.get("crop_pct", 0.875)) == own.crop_pct
    assert flags.get("interpolation", "bilinear") == own.interpolation


def test_the_quickstart_also_evaluates(tmp_path, monkeypatch):
    files = ["configs/quickstart.yaml"]
    assert "Score" in build(EvaluateOnly, "test", files, tmp_path, monkeypatch)


def checkpoints(path):
    """Arguments of a config's ModelCheckpoints."""
    entries = yaml.safe_load(path.read_text()).get("trainer", {}).get("callbacks", [])
    return [e["init_args"] for e in entries if e["class_path"].endswith("ModelCheckpoint")]


@pytest.mark.parametrize("path", [path for path in CONFIGS if checkpoints(path)], ids=str)
def test_a_fit_can_be_resumed_from_every_epoch(path, tmp_path):
    # Lightning's save_last alone waits for the end, or for a better epoch.
    class Model(BoringModel):
        def validation_step(self, batch, batch_idx):
            self.log_dict({"val/loss": epoch(), "val/Faithfulness": -epoch()})  # ever worse

        def on_train_epoch_start(self):
            if self.current_epoch:
                kept = torch.load(tmp_path / "last.ckpt", weights_only=False)
                seen.append((self.current_epoch, kept["epoch"]))

    def epoch():
        return float(trainer.current_epoch)

    seen = []
    trainer = Trainer(
        max_epochs=3,
        limit_train_batches=1,
        limit_val_batches=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(**arguments | {"dirpath": tmp_path}) for arguments in checkpoints(path)
        ],
    )
    trainer.fit(Model())
    assert seen == [(1, 0), (2, 1)]


@pytest.mark.parametrize("path", sorted(Path("configs/slurm").iterdir()), ids=str)
def test_the_commands_of_a_slurm_job_parse(path, tmp_path, monkeypatch):
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    usage = re.search(rf"^# sbatch {path} (.*)$", text, re.MULTILINE)[1]
    script = re.search(r"^srun python ([^&]*)", text.replace("\\\n", ""), re.MULTILINE)[1]
    given = {"NTASKS_PER_NODE": "2", "NNODES": "1", "ARRAY_TASK_ID": "3"}
    script = script.replace("$PARTS", "8").replace("$OUT", "runs/parts")
    script = script.replace('"$@"', usage)
    program, command, *flags = shlex.split(re.sub(r"\$SLURM_(\w+)", lambda m: given[m[1]], script))
    cli = TrainOnly if program == "train.py" else EvaluateOnly
    places = [i for i, word in enumerate(flags) if word == "-c"]
    files = [flags[i + 1] for i in places]
    flags = [word for i, word in enumerate(flags) if i not in places and i - 1 not in places]
    assert "ModelCheckpoint" in build(cli, command, files, tmp_path, monkeypatch, flags) or (
        program == "evaluate.py"
    )
    out = flags[flags.index("--out") + 1]
    assert out.startswith("runs/")
