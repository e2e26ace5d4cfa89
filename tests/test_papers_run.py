"""Every table of the papers runs, with few steps, on two scenes of Shapes and a small network."""

import importlib
import inspect
from pathlib import Path

import pytest
import yaml
from PIL import Image

from explainers import configfiles
from explainers.cli import EvaluateCLI, main
from tests.test_papers import CASES, entries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*tensorboardX.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:the data have no .* left out"),  # the birds' parts
]
TABLES = {name: words for name, (_, program, _, words) in CASES.items() if program == "evaluate"}
FEW = {"steps": 4, "n_steps": 4, "masks": 20, "samples": 8, "pairs": 1, "draws": 2, "ig_steps": 2}
FEW |= {"pixels": 512, "points": 3, "stride": 30, "batch_size": 8}
NAMED = {"num_classes": 6, "class_names": ["cat", "dog", "person", "car", "bottle", "boat"]}
CNN = {"model": "test_resnet", "input_size": [64, 64], **NAMED}
SMALL = {"img_size": 64, "embed_dim": 24, "depth": 3, "num_heads": 2}
VIT = {"model": "vit_tiny_patch16_224", "model_args": SMALL, **NAMED}
SCENES = {"test_images": 2, "image_size": [64, 64], "num_workers": 0, "batch_size": 2}


def reduce(entry, bank):
    """Give a method or metric few steps, and pictures to replace pixels by."""
    module, _, name = entry["class_path"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    known = inspect.signature(kind).parameters
    own = entry.setdefault("init_args", {})
    for argument, value in getattr(kind, "quick", {}).items():
        old = own.get(argument)
        own[argument] = {**old, **value} if isinstance(old, dict) else value
    if "ms_ssim" in own:
        own["ms_ssim"] = False  # for larger images
    few = {} if "area" in own else FEW  # an area needs the points that lie in it
    for argument, most in few.items():
        value = own.get(argument, known[argument].default if argument in known else None)
        if isinstance(value, int) and not isinstance(value, bool):
            own[argument] = min(value, most)
    for group in (own, own.get("fill_options", {})):
        if "bank" in group:
            group["bank"] = str(bank)


def stand_in(words, bank, folder):
    """The configuration of a command, in small."""
    paths, flags = configfiles.split(words)
    given = configfiles.given(flags, ("model", "score"))
    merged = configfiles.merge(configfiles.load(paths), given)
    config = configfiles.settle(merged, [], "test")
    network = str(config["model"]["init_args"].get("explanandum"))
    scores = [config["score"]] if "metrics" in config.get("score", {}) else []
    callbacks = config["trainer"].get("callbacks") or []
    scores += [each["init_args"] for each in callbacks if each["class_path"].endswith("Score")]
    for score in scores:
        score["checkpoints"], score["sanity"], score["errors"] = {}, False, "raise"
        below = Path(score["output_dir"]).name if len(scores) > 1 else ""
        score["output_dir"] = str(folder / below)
    config["model"]["init_args"]["explanandum"] = {}
    for entry in entries({"model": config["model"], "scores": scores}):
        if entry["class_path"].startswith("explainers.m"):
            reduce(entry, bank)
    config["model"]["init_args"]["explanandum"] = {
        "class_path": "explainers.Explanandum",
        "init_args": VIT if "vit" in network else CNN,
    }
    config["data"] = {"class_path": "datamodules.shapes.Shapes", "init_args": SCENES}
    config["trainer"] = {"logger": False, "callbacks": callbacks, "accelerator": "cpu"}
    return config


@pytest.mark.parametrize("name", TABLES)
def test_a_table_runs_in_small(name, tmp_path, capsys):
    bank = tmp_path / "bank"
    bank.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), (90 * number, 80, 20)).save(bank / f"{number}.png")
    config = stand_in(TABLES[name], bank, tmp_path / "run")
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(config))
    status = main(
        EvaluateCLI, ["test", "-c", str(tmp_path / "table.yaml"), "--out", str(tmp_path / "run")]
    )
    assert status == 0, capsys.readouterr().err
    tables = list((tmp_path / "run").rglob("table.md"))
    assert tables
    published = config.get("score", {}).get("published")
    assert not published or "published: " in tables[0].read_text()
